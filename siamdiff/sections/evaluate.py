"""Evaluation, and the names of the sets that it compares."""

import re
from collections import Counter
from typing import Any

from pydantic import Field, field_validator

from siamdiff.sections.common import Section

SYNTHETIC = "synthetic"  # name of a synthetic set that is given without one
NEWEST = "latest"  # in place of its URI: the set that generate finished last
_SET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+-]*")


class Evaluate(Section):
    """Real and synthetic sets side by side."""

    real: str | None = Field(default=None, description="real shard set [data.uri]")
    synthetic: dict[str, str] | None = Field(
        default=None,
        description="synthetic sets: a URI, or NAME=URI for each of several; shards, a folder of another method's "
        "images, or 'latest' [latest: the newest under ROOT/synthetic]",
    )
    output: str | None = Field(default=None, description="where metrics and sheets go [ROOT/evaluation/NAME]")
    agreement_steps: int = Field(
        default=300, ge=1, description="training steps of the segmenter that finds the masks again"
    )
    seed: int = Field(default=0, ge=0, description="seed of the segmenter and of the choice of shown pairs")

    @field_validator("synthetic", mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        match given:
            case str():
                return _named_sets([given])
            case list():
                return _named_sets(given)
            case dict():
                return _checked_names(list(given.items()))
        return given


def _named_sets(given: list[Any]) -> dict[str, str]:
    """{name: URI} of texts NAME=URI, as the command line gives them, or of a single URI."""
    pairs = []
    for text in given:
        name, is_named, uri = str(text).partition("=")
        if is_named and _SET_NAME.fullmatch(name):
            pairs.append((name, uri))
        elif len(given) == 1:
            pairs.append((SYNTHETIC, str(text)))
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
