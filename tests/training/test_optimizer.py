"""The learning rate over the steps."""

import math

import pytest

from siamdiff.sections.train import Train
from siamdiff.training.optimizer import learning_rate_at


def rates(**given) -> list[float]:
    train = Train(learning_rate=2.0, steps=10, **given)
    return [learning_rate_at(k, train) for k in range(10)]


def test_a_constant_rate_is_the_given_one_from_the_first_step():
    assert rates() == [2.0] * 10


def test_warm_up_rises_from_0_and_reaches_the_rate_at_its_last_step():
    assert rates(warmup_steps=4) == [0.0, 0.5, 1.0, 1.5] + [2.0] * 6


@pytest.mark.parametrize("warmup", [0, 4])
def test_linear_and_cosine_fall_from_the_rate_towards_0_at_the_end(warmup):
    left = [(10 - k) / (10 - warmup) for k in range(warmup, 10)]
    assert rates(schedule="linear", warmup_steps=warmup)[warmup:] == pytest.approx([2 * x for x in left])
    cosine = [1 + math.cos(math.pi * (1 - x)) for x in left]
    assert rates(schedule="cosine", warmup_steps=warmup)[warmup:] == pytest.approx(cosine)
