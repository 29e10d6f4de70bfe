"""The shared page: nothing of a real sample is on it."""

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamdiff import storage
from siamdiff.data.sample import Foreign
from siamdiff.data.shardset import ShardSet
from siamdiff.report.page import write_report
from siamdiff.report.pictures import annotation, may_show
from tests.report.experiments import key_of, write_experiment
from tests.tiny_model import RESOLUTION

FIGURE = re.compile(r'<img src="data:image/webp;base64,([^"]+)"[^>]*alt="([^"]*)"')
SAME = 0.3  # share of equal pixels, which two images of different scenes do not have


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("share")
    write_experiment(folder)
    return folder


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return Path(write_report(f"{root}/experiments/0", share=True)).read_text()


def images(page: str) -> dict[str, np.ndarray]:
    """Alternative text -> the image as it is shown, uint8 (H, W, 3)."""
    found = {}
    for data, alt in FIGURE.findall(page):
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            found[alt] = np.asarray(image.convert("RGB"))
    return found


def likeness(image: np.ndarray, real: list[np.ndarray]) -> float:
    """Largest share of pixels that it has in common with a real image, in any of the 8 positions."""
    step = len(image) // RESOLUTION  # that it was enlarged by
    image = image[step // 2 :: step, step // 2 :: step]
    turned = [np.rot90(of, times) for of in (image, image[:, ::-1]) for times in range(4)]
    return max(float((of == another).all(2).mean()) for another in real for of in turned)


def test_no_image_is_a_real_one(root: Path, page: str):
    shards = ShardSet.open(f"{root}/data")
    real = [shards.read(key).image for key in shards.keys()]  # noqa: SIM118
    shown = images(page)
    assert len(shown) == 6  # of 8: one is a copy, one of copy-paste
    assert {alt: likeness(image, real) for alt, image in shown.items() if likeness(image, real) > SAME} == {}
    whole = images(Path(write_report(f"{root}/experiments/0")).read_text())
    assert max(likeness(image, real) for image in whole.values()) > SAME  # so this can be seen
    assert page.count("data:image") == len(FIGURE.findall(page))


def test_no_key_and_no_place_is_told(root: Path, page: str):
    texts = re.sub(r'"data:[^"]*"', "", page)
    keys = ShardSet.open(f"{root}/data").keys()
    assert [key for key in keys if key in texts] == []
    assert str(root) not in texts and "/raw/" not in texts
    assert "[left out] of the real set is odd; left out of [left out]: 1" in texts
    assert key_of(0) not in texts and key_of(7) not in texts


def test_what_was_left_out_is_said(page: str):
    said = page[page.index('id="left-out"') :]
    assert "it is a copy of a training image" in said
    assert "made with real images (copy-paste, or guide mask+image)" in said
    assert "masks drawn on them" in said
    assert "nearest to each other" in said
    assert "nearest real" not in page


def test_outlines_are_of_moved_masks_alone(page: str):
    """Not of the parent's own, one that is only mirrored, or one with lesions of another."""
    outlined = {alt.split()[2].rstrip(",") for alt in images(page) if "outlined" in alt}
    assert outlined == {key_of(4), key_of(5)}
    cyan = {
        alt.split()[2].rstrip(",")
        for alt, image in images(page).items()
        if (image == (0, 229, 255)).all(2).any()
    }
    assert cyan == outlined


def test_images_of_unknown_nearness_are_not_shown(root: Path):
    shards = ShardSet.open(f"{root}/synthetic/a")
    sample = shards.read(key_of(1))
    assert may_show(sample, set()) == ""
    assert "not measured" in may_show(sample, None)
    of_another = sample.meta.model_copy(update={"synthetic": Foreign(method="another", has_mask=True)})
    assert "not known" in may_show(replace(sample, meta=of_another), set())
    guided = sample.meta.synthetic.model_copy(update={"sampler": {"guide": "mask+image"}})
    assert "with real images" in may_show(
        replace(sample, meta=sample.meta.model_copy(update={"synthetic": guided})), set()
    )


def test_what_cannot_be_compared_is_not_shown(tmp_path: Path):
    """Copies of another training set, and outlines of another mask set, are not known."""
    page = Path(write_report(write_experiment(tmp_path / "a", trained_on="ef" * 32), share=True)).read_text()
    assert "data:image" not in page
    page = Path(write_report(write_experiment(tmp_path / "b", masks="ef" * 32), share=True)).read_text()
    assert len(images(page)) == 6 and "outlined" not in "".join(images(page))


def test_keys_are_hidden_when_their_set_is_gone(tmp_path: Path):
    uri = write_experiment(tmp_path)
    keys = ShardSet.open(f"{tmp_path}/data").keys()
    storage.delete_folder(f"{tmp_path}/data")
    page = re.sub(r'"data:[^"]*"', "", Path(write_report(uri, share=True)).read_text())
    assert [key for key in keys if key in page] == []
    assert "outlined" not in page and str(tmp_path) not in page


def test_a_mask_is_known_in_all_its_positions():
    mask = np.zeros((8, 8), np.uint8)
    mask[1:3, 2:7] = 255
    assert annotation(mask) == annotation(np.rot90(mask)) == annotation(mask[::-1]) == annotation(mask.T)
    assert annotation(mask) != annotation(np.roll(mask, 1, 0))
