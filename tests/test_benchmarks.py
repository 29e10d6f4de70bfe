"""The benchmarks at their smallest: that what they compare is the same, and that they run. No figure is held."""

import json
import subprocess
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import (
    burned_in,
    checkpoint_step,
    copies,
    data_wait,
    datapath,
    fleet,
    run,
    sampling,
    shards,
    training,
)
from benchmarks.common import Spread
from benchmarks.counting import PHASES, Count, count, largest_batch
from benchmarks.phantoms import make_pairs, write_set
from benchmarks.place import Measured, Place, find_place, quotient, take_turns
from siamdiff.sections import ImageFormat, Precision

TOY = run.SIZES["toy"]
NAIVE = "straightforward"
CPU = Place(torch.device("cpu"), "fp32")


def test_steps_that_are_timed_have_the_same_loss_at_every_repetition() -> None:
    with torch.random.fork_rng(devices=[]):
        networks = training.Networks(CPU, TOY.training)
    for k in PHASES.values():
        losses = [networks.straightforward(k), networks.siamdiff(k), networks.siamdiff(k, checkpointing=True)]
        losses.append(networks.straightforward(k))
        assert losses == pytest.approx(4 * losses[:1], rel=1e-5)
    alone = networks.controlnet()
    assert 0 < alone < losses[0]
    assert networks.siamdiff(k) == pytest.approx(losses[0], rel=1e-5)  # what learns is as it was


@pytest.mark.soak
def test_operations_are_more_where_passes_are_repeated() -> None:
    def counted(variant: str, checkpointing: bool) -> Count:
        size = TOY.training
        where = size.divisor, size.resolution, size.batch, PHASES["after N/3"]
        return count(variant, *where, checkpointing=checkpointing)

    ours, recomputing, theirs = counted("siamdiff", False), *(counted(of, True) for of in ("siamdiff", NAIVE))
    assert ours.flops < recomputing.flops < theirs.flops
    assert recomputing.peak < min(ours.peak, theirs.peak)
    largest = largest_batch(TOY.training.divisor, TOY.training.resolution, PHASES["after N/3"], 1e9)
    assert largest.ours < largest.theirs
    assert largest.theirs == pytest.approx(1e9, rel=0.05)


def test_what_is_compared_takes_turns_and_is_divided_round_by_round() -> None:
    order: list[str] = []

    def work(name: str) -> None:
        order.append(name)
        torch.zeros(1000)

    measured = take_turns(CPU, {name: partial(work, name) for name in ("a", "b")}, rounds=2)
    assert order == 3 * ["a", "b"]  # once to warm up and for their memory
    assert len(measured["a"].seconds) == 2
    assert measured["a"].peak == 4000
    assert quotient(Measured([2.0, 9.0], 0), Measured([1.0, 3.0], 0)).median == 2.5
    assert find_place("cpu") == CPU
    assert find_place("cpu", "bf16").dtype == torch.bfloat16


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
    with torch.random.fork_rng(devices=[]):
        assert sampling.largest_difference(sampling.Sampling(CPU, TOY.sampling)) <= 1


@pytest.mark.soak
def test_the_data_path_is_told_in_a_table(tmp_path: Path) -> None:
    *_, figures = run.measure(CPU, ["data"], TOY, stages=False)
    assert [row["kind"] for row in figures["data"]["rows"]] == 2 * ["write", "read", "stream"]
    lines = list(run.table(figures))
    assert sum(line.startswith(("| png", "| jpg")) for line in lines) == 6
    write_set(f"{tmp_path}/set", 8, 32, "png")
    with datapath.node_cache(f"{tmp_path}/cache"):
        assert datapath.read_stream(f"{tmp_path}/set", 8) == 8
    assert datapath.read_webdataset(f"{tmp_path}/set", "png") == 8


@pytest.mark.soak
def test_the_bench_needs_nothing_of_the_cluster_and_of_the_tests() -> None:
    """A machine with a GPU may have no network to bring them."""
    blocked = (
        "ray",
        "deepspeed",
        "s3fs",
        "prometheus_client",
        "pytest",
        "playwright",
        "tests",
        "torchvision",
    )
    program = f"import sys; sys.modules.update(dict.fromkeys({blocked!r})); import benchmarks.run"
    subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[1], check=True)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_all_that_a_gpu_runs_runs_here_at_toy_size(precision: Precision, tmp_path: Path) -> None:
    """Compilation included: minutes."""
    *_, figures = run.measure(Place(torch.device("cpu"), precision), list(run.PARTS), TOY, stages=True)
    assert [row["stage"] for row in figures["training"]["stages"]][-1] == "+ compiled"
    assert figures["workstation"]["batch"] == 48
    exact = precision == "fp32"
    assert max(figures["rounding"]["loss"]) <= (0 if exact else 0.02)
    text = "\n".join(run.table(figures))
    for what in (
        "Training step",
        "workstation.yaml",
        "Sampling",
        "Data path",
        "+ channels last",
        "+ compiled",
    ):
        assert what in text
    (tmp_path / "figures.json").write_text(json.dumps(figures, default=asdict))


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
