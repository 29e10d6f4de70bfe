"""Layouts told by the names of folders: images beside masks, and PraNet's TrainDataset and TestDataset of these.

Two files are a pair when their paths are the same once the folder's name and the extension are taken off, so
`images/train/a.jpg` belongs to `masks/train/a.png`, and `train/images/a.jpg` to `train/masks/a.png`.
"""

from collections import defaultdict

from siamdiff.data.layouts.pairs import Files, Found, Pair, is_image, match, split_of, unless_all_train
from siamdiff.errors import UserError
from siamdiff.sections import Data

KINDS = {"images": "images", "image": "images", "masks": "masks", "mask": "masks"}
TRAIN, TEST = "TrainDataset", "TestDataset"

Stems = dict[str, list[str]]


def fits(files: Files) -> bool:
    """Whether there are image(s)/ and mask(s)/, and these not in PraNet's folders."""
    return all(_by_stem(files)) and not fits_pranet(files)


def fits_pranet(files: Files) -> bool:
    """Whether there are image(s)/ and mask(s)/ in TrainDataset/ or TestDataset/."""
    return all(_by_stem([path for path in files if _is_pranet(path)]))


def find(source: str, files: Files, data: Data) -> Found:
    """The pairs of images/ and masks/, with the splits that paths name.

    Raises:
        UserError: no image, or no mask.
    """
    images, masks = _by_stem(files)
    if not images or not masks:
        raise UserError(
            f"data.source {source} has {len(images)} files in images/ and {len(masks)} in masks/; "
            "both must hold some, with the same names"
        )
    pairs, rejected = match(images, masks)
    return Found([Pair(image, mask, split=split_of(_stem(image))) for image, mask in pairs], rejected)


def find_pranet(source: str, files: Files, data: Data) -> Found:
    """The pairs of TrainDataset, and those of every set in TestDataset with its name.

    Raises:
        UserError: no image, or no mask.
    """
    found = find(source, {path: files[path] for path in files if _is_pranet(path)}, data)
    return Found(unless_all_train(_in_pranet(pair) for pair in found.pairs), found.rejected)


def _in_pranet(pair: Pair) -> Pair:
    folders = pair.image.split("/")[:-1]
    if TRAIN in folders:
        return Pair(pair.image, pair.mask, split="train")
    last = len(folders) - folders[::-1].index(TEST)  # archives unpacked by some tools repeat the folder
    names = [folder for folder in folders[last:] if folder not in KINDS]
    return Pair(pair.image, pair.mask, split="test", subset="/".join(names) or None)


def _is_pranet(path: str) -> bool:
    return not {TRAIN, TEST}.isdisjoint(path.split("/")[:-1])


def _by_stem(files: Files | list[str]) -> tuple[Stems, Stems]:
    """Paths of images and of masks by what makes them a pair."""
    found: dict[str, Stems] = {"images": defaultdict(list), "masks": defaultdict(list)}
    for path in files:
        kinds = [KINDS[part] for part in path.split("/")[:-1] if part in KINDS]
        if len(kinds) == 1 and is_image(path):
            found[kinds[0]][_stem(path)].append(path)
    return found["images"], found["masks"]


def _stem(path: str) -> str:
    *folders, name = path.split("/")
    return "/".join([*(folder for folder in folders if folder not in KINDS), name.rpartition(".")[0]])
