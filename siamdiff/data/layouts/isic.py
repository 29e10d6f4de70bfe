"""Task 1 of the ISIC challenges: `ISIC_*.jpg` and `ISIC_*_segmentation.png`, in one folder or several of any name.

The archives of the challenges unpack to ISBI2016_ISIC_Part1_Training_Data and _Training_GroundTruth,
ISIC-2017_Training_Data and _Training_Part1_GroundTruth, ISIC2018_Task1-2_Training_Input and
ISIC2018_Task1_Training_GroundTruth, and the same with Validation and Test (https://challenge.isic-archive.com/data).
Superpixels, attribute masks and tables that lie beside them are not looked at.
"""

import re
from collections import defaultdict

from siamdiff.data.layouts.pairs import (
    Files,
    Found,
    Pair,
    Rejected,
    is_image,
    match,
    split_in_folders,
    unless_all_train,
)
from siamdiff.sections import Data

_NAME = re.compile(r"(ISIC_\d+)(_segmentation)?\.\w+", re.IGNORECASE)
_YEAR = re.compile(r"(?:ISIC|ISBI)[-_]?(20\d\d)(?!\d)", re.IGNORECASE)

ById = dict[str, list[str]]


def fits(files: Files) -> bool:
    """Whether there are images and masks under ISIC's names."""
    return all(_by_id(files))


def find(source: str, files: Files, data: Data) -> Found:
    """The pairs of one id, with the split that a folder names and the challenge's year as subset.

    An id that occurs several times (the challenges share images) belongs together within one challenge and split.
    """
    images, masks = _by_id(files)
    paths: list[tuple[str, str]] = []
    rejected: list[Rejected] = []
    for name in sorted(images.keys() | masks.keys()):
        of_image, of_mask = images.get(name, []), masks.get(name, [])
        if len(of_image) <= 1 and len(of_mask) <= 1:
            found = match({name: of_image}, {name: of_mask})
        else:
            found = match(_by_part(of_image), _by_part(of_mask))
        paths += found[0]
        rejected += found[1]
    pairs = [
        Pair(image, mask, split=split_in_folders(image) or split_in_folders(mask), subset=_challenge(image))
        for image, mask in paths
    ]
    return Found(unless_all_train(pairs), rejected)


def _by_id(files: Files) -> tuple[ById, ById]:
    images, masks = defaultdict(list), defaultdict(list)
    for path in files:
        name = _NAME.fullmatch(path.rpartition("/")[2])
        if name and is_image(path):
            (masks if name[2] else images)[name[1].upper()].append(path)
    return images, masks


def _by_part(paths: list[str]) -> dict[tuple[str, str], list[str]]:
    parts = defaultdict(list)
    for path in paths:
        parts[_challenge(path) or "", split_in_folders(path) or ""].append(path)
    return parts


def _challenge(path: str) -> str | None:
    years = _YEAR.findall(path.rpartition("/")[0])
    return f"ISIC{years[-1]}" if years else None
