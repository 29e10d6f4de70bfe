"""A model of a few weights behind the engines' interface, and steps of it."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from siamdiff.sections.train import Train
from siamdiff.training.optimizer import learning_rate_at

BATCH, STEPS, CUT = 4, 6, 3
SCHEDULE = Train(learning_rate=1e-2, schedule="cosine", warmup_steps=2, steps=STEPS)


class Small(nn.Module):
    """Trained parameters of 35, 81, 3, 7 and 1 elements, which no two workers share evenly, and a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, 3, 3)
            self.frozen = nn.Linear(3, 5).requires_grad_(False)
            self.out = nn.Linear(5, 7)
            self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor, weight: float) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """(B, 3, 5, 5) -> the mean over the batch."""
        y = self.out(torch.tanh(self.frozen(self.conv(x).mean(dim=(2, 3))))) * self.scale
        loss = weight * (y - 1).square().mean()
        return loss, {"L": loss.detach()}


def batch(k: int) -> torch.Tensor:
    """The whole batch of step k, (B, 3, 5, 5)."""
    return torch.randn(BATCH, 3, 5, 5, generator=torch.Generator().manual_seed(k))


def train(engine: Any, passes: int = 1, part: slice = slice(None), ks: Iterable[int] = range(STEPS)) -> Any:
    """Steps over the learning rates of SCHEDULE.

    Args:
        engine: of a `Small`.
        passes: per step; its accumulation.
        part: of the batch that is this worker's.
        ks: which steps.

    Returns:
        (steps, 2): loss of the share, norm of the whole gradient.
    """
    rows = []
    for k in ks:
        engine.set_learning_rate(learning_rate_at(k, SCHEDULE))
        losses = []
        for x in batch(k)[part].chunk(passes):
            loss, terms = engine.forward(x, 3.0)
            losses.append(terms["L"])
            engine.backward(loss)
            engine.step()
        rows.append([torch.stack(losses).mean().item(), engine.gradient_norm])
    return torch.tensor(rows)
