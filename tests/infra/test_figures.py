"""The figures of a set without a cluster: pairs of parents, actors called as Ray calls them, the paper's protocol."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infra.embed import FeatureActor
from infra.evaluate import evaluate
from infra.figures import figures_of
from infra.measure import Measured
from infra.pairs import Pairs, different_pairs, parent_pairs
from siamdiff import storage
from siamdiff.data.phantom import render_phantom
from siamdiff.data.sample import Synthetic, make_sample
from siamdiff.data.shards import shard_name, write_shard
from siamdiff.data.shardset import ShardSet
from siamdiff.errors import UserError
from siamdiff.evaluation.copies import from_rows, small_pixels, unit
from siamdiff.evaluation.extractors import EFFICIENTNET_EXTRACTOR, Extractor, find
from siamdiff.evaluation.features import EfficientNetLite0
from tests.evaluation.small_networks import save_clip, save_lpips
from tests.infra.test_evaluate import SIDE, configure, finish, write_real, write_synthetic


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Twelve training images of four groups, three of val."""
    uri = str(tmp_path_factory.mktemp("real"))
    for split, count in (("train", 12), ("val", 3)):
        samples = []
        for index in range(count):
            image, mask = render_phantom(seed=0, index=index + 100 * (split == "val"), size=SIDE)
            about: dict[str, Any] = {"prompt": "a polyp", "split": split, "source_size": (SIDE, SIDE)}
            group = f"{split}{index % 4}"
            samples.append(make_sample(image, mask, image_format="png", group=group, **about))
        write_shard(uri, shard_name(split, 0), samples)
    return finish(uri, [shard_name(split, 0) for split in ("train", "val")], "real", SIDE)


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory, real: ShardSet) -> ShardSet:
    """Two folds of each training mask, one of a validation mask, one of a mask from elsewhere."""
    uri = str(tmp_path_factory.mktemp("synthetic"))
    parents = [*real.keys("train") * 2, real.keys("val")[0], "f" * 16]
    samples = []
    for index, parent in enumerate(parents):
        image, mask = render_phantom(seed=1, index=index, size=SIDE)
        origin = Synthetic(
            parent=parent, fold=index // 12, transform={}, seed=index, model_digest="m", sampler={}
        )
        about: dict[str, Any] = {"prompt": "a polyp", "split": "train", "source_size": (SIDE, SIDE)}
        samples.append(make_sample(image, mask, image_format="png", group=None, synthetic=origin, **about))
    write_shard(uri, shard_name("fold0", 0), samples)
    return finish(uri, [shard_name("fold0", 0)], "synthetic", SIDE)


def test_an_image_is_paired_with_its_parent_in_the_reference(real: ShardSet, synthetic: ShardSet) -> None:
    pairs = parent_pairs(real, synthetic)
    assert sorted(pairs.parents) == sorted(real.keys("train") * 2)
    for row, key, parent in zip(pairs.rows, pairs.keys, pairs.parents, strict=True):
        assert synthetic.keys()[row] == key and synthetic.row(key).parent == parent
    assert list(pairs.among(np.array(pairs.rows[:3]))) == [True] * 3 + [False] * 21


def test_the_floor_of_pairs_is_of_images_of_different_groups(real: ShardSet) -> None:
    ones, twos = different_pairs(real, seed=0)
    assert len(ones) >= 4 and set(ones) | set(twos) <= set(real.keys("train"))
    groups = [(real.row(one).group, real.row(two).group) for one, two in zip(ones, twos, strict=True)]
    assert all(one != two for one, two in groups)
    assert different_pairs(real, seed=0) == (ones, twos)


def row(
    of: ShardSet, keys: list[str], against: ShardSet | None = None, others: list[str] | None = None
) -> dict:
    """A chunk as infra.embed makes it."""
    other = {"against": against.uri if against else "", "against_digest": against.digest if against else ""}
    return {"part": "p", "uri": of.uri, "digest": of.digest, "keys": keys, "others": others or [""], **other}


def test_actors_embed_images_and_compare_pairs(real: ShardSet, synthetic: ShardSet, tmp_path: Path) -> None:
    keys = synthetic.keys()[:3]
    images = np.stack([synthetic.read(key).image for key in keys])
    made = FeatureActor(EFFICIENTNET_EXTRACTOR, "cpu", 1)(row(synthetic, keys))
    assert [item["key"] for item in made] == keys
    rows = np.stack([item["features"] for item in made])
    np.testing.assert_array_equal(rows[:, :1280], EfficientNetLite0()(images))
    np.testing.assert_array_equal(from_rows(rows).pixels, small_pixels(images))
    np.testing.assert_array_equal(from_rows(rows).features, unit(EfficientNetLite0()(images)))
    lpips = find("lpips-squeezenet", save_lpips(tmp_path))
    parents = real.keys("train")[:3]
    made = FeatureActor(lpips, "cpu", 1)(row(synthetic, keys, real, parents))
    by_hand = lpips.load_paired()(images, np.stack([real.read(key).image for key in parents]))
    np.testing.assert_array_equal(np.concatenate([item["features"] for item in made]), by_hand)


