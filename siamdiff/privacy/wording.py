"""Texts that do not belong into a set: names of people and files, dates, numbers, addresses, unique identifiers."""

import re
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


def kinds_in(text: str, patterns: dict[str, re.Pattern[str]], names: Collection[str]) -> set[str]:
    """What of all this a text holds.

    Args:
        text: any.
        patterns: EVERYWHERE, or OF_SAMPLES.
        names: of the sources, in lower case (`names_of`).
    """
    plain = _HEX.sub(" ", text)
    kinds = {kind for kind, pattern in patterns.items() if pattern.search(plain)}
    if "date" in kinds and not re.search(r"\d{9,}", plain):
        kinds.discard("long number")  # told once
    if names and any(token in names for token in _tokens(text)):
        kinds.add(SOURCE_NAME)
    return kinds


def _tokens(text: str) -> Iterator[str]:
    for found in _TOKEN.finditer(text.lower()):
        token = found[0]
        yield token
        yield token.strip(".-_")
        yield token.rpartition(".")[0]


def names_of(path: str) -> set[str]:
    """The names by which a source file would be known: with and without its ending, in lower case."""
    name = path.rpartition("/")[2].lower()
    return {part for part in (name, name.rpartition(".")[0]) if is_telling(part)}


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
