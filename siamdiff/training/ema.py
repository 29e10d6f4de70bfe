"""An exponential moving average of the trained weights, each process keeping a part of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from siamdiff.errors import SiamdiffError
from siamdiff.training.snapshot import copied, save

# A piece of a parameter: where it starts in the flattened parameter, and its values in fp32, 1-d, perhaps none.
Fragment = tuple[int, torch.Tensor]
Fragments = dict[str, Fragment]  # by the parameter's name


def share(p: torch.Tensor, index: int = 0, count: int = 1) -> Fragment:
    """The `index`-th of `count` equal pieces of a parameter; the last ones may be shorter or empty."""
    size = -(-p.numel() // count)
    start = min(index * size, p.numel())
    return start, p.detach().flatten()[start : start + size]


class Averages:
    """Averages of this process's fragments: w' <- d w' + (1 - d) w after each step, from w' = w before the first.

    d = min(decay, (1 + k) / (10 + k)) after k updates, so that the first weights are soon forgotten.

    Args:
        decay: in (0, 1).
        fragments: gives this process's pieces as they are now; always the same pieces. All processes' together are
            every trained parameter, once.
        rank: of this process, for its file.
    """

    def __init__(self, decay: float, fragments: Callable[[], Fragments], rank: int = 0) -> None:
        self.decay, self.rank = decay, rank
        self.updates = 0
        self._current = fragments
        self.fragments: Fragments = {name: (start, w.clone()) for name, (start, w) in fragments().items()}

    def update(self) -> None:
        """Takes the weights of now in; called after every step that changed them."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        current = self._current()
        names = [name for name, (_, average) in self.fragments.items() if average.numel()]
        averages, weights = ([pieces[name][1] for name in names] for pieces in (self.fragments, current))
        if names:
            get_ema_multi_avg_fn(decay)(averages, weights, self.updates)
        self.updates += 1

    def snapshot(self, folder: Path) -> Callable[[], None]:
        """Copies this process's averages; the function writes them, see siamdiff.training.engine.Engine."""
        state: dict[str, Any] = copied({"updates": self.updates, "fragments": self.fragments})
        return lambda: save(state, folder / _file_name(self.rank))

    def load(self, folder: Path, world_size: int) -> None:
        """Reads this process's pieces out of the files of the `world_size` processes that wrote them.

        Raises:
            SiamdiffError: the files do not hold every element of these pieces.
        """
        missing = sum(average.numel() for _, average in self.fragments.values())
        for rank in range(world_size):
            state = torch.load(folder / _file_name(rank), map_location="cpu", weights_only=True, mmap=True)
            self.updates = state["updates"]
            for name, (start, piece) in state["fragments"].items():
                if name in self.fragments:
                    missing -= _copy_overlap(start, piece, *self.fragments[name])
        if missing:
            raise SiamdiffError(
                f"the checkpoint's averages do not fit the model: {missing} elements are missing"
            )

    def placed(self, name: str, numel: int, device: torch.device | str) -> torch.Tensor:
        """A parameter's average where this process has it, 0 elsewhere: the sum over all processes is whole.

        Args:
            name: of the parameter.
            numel: its number of elements.
            device: of the result.

        Returns:
            (numel,), fp32.
        """
        whole = torch.zeros(numel, dtype=torch.float32, device=device)
        if name in self.fragments:
            start, average = self.fragments[name]
            whole[start : start + average.numel()] = average.to(device)
        return whole


def _copy_overlap(start: int, source: torch.Tensor, target_start: int, target: torch.Tensor) -> int:
    """Copies the elements that two pieces of a parameter have in common; their number."""
    first = max(start, target_start)
    count = min(start + source.numel(), target_start + target.numel()) - first
    if count <= 0:
        return 0
    target[first - target_start :][:count].copy_(source[first - start :][:count])
    return count


def _file_name(rank: int) -> str:
    return f"ema-{rank:05d}.pt"
