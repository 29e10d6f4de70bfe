"""Previews: the same questions each time, a strip that resuming continues, a distance that falls to its floor."""

import io
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from siamdiff import storage
from siamdiff.config import Config
from siamdiff.data.shardset import ShardSet
from siamdiff.evaluation.distances import mmd_linear
from siamdiff.evaluation.features import EfficientNetLite0
from siamdiff.training.context import Context, SingleProcess
from siamdiff.training.encoders import FrozenEncoders
from siamdiff.training.previews import COUNT, DISTANCE, FLOOR, Previews, distance_sets
from tests.tiny_model import RESOLUTION, write_base, write_masks
from tests.training.test_validation import base_at, model_of
from tests.training.workers import on_workers


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set with nine samples in train and nine in val, and a base of random weights."""
    folder = tmp_path_factory.mktemp("root")
    write_masks(str(folder / "data"), 9, splits=("train", "val"))
    write_base(folder / "base")
    return folder


def configured(root: Path, run: str, preview_samples: int = 6) -> Config:
    return Config.model_validate(
        {
            "root": str(root),
            "model": {"base": str(root / "base"), "hint_channels": (4, 4, 8, 8, 16)},
            "data": {"resolution": RESOLUTION, "uri": str(root / "data")},
            "train": {"run": run, "preview_samples": preview_samples},
            "generate": {"steps": 2, "guidance": 2.0},
        }
    ).resolve()


def previews(config: Config, context: Context | None = None) -> Previews:
    assert config.data.uri
    context = context or SingleProcess(torch.device("cpu"))
    encoders = FrozenEncoders(base_at(config.model.base), context.device)
    return Previews(config, ShardSet.open(config.data.uri), encoders, context)


def names(config: Config) -> list[str]:
    return sorted(storage.list_files(f"{config.run_uri()}/previews"))


@pytest.fixture(scope="module")
def drawn(root: Path) -> tuple[Config, dict[str, float]]:
    """What one process draws."""
    config = configured(root, "drawn")
    return config, previews(config).draw(model_of(config), 5)


def test_a_sheet_shows_real_images_their_masks_and_samples(drawn: tuple[Config, dict[str, float]]) -> None:
    config, _ = drawn
    assert names(config) == ["step-00000005.png", "strip.png"]
    sheet = picture(config.run_uri(), "step-00000005.png")
    assert sheet.shape == (3 * RESOLUTION, COUNT * RESOLUTION, 3)
    assert config.data.uri
    shard_set = ShardSet.open(config.data.uri)
    first = shard_set.read(shard_set.keys("val")[0])
    assert (sheet[:RESOLUTION, :RESOLUTION] == first.image).all()
    assert (sheet[RESOLUTION : 2 * RESOLUTION, :RESOLUTION, 0] == first.mask).all()


def test_any_number_of_workers_draws_the_same(root: Path, drawn: tuple[Config, dict[str, float]]) -> None:
    one, figures = drawn
    config = configured(root, "three")
    models = [model_of(config) for _ in range(3)]
    found = on_workers(3, lambda worker: previews(config, worker).draw(models[worker.rank], 5))
    assert found == [figures] * 3
    for name in names(one):
        assert (picture(one.run_uri(), name) == picture(config.run_uri(), name)).all()


def test_the_distance_is_that_of_the_samples_and_its_floor_that_of_their_real_images(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = configured(root, "distance", preview_samples=4)
    with caplog.at_level(logging.INFO):
        figures = previews(config).draw(model_of(config), 5)
    assert set(figures) == {DISTANCE, FLOOR}
    assert config.data.uri
    shard_set, network = ShardSet.open(config.data.uri), EfficientNetLite0()
    of_masks, others = distance_sets(shard_set.keys("val") + shard_set.keys("train"), 4)
    real, reference = (
        network(np.stack([shard_set.read(k).image for k in keys])) for keys in (of_masks, others)
    )
    sheet = picture(config.run_uri(), "step-00000005.png")
    samples = np.stack(np.split(sheet[2 * RESOLUTION :], COUNT, axis=1))
    assert figures[DISTANCE] == pytest.approx(mmd_linear(network(samples), reference), rel=1e-5)
    assert figures[FLOOR] == pytest.approx(mmd_linear(real, reference), rel=1e-5)
    assert f"{DISTANCE} {figures[FLOOR]:.4f}" in caplog.text


def test_none_of_it_is_reckoned_where_it_is_switched_off(root: Path) -> None:
    config = configured(root, "off", preview_samples=0)
    assert previews(config).draw(model_of(config), 5) == {}
    assert names(config) == ["step-00000005.png", "strip.png"]


def test_the_distance_takes_disjoint_halves_of_a_small_set() -> None:
    keys = list("abcdefgh")
    assert distance_sets(keys, 2) == (["a", "b"], ["c", "d"])
    assert distance_sets(keys, 32) == (["a", "b", "c", "d"], ["e", "f", "g", "h"])
    assert distance_sets(keys[:3], 32) == ([], [])  # one on each side tells nothing
    assert distance_sets(keys, 0) == ([], [])


def picture(run_uri: str, name: str) -> np.ndarray:
    with Image.open(io.BytesIO(storage.read_bytes(f"{run_uri}/previews/{name}"))) as image:
        return np.asarray(image)
