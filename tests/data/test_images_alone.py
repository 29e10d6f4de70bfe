"""Folders of images without masks, as other methods leave them: which are taken for such, which are not."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamdiff.data.pairing import scan, scan_images
from siamdiff.data.raw import encode, examine, make_plan
from siamdiff.data.sample import Foreign
from siamdiff.errors import UserError
from siamdiff.sections import Data

GENERATED = Foreign(method="other", has_mask=False)


def write(folder: Path, *paths: str) -> str:
    for number, path in enumerate(paths):
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 12, 3), number, np.uint8)).save(file)
    return str(folder)


@pytest.mark.parametrize("inside", ["", "images/", "image/"])
def test_images_alone_are_found(tmp_path: Path, inside: str) -> None:
    folder = write(tmp_path, f"{inside}b.png", f"{inside}a.jpg")
    (tmp_path / "README.txt").write_text("how they were made")
    source = scan_images(folder)
    assert source is not None
    assert [(pair.image, pair.mask) for pair in source.pairs] == [
        (f"{inside}a.jpg", ""),
        (f"{inside}b.png", ""),
    ]
    assert [len(source.fingerprint), len(source.versions)] == [2, 2]


@pytest.mark.parametrize(
    "paths",
    [
        ("images/a.png", "masks/a.png"),
        ("images/a.png", "msk/a.png"),
        ("a.png", "images/a.png"),
        ("train/a.png",),
        ("ISIC_0000001.jpg", "ISIC_0000001_segmentation.png"),
    ],
    ids=["pairs", "misspelt masks", "two folders", "another folder", "ISIC"],
)
def test_where_masks_may_be_meant_nothing_is_taken_for_images_alone(
    tmp_path: Path, paths: tuple[str, ...]
) -> None:
    assert scan_images(write(tmp_path, *paths)) is None


def test_they_become_samples_with_an_empty_mask_that_say_so(tmp_path: Path) -> None:
    folder = write(tmp_path, "a.png", "b.png")
    source = scan_images(folder)
    assert source is not None
    data = Data(source=folder, resolution=16, allow_empty=True, split={"train": 1.0})
    plan = make_plan(source.pairs, [examine(folder, pair, data) for pair in source.pairs], data)
    (planned,) = plan.shards.values()
    sample = encode(folder, planned[0], data, GENERATED).decode()
    assert sample.meta.synthetic == GENERATED
    assert sample.image.shape == (16, 16, 3) and not sample.mask.any()


def test_a_real_source_needs_its_masks(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="masks/"):
        scan(Data(source=write(tmp_path, "images/a.png")))
