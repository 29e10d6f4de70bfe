"""Texts that do not belong into a set: names of people and files, dates, numbers, addresses, unique identifiers."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterator
from typing import Any

MIN_NAME = 4  # letters of a source's name that is looked for: shorter ones are in any text
# Keys and digests, in which digits may run long.
_HEX = re.compile(r"(?<![0-9A-Za-z])(?=\d*[a-f])(?:[0-9a-f]{16}|[0-9a-f]{64})(?![0-9A-Za-z])")
_TOKEN = re.compile(r"[\w.^@-]+")
_DATE = r"(?<!\d)(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?!\d)"
_WRITTEN_DATE = (
    r"(?<!\d)(?:(?:19|20)\d\d([-./])(?:0?[1-9]|1[0-2])\1(?:0?[1-9]|[12]\d|3[01])"
    r"|(?:0?[1-9]|[12]\d|3[01])([-./])(?:0?[1-9]|1[0-2])\2(?:19|20)\d\d)(?!\d)"
)
# where a description of the set has them too: only what no description needs
EVERYWHERE = {
    "e-mail address": re.compile(r"[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,64})+"),
    "DICOM identifier": re.compile(r"(?<![\d.])1\.[23]\.\d+(?:\.\d+){3,}(?![\d.])"),
    "name as in DICOM": re.compile(r"\b[A-Za-z]{2,}\^[A-Za-z]+"),
    "person's folder": re.compile(r"/(?:home|Users)/(?!runner\b|user\b|ubuntu\b)[\w.-]+"),
}
OF_SAMPLES = EVERYWHERE | {
    "file name": re.compile(
        r"(?<![\w-])[\w-]{1,128}\.(?:dcm|jpe?g|png|tiff?|bmp|gif|webp|nii|avi|mp4)\b", re.I
    ),
    "date": re.compile(f"{_DATE}|{_WRITTEN_DATE}"),
    "long number": re.compile(r"\d{6,}"),
}
SOURCE_NAME = "name of a source file or group"
_START = re.compile(r"(?<![^\W_])\S")  # of what is no part of a longer word
_GOES_ON = re.compile(r"[^\W_]")


class SourceNames:
    """Names of source files and groups, to be found in texts but not as a part of a longer name.

    There may be as many as there are images, and as many texts: no name is looked for by itself.

    Args:
        names: of MIN_NAME letters or more, as `names_of` and `group_name` give them.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._tokens = frozenset(name for name in names if _TOKEN.fullmatch(name))
        self._others = frozenset(names) - self._tokens  # of several words, or with signs
        self._sizes: dict[str, set[int]] = defaultdict(set)  # first letters of these -> lengths
        for name in self._others:
            self._sizes[name[:MIN_NAME]].add(len(name))

    def is_in(self, text: str) -> bool:
        """Whether a text has one of the names, in whichever case."""
        plain = _plain(text)
        return any(token in self._tokens for token in _tokens(plain)) or self._has_other(plain)

    def _has_other(self, text: str) -> bool:
        if not self._others:
            return False
        for found in _START.finditer(text):
            at = found.start()
            for size in self._sizes.get(text[at : at + MIN_NAME], ()):
                name = text[at : at + size]
                if name in self._others and not (name[-1].isalnum() and _GOES_ON.match(text, at + size)):
                    return True
        return False


def kinds_in(text: str, patterns: dict[str, re.Pattern[str]], names: SourceNames | None) -> set[str]:
    """What of all this a text holds.

    Args:
        text: any.
        patterns: EVERYWHERE, or OF_SAMPLES.
        names: of the sources; None: not known.
    """
    plain = _HEX.sub(" ", text)
    kinds = {kind for kind, pattern in patterns.items() if pattern.search(plain)}
    if "date" in kinds and not re.search(r"\d{9,}", plain):
        kinds.discard("long number")  # told once
    if names and names.is_in(text):
        kinds.add(SOURCE_NAME)
    return kinds


def _tokens(text: str) -> Iterator[str]:
    for found in _TOKEN.finditer(text):
        token = found[0]
        yield token
        yield token.strip(".-_")
        yield token.rpartition(".")[0]


def _plain(text: str) -> str:
    """In lower case, with accents in the one form that letters have: file systems differ in it."""
    return unicodedata.normalize("NFC", text).lower()


def names_of(path: str) -> set[str]:
    """The names by which a source file would be known: with and without its ending, in lower case."""
    name = group_name(path.rpartition("/")[2])
    return {part for part in (name, name.rpartition(".")[0].rstrip()) if is_telling(part)}


def group_name(group: str) -> str:
    """A group's name as it is looked for."""
    return _plain(group).strip()


def is_telling(name: str) -> bool:
    """Whether a name can be looked for: not one that every set has."""
    return len(name) >= MIN_NAME and name not in {
        "train",
        "test",
        "image",
        "images",
        "mask",
        "masks",
        "valid",
    }


def strings(values: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text among plain values with the names that lead to it; names are texts too."""
    if isinstance(values, str):
        yield path, values
    elif isinstance(values, dict):
        for name, value in values.items():
            yield path, name
            yield from strings(value, f"{path}.{name}" if path else name)
    elif isinstance(values, list):
        for value in values:
            yield from strings(value, path)
