"""The optimizer's learning rate over the steps."""

from collections.abc import Callable
from functools import cache
from typing import Literal

import torch
from diffusers.optimization import get_scheduler

from siamdiff.sections.train import Train


def learning_rate_at(k: int, train: Train) -> float:
    """What step k takes: a function of k alone, so that a resumed run takes the same.

    It rises in a straight line from 0 at k = 0 to train.learning_rate at k = train.warmup_steps; there it stays
    (constant), or falls to 0 at k = train.steps, in a straight line (linear) or along half a cosine (cosine).

    Args:
        k: optimizer steps finished, from 0 to train.steps - 1.
        train: the configuration.
    """
    return train.learning_rate * _factor(train.schedule, train.warmup_steps, train.steps)(k)


@cache
def _factor(
    schedule: Literal["constant", "linear", "cosine"], warmup_steps: int, steps: int
) -> Callable[[int], float]:
    """diffusers' schedule as a function of the step; the scheduler that it comes in wants an optimizer."""
    name = "constant_with_warmup" if schedule == "constant" else schedule
    nothing = torch.optim.SGD([torch.zeros(1)])
    schedule_of = get_scheduler(name, nothing, num_warmup_steps=warmup_steps, num_training_steps=steps)
    return schedule_of.lr_lambdas[0]
