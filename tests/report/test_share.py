"""The shared page: nothing of a real sample is on it."""

import base64
import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from siamdiff import storage
from siamdiff.data.sample import Foreign
from siamdiff.data.shardset import ShardSet
from siamdiff.data.transforms import apply
from siamdiff.report.page import write_report
from siamdiff.report.pictures import annotation, may_outline, may_show
from siamdiff.report.record import read_experiment
from siamdiff.report.redaction import redactor
from siamdiff.report.scope import Scope
from tests.report.experiments import key_of, write_experiment
from tests.tiny_model import RESOLUTION

SIMILAR = {
    "flip": {"left_right": True},
    "scale": {"factor": 0.9},
    "rotate": {"degrees": 33.0},
    "translate": {"x": 0.1, "y": 0.05},
}
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


@pytest.fixture(scope="module")
def redact(root: Path) -> Callable[[str], str]:
    return redactor(Scope.of(read_experiment(f"{root}/experiments/0"), share=True))


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


def test_outlines_are_of_bent_masks_alone(page: str):
    """Not of the parent's own, one that is only moved or mirrored, or one with lesions of another."""
    outlined = {alt.split()[2].rstrip(",") for alt in images(page) if "outlined" in alt}
    assert outlined == {key_of(4)}
    cyan = {
        alt.split()[2].rstrip(",")
        for alt, image in images(page).items()
        if (image == (0, 229, 255)).all(2).any()
    }
    assert cyan == outlined
    assert "The cyan line" in page and "were only moved" in page[page.index('id="left-out"') :]


def test_how_a_mask_was_moved_is_not_told(root: Path, page: str):
    """With a mask's outline, its move gives the mask that it was before."""
    assert "shifted" not in page and "mask moved" in page
    assert "shifted" in Path(write_report(f"{root}/experiments/0")).read_text()


@pytest.mark.parametrize(
    ("transform", "outlined"),
    [
        (SIMILAR | {"boundary": {"amplitude": 0.9, "spacing": 0.75, "seed": 1}}, True),
        (SIMILAR | {"elastic": {"amplitude": 0.72, "spacing": 1.5, "seed": 1}}, True),
        (SIMILAR, False),
        (SIMILAR | {"shear": {"degrees": 30.0}}, False),
        (SIMILAR | {"boundary": {"amplitude": 0.02, "spacing": 0.75, "seed": 1}}, False),
    ],
)
def test_a_mask_that_gives_its_parent_away_has_no_outline(
    root: Path, transform: dict[str, Any], outlined: bool
):
    rows, columns = np.mgrid[:96, :96]
    parent = np.where((rows - 45) ** 2 + 4 * (columns - 50) ** 2 < 600, 255, 0).astype(np.uint8)
    parent[30:45, 50:60] = 255
    made = apply(parent, transform)
    sample = ShardSet.open(f"{root}/synthetic/a").read(key_of(4))
    about = sample.meta.synthetic.model_copy(update={"transform": transform})
    sample = replace(sample, mask=made, meta=sample.meta.model_copy(update={"synthetic": about}))
    assert may_outline(sample, parent, frozenset()) == outlined
    assert not may_outline(sample, None, frozenset())
    # what its own record says is not believed: a real one, merely elsewhere
    assert not may_outline(replace(sample, mask=np.roll(parent[::-1], 7, 1)), parent, frozenset())


def test_limits_of_too_few_groups_measure_nothing(tmp_path: Path):
    """One patient: no distance between groups, so that the limits find equal images alone."""
    uri = write_experiment(tmp_path, groups=1)
    page = Path(write_report(uri, share=True)).read_text()
    assert "data:image" not in page
    assert "with too few groups for the limits" in page
    assert "this rate is no measurement" in page and "set: it is not known" in page
    assert "new real images" not in page


