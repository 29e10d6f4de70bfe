"""The benchmarks at their smallest: that what they compare is the same, and that they run. No figure is held."""

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import burned_in, checkpoint_step, copies, data_wait, fleet, sampling, shards, training_step
from benchmarks.common import Spread
from benchmarks.phantoms import make_pairs, write_set
from benchmarks.training_step import PHASES, Setting, Siamdiff, Straightforward
from infra import cluster
from siamdiff.sections import ImageFormat

SMALLEST = Setting(divisor=16, resolution=64, batch=5, threads=1, device="cpu")


@pytest.mark.parametrize("phase", PHASES)
def test_both_steps_that_are_timed_have_the_same_loss(phase: str) -> None:
    losses = []
    for kind in (Siamdiff, Straightforward):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            losses.append(kind(SMALLEST).step(PHASES[phase]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_straightforward_step_counts_more_operations_and_memory() -> None:
    (flops, peak), (more_flops, more_peak) = (
        training_step.count(variant, SMALLEST, PHASES["after N/3"]) for variant in training_step.VARIANTS
    )
    assert flops < more_flops
    assert peak < more_peak


def test_waiting_for_data_is_measured_on_a_set_of_distinct_samples(tmp_path: Path) -> None:
    uri = f"{tmp_path}/set"
    write_set(uri, 40, 32, "png")
    assert data_wait.ShardSet.open(uri).manifest.count == 40
    measured = data_wait.waiting(uri, steps=2, batch=4, rate=1000.0, workers=0)
    assert 0 < measured["share"] < 1
    assert measured["seconds"].count == 2
    whole, decoder = data_wait.decoding(uri)
    assert 0 < decoder < whole


def test_a_spread_is_the_median_between_its_quartiles() -> None:
    assert Spread.of([4.0, 1.0, 2.0, 3.0, 100.0]) == Spread(3.0, 2.0, 4.0, 5)
    assert str(Spread.of([1.0])) == "1.000 (1.000 to 1.000)"


def test_steps_overlap_with_a_checkpoint_from_its_copy_until_it_counts() -> None:
    times = [None, None, None, 100.0, 100.0, 100.0, 200.0]  # two checkpoints: of step 2 and of step 5
    rows = [
        {"step_seconds": float(i)} | ({"checkpoint_time": time} if time else {})
        for i, time in enumerate(times, 1)
    ]
    assert checkpoint_step.overlapping(rows[:5], 2)[0] == [3.0, 4.0]
    assert checkpoint_step.overlapping(rows, 5) == [[6.0, 7.0]]


def test_our_sampler_and_diffusers_are_timed_on_the_same_images() -> None:
    smallest = sampling.Setting(32, 2, 2, 2, 9.0, "fp32", "cpu")
    measured = sampling.measure(smallest, rounds=2)
    assert measured["largest_difference"] <= 1
    assert measured["quotient"].count == 2


@pytest.mark.parametrize("image_format", ["png", "jpg"])
def test_shards_and_bare_tars_are_timed_on_the_same_pairs(tmp_path: Path, image_format: ImageFormat) -> None:
    pairs = make_pairs(9, 32)
    measured = shards.measure(str(tmp_path), pairs, image_format, rounds=2)
    assert list(measured) == list(shards.KINDS)
    assert all(of_kind["quotient"].count == 2 for of_kind in measured.values())
    assert all(shards.same_pairs(f"{tmp_path}/{i}", pairs) for i in range(3))
    assert not shards.same_pairs(f"{tmp_path}/0", pairs[1:])


def test_an_actor_is_busy_during_batches_alone() -> None:
    by_actor = {
        "a": [[(10.0, 11.0), (11.0, 12.0)], [(13.0, 14.0), (14.5, 15.0)], [(20.0, 21.0), (21.0, 22.0)]],
        "b": [[(11.0, 12.0)], [(12.0, 13.0)]],
    }
    assert fleet.busy(by_actor["a"]) == pytest.approx(3.5 / 10)  # the last shard only ends what is looked at
    assert fleet.busy(by_actor["b"]) == 1.0
    assert fleet.gaps(by_actor["a"]) == [1.0, 5.0]
    assert fleet.images_per_second(by_actor, 24) == 2.0


@pytest.mark.cluster
@pytest.mark.soak
def test_stand_ins_make_planned_shards_in_the_fleet(s3: object, tmp_path: Path) -> None:
    chosen = Namespace(resolution=32, batch=2, shard=4, shards=6, actors=[2], seconds=0.05)
    cluster.connect()
    try:
        rows = fleet.measure(str(tmp_path), chosen)
    finally:
        cluster.leave()
    assert [row["actors"] for row in rows] == [1, 2]
    assert all(0 < row["busy"].median < 1 for row in rows)


def test_copies_are_counted_among_new_images_and_given_ones() -> None:
    images = np.stack([image for image, _ in make_pairs(9, 32)])
    measured = copies.measure(images, quantile=0.2, given=1)
    assert measured["limits"].groups == 8
    assert measured["given"]["as they are"] == {"features": 1, "pixels": 1, "either": 1, "report": 1}
    assert all(
        counts["either"] <= counts["features"] + counts["pixels"] for counts in measured["given"].values()
    )


def test_images_are_counted_with_and_without_text() -> None:
    images = np.stack([image for image, _ in make_pairs(3, 64)])
    measured = burned_in.measure(images, 3)
    assert measured["as they are"] == 0
    found, of = measured["written"][10]["labelled"]
    assert 0 < found <= of <= 3
    assert measured["written"][24]["white"][1] == 0  # there is no room for it
