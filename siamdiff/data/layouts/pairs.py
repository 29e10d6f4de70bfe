"""What a layout finds in a raw source: pairs of an image and its mask, and what has no partner."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, field, replace
from typing import Any

from pydantic.dataclasses import dataclass  # pairs travel as JSON: lists become tuples again

from siamdiff.sections import MAX_TEXT

EXTENSIONS = ("png", "jpg", "jpeg", "tif", "tiff", "bmp")
Files = Mapping[str, int]  # what a source lists: path relative to its folder -> bytes

_SPLITS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
_PREFIX = re.compile(rf"({'|'.join(sorted(_SPLITS, key=len, reverse=True))})[_-]", re.IGNORECASE)


@dataclass(frozen=True)
class Labels:
    """What the numbers of a label map mean; background is 0."""

    lesion: tuple[int, ...]
    known: tuple[int, ...]  # all that may occur, background and ignored included
    ignored: int | None = None  # of pixels that nobody annotated


@dataclass(frozen=True)
class Pair:
    """An image and its mask, by their paths relative to the source's folder; a phantom is an index instead."""

    image: str
    mask: str  # "": none, of another method's image
    prompt: str | None = None  # None: `data.prompt`
    split: str | None = None  # that the layout names
    group: str | None = None  # of `data.groups`
    phantom: int | None = None
    subset: str | None = None  # which of the source's named sets it belongs to
    planes: tuple[str, ...] = ()  # green and blue, where `image` holds only red
    labels: Labels | None = None  # None: how the mask is coded is found out

    def files(self) -> list[str]:
        """The files it is made from."""
        if self.phantom is not None:
            return []
        return [path for path in (self.image, *self.planes, self.mask) if path]


@dataclass(frozen=True)
class Rejected:
    """What is left out, and why: `reason` is one of a few, `detail` says more about this one."""

    files: list[str]
    reason: str
    detail: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The line of private/rejected.jsonl."""
        return asdict(self)


@dataclass(frozen=True)
class Found:
    """What a layout finds. `read`: contents it was decided by, beside the names and sizes of the pairs' files."""

    pairs: list[Pair]
    rejected: list[Rejected]
    read: list[Any] = field(default_factory=list)


def extension(path: str) -> str:
    """Of a path, in lower case and without the dot."""
    return path.rpartition(".")[2].lower()


def json_lines(content: bytes) -> list[tuple[int, str]]:
    """The lines of a file of JSON lines that are not empty, with their numbers from 1.

    They end at line feeds alone: `str.splitlines` would end them at characters that texts in JSON may hold.

    Raises:
        UnicodeDecodeError: not UTF-8; a mark at its beginning, as Windows writes one, is left out.
    """
    lines = content.decode("utf-8-sig").split("\n")
    return [(number, line) for number, line in enumerate(lines, 1) if line.strip()]


def is_image(path: str) -> bool:
    """Whether a path is that of an image or a mask; hidden files are not."""
    return extension(path) in EXTENSIONS and not path.rpartition("/")[2].startswith(".")


def split_of(path: str) -> str | None:
    """The split that a path names: a folder train, val, validation, test ..., or such a prefix before _ or -."""
    *folders, name = path.split("/")
    for folder in reversed(folders):
        if folder.lower() in _SPLITS:
            return _SPLITS[folder.lower()]
    match = _PREFIX.match(name)
    return _SPLITS[match[1].lower()] if match else None


def split_in_folders(path: str) -> str | None:
    """The split that is a word in the name of a folder: ISIC2018_Task1-2_Validation_Input is of `val`."""
    for folder in reversed(path.split("/")[:-1]):
        for word in re.split(r"[^a-z]+", folder.lower()):
            if word in _SPLITS:
                return _SPLITS[word]
    return None


def match(
    images: Mapping[Any, Sequence[str]], masks: Mapping[Any, Sequence[str]]
) -> tuple[list[tuple[str, str]], list[Rejected]]:
    """Images and masks of one name as pairs of paths; names with none or several of either are rejected."""
    pairs, rejected = [], []
    for name in sorted(images.keys() | masks.keys()):
        of_image, of_mask = list(images.get(name, ())), list(masks.get(name, ()))
        if len(of_image) == len(of_mask) == 1:
            pairs.append((of_image[0], of_mask[0]))
        elif len(of_image) > 1 or len(of_mask) > 1:
            rejected.append(Rejected(of_image + of_mask, "several files of one name"))
        else:
            missing = "image without mask" if of_image else "mask without image"
            rejected.append(Rejected(of_image + of_mask, missing))
    return pairs, rejected


def unless_all_train(pairs: Iterable[Pair]) -> list[Pair]:
    """The pairs as they are; without a split where all are of `train`: then `data.split` deals them.

    A source of which only the training part is there would else have nothing to validate and test on.
    """
    pairs = list(pairs)
    if {pair.split for pair in pairs} == {"train"}:
        return [replace(pair, split=None) for pair in pairs]
    return pairs


def too_long(prompt: str | None, where: str) -> Rejected | None:
    """The rejection of a line whose prompt no sample may hold."""
    if prompt is None or len(prompt) <= MAX_TEXT:
        return None
    return Rejected([where], "prompt is too long", f"{len(prompt)} characters, at most {MAX_TEXT}")


def relative(path: str) -> str | None:
    """`path` without "." parts; None when it is absolute or leaves its folder."""
    parts = [part for part in path.replace("\\", "/").split("/") if part != "."]
    if "" in parts or ".." in parts or path.startswith("/"):
        return None
    return "/".join(parts)
