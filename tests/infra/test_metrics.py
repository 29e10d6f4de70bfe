"""The gauges of training take the lines that runs write, whatever losses they have."""

import pytest

from infra.metrics import GENERATE, TRAIN, TRAIN_LOSS, TRAIN_LOSS_TERMS, GenerateGauges, TrainGauges
from siamdiff.presets import PRESETS
from siamdiff.training.previews import DISTANCE, FLOOR
from tests.training.test_presets import LOSSES


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_can_be_watched(preset: str) -> None:
    losses = dict.fromkeys((*LOSSES[preset].split(), "L"), 0.5)
    assert losses.keys() <= set(TRAIN_LOSS_TERMS)
    TrainGauges().set({"step": 1, "samples_per_second": 2.0, **losses})


def test_a_line_may_hold_all_figures_or_some_or_others() -> None:
    gauges = TrainGauges()
    gauges.set(dict.fromkeys(TRAIN, 1.0))
    gauges.set({"restarts": 2})
    gauges.set({"step": 3, "of_another_version": 1.0})


def test_previews_are_told_under_the_names_that_they_give() -> None:
    assert {DISTANCE, FLOOR} <= TRAIN.keys()


def test_what_generation_tells_has_a_gauge() -> None:
    GenerateGauges().set(dict.fromkeys(GENERATE, 1.0))


def test_names_are_unique_and_of_one_kind() -> None:
    names = [metric.name for metric in (TRAIN_LOSS, *TRAIN.values())]
    assert len(set(names)) == len(names)
    assert all(name.startswith("siamdiff_train_") for name in names)
    assert all(metric.name.startswith("siamdiff_generate_") for metric in GENERATE.values())
    assert len({metric.name for metric in GENERATE.values()}) == len(GENERATE)
    assert all(not metric.labels for metric in TRAIN.values())  # a series each, and no more