def measured(extractors: list[Extractor], pairs: Pairs, count: int, n_real: int) -> Measured:
    """Random features; the value of a pair is its row."""
    rng = np.random.default_rng(0)
    vectors = [extractor for extractor in extractors if not extractor.is_paired]
    paired = [extractor for extractor in extractors if extractor.is_paired or extractor.spec.is_clip]
    return Measured(
        real={e.kind: rng.normal(size=(n_real, 24)) for e in vectors},
        synthetic={"a": {e.kind: rng.normal(size=(count, 24)) for e in vectors}},
        pairs={"a": pairs},
        values={"a": {e.kind: np.array(pairs.rows, float) for e in paired}},
        floors={e.kind: np.ones(4) for e in paired},
        agreement={},
        copies={},
        limits=[],
        n_real=n_real,
    )


def test_every_extractor_brings_its_figures(real: ShardSet, synthetic: ShardSet, tmp_path: Path) -> None:
    config = configure(str(tmp_path / "root"), resamples=20)
    extractors = [
        EFFICIENTNET_EXTRACTOR,
        find("clip", str(save_clip(tmp_path / "clip"))),
        find("lpips-squeezenet", save_lpips(tmp_path)),
    ]
    pairs = parent_pairs(real, synthetic)
    figures, warnings = figures_of(config, extractors, "a", measured(extractors, pairs, 26, 12), 26)
    clip = extractors[1].spec.label
    named = {figure.name: figure for figure in figures}
    assert {"frechet_efficientnet_lite0", f"frechet_{clip}", f"cmmd_{clip}", f"clip_i_{clip}"} < named.keys()
    lpips = named["lpips_squeezenet"]
    assert (lpips.n_synthetic, lpips.n_reference, lpips.value) == (24, 12, np.mean(pairs.rows))
    assert lpips.interval and lpips.floor == 1
    assert any("there is no clip_i of 2 images, lpips of 2 images" in warning for warning in warnings)
    nobody = measured(extractors, Pairs([], [], []), 26, 12)
    figures, warnings = figures_of(config, extractors, "a", nobody, 26)
    assert not {"lpips_squeezenet", f"clip_i_{clip}"} & {figure.name for figure in figures}
    assert any(warning.endswith("there is no clip_i, lpips") for warning in warnings)


def test_the_papers_protocol_takes_as_many_images_as_the_reference_has(
    real: ShardSet, synthetic: ShardSet, tmp_path: Path
) -> None:
    lpips = find("lpips-squeezenet", save_lpips(tmp_path))
    extractors = [EFFICIENTNET_EXTRACTOR, lpips]
    values = measured(extractors, parent_pairs(real, synthetic), 26, 12)
    for seed in (0, 1):
        config = configure(str(tmp_path / "root"), resamples=0, protocol="paper", seed=seed)
        figures, _ = figures_of(config, extractors, "a", values, 26)
        assert {(figure.n_synthetic, figure.n_reference) for figure in figures[:-1]} == {(12, 12)}
        assert figures[-1].n_synthetic <= 12
    small = write_synthetic(str(tmp_path / "small"), real)
    few = configure(str(tmp_path / "root"), protocol="paper", real=real.uri, synthetic=small.uri)
    with pytest.raises(UserError, match=r"synthetic has 6 images, .* training images, 12; generate more"):
        evaluate(few, demo=False)


def test_a_missing_extractor_is_told_before_anything_is_computed(tmp_path: Path) -> None:
    root = str(tmp_path / "root")
    real = write_real(storage.join(root, "data"), counts={"train": 2})
    synthetic = write_synthetic(storage.join(root, "synthetic", "plan"), real)
    config = configure(root, synthetic=synthetic.uri, extractors=["inception=/no/inception-2015-12-05.pt"])
    with pytest.raises(
        UserError, match=r"inception-2015-12-05.pt is missing; give --evaluate.extractors"
    ) as caught:
        evaluate(config, demo=False)
    assert "\n" not in str(caught.value)
    assert storage.read_json(storage.join(root, "evaluation", "status.json"))["exit_code"] == 2
