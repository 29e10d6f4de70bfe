"""The gauges of training take the lines that runs write, whatever losses they have."""

import pytest

from infra.metrics import TRAIN_LOSS_TERMS, TrainGauges
from siamdiff.presets import PRESETS
from tests.training.test_presets import LOSSES


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_can_be_watched(preset: str) -> None:
    losses = dict.fromkeys((*LOSSES[preset].split(), "L"), 0.5)
    assert losses.keys() <= set(TRAIN_LOSS_TERMS)
    TrainGauges().set({"step": 1, "samples_per_second": 2.0, **losses})
