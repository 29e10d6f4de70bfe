"""The benchmarks at their smallest: that what they compare is the same, and that they run. No figure is held."""

from pathlib import Path

import pytest
import torch

from benchmarks import checkpoint_step, data_wait, training_step
from benchmarks.common import Spread
from benchmarks.phantoms import write_set
from benchmarks.training_step import PHASES, Setting, Siamdiff, Straightforward

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
