"""Sets under the names that a user gives them: one URI, or NAME=URI for each of several."""

import re
from collections import Counter
from typing import Any

NEWEST = "latest"  # in place of a synthetic set's URI: the set that generate finished last
_SET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+-]*")


def named_sets(given: Any, alone: str) -> Any:
    """{name: URI} of what the file or the command line gives; anything else as it is.

    Args:
        given: a text, a list of texts NAME=URI, or a mapping.
        alone: name of a single set that is given without one.

    Raises:
        ValueError: a set without a name or URI, or two of one name.
    """
    match given:
        case str():
            return _from_texts([given], alone)
        case list():
            return _from_texts(given, alone)
        case dict():
            return _checked_names(list(given.items()))
    return given


def _from_texts(given: list[Any], alone: str) -> dict[str, str]:
    pairs = []
    for text in given:
        name, is_named, uri = str(text).partition("=")
        if is_named and _SET_NAME.fullmatch(name):
            pairs.append((name, uri))
        elif len(given) == 1:
            pairs.append((alone, str(text)))
        else:
            raise ValueError(f"{text!r} has no name; give each of several sets as NAME=URI")
    return _checked_names(pairs)


def _checked_names(pairs: list[tuple[Any, Any]]) -> dict[str, str]:
    files = Counter(set_file(str(name)).lower() for name, _ in pairs)
    for name, uri in pairs:
        if not _SET_NAME.fullmatch(str(name)):
            raise ValueError(
                f"{name!r} cannot name a set; letters, digits, space and . _ + - are allowed, a letter or digit first"
            )
        if not isinstance(uri, str) or not uri:
            raise ValueError(f"the set {name!r} has no URI; give NAME=URI")
        if files[set_file(name).lower()] > 1:
            raise ValueError(f"{name!r} is the name of several sets, small and capital letters taken as one")
    return dict(pairs)


def set_file(name: str) -> str:
    """The name of a set as a part of file names."""
    return name.replace(" ", "_")