PLACES = [
    "/mnt/St Mary Jane Doe/base",
    "s3://clinic/jane doe/x",
    "/mnt/a,jane/doe",
    "uri:/mnt/jane/x",
    "uri=/mnt/jane",
    "file:///mnt/jane/x",
    "gs://mnt/jane",
    "~jane/x",
    "../jane/x",
    "/mnt/O'Brien/jane",
    "/mnt/Doe, Jane/base",
    "/mnt/St. Jane/base",
    "/mnt/jane doe",
    "(/mnt/jane)",
    "{'x': '/mnt/jane doe'}",
    "{real}-jane-doe/base",
    "{real} jane/base",
    "{real}, jane/base",
    "{real}/jane",
    "{real}.jane/x",
    "/jane{real}",
]


@pytest.mark.parametrize("place", PLACES)
def test_a_place_is_hidden_with_all_its_signs(root: Path, redact: Callable[[str], str], place: str):
    told = redact(f"odd is {place.replace('{real}', f'{root}/data')}; 3 left out")
    assert "jane" not in told.lower() and "doe" not in told.lower() and "mary" not in told.lower()
    assert "Brien" not in told and "mnt" not in told and str(root) not in told
    assert told.startswith("odd is ") and told.endswith("; 3 left out")


def test_sets_keep_their_names_and_words_stay(root: Path, redact: Callable[[str], str]):
    assert redact(f"{root}/data.") == "the real set."
    assert (
        redact(f"a: {root}/data has ('{root}/synthetic/a', odd)") == "a: the real set has ('synthetic', odd)"
    )
    for text in (
        "better / worse",
        "and/or",
        "https://creativecommons.org/licenses/by/4.0/",
        "1/2",
        "0.3333333333333333",
        "ab" * 32,
    ):
        assert redact(text) == text


@pytest.mark.parametrize(
    "around", ["{}.", "{}.png", "{}.mask.png", "{}-0", "{}_0", "of {}", "({})", "x{}", "{}x"]
)
def test_a_key_is_hidden_whatever_stands_beside_it(redact: Callable[[str], str], around: str):
    assert redact(around.format("0123456789abcdef")) == around.format("[left out]")
    assert redact(around.format(key_of(1))) == around.format(key_of(1))  # a synthetic one


def test_no_place_of_a_base_or_a_further_set_is_told(tmp_path: Path):
    """Names of people with blanks, in what a run is pinned to and in what a warning says of segment.real."""
    uri = write_experiment(tmp_path)
    pinned = {
        "model.base": "/mnt/St Mary Jane Doe",
        "model.parts": "s3://clinic/jane doe",
        "data.uri": "/x/y z",
    }
    storage.write_json(f"{tmp_path}/runs/a/pinned.json", pinned)
    metrics = storage.read_json(f"{tmp_path}/segmentation/0/metrics.json")
    metrics["sets"]["real"]["uri"] = "/mnt/another jane"
    metrics["warnings"] = ["no parent in /mnt/another jane: not known"]
    storage.write_json(f"{tmp_path}/segmentation/0/metrics.json", metrics)
    page = re.sub(r'"data:[^"]*"', "", Path(write_report(uri, share=True)).read_text())
    assert not re.search(r"jane|st mary|\bdoe\b|y z|/mnt", page.lower())
    assert "no parent in the real set: not known" in page


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
    whole = Path(write_report(uri, share=True)).read_text()
    page = re.sub(r'"data:[^"]*"', "", whole)
    assert [key for key in keys if key in page] == []
    assert "outlined" not in "".join(images(whole)) and "No mask is outlined: " in page
    assert str(tmp_path) not in page


def test_a_mask_is_known_in_all_its_positions():
    mask = np.zeros((8, 8), np.uint8)
    mask[1:3, 2:7] = 255
    assert annotation(mask) == annotation(np.rot90(mask)) == annotation(mask[::-1]) == annotation(mask.T)
    assert annotation(mask) != annotation(np.roll(mask, 1, 0))
