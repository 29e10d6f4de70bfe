"""Where a training process stands among the others, and what is wanted of it from outside.

infra/context.py has the version of a Ray worker.
"""

from typing import Any, Protocol

import torch

from siamdiff.training.wish import Wish


class Context(Protocol):
    """Where this worker stands among the others."""

    rank: int
    world_size: int
    device: torch.device

    def gather(self, value: Any) -> list[Any]:
        """The values of all workers in the order of their ranks, on every worker; also a barrier."""
        ...

    def agree(self, wish: Wish, step: int) -> Wish:
        """The strongest wish of all workers, and of whoever watches the job: the same on every worker.

        Called by every worker after every step; a barrier.

        Args:
            wish: the loop's own.
            step: optimizer steps finished, for whoever watches.
        """
        ...

    def why(self) -> str:
        """Who or what wants the stop, in words that follow "stopped by"; "" on workers that do not know."""
        ...

    def report(self, line: dict[str, float]) -> None:
        """Makes one line of metrics visible to whoever watches the job."""
        ...


class SingleProcess:
    """The context of one process without a cluster."""

    rank = 0
    world_size = 1

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._wish, self._why = Wish.NOTHING, ""

    def ask(self, wish: Wish, why: str) -> None:
        """Leaves a wish for the next `agree`; may be called by a signal handler or another thread."""
        self._wish, self._why = wish, why

    def gather(self, value: Any) -> list[Any]:
        """The one value."""
        return [value]

    def agree(self, wish: Wish, step: int) -> Wish:
        """The stronger of the loop's wish and the one that was left."""
        asked, self._wish = self._wish, Wish.NOTHING
        return max(wish, asked)

    def why(self) -> str:
        """See `Context`."""
        return self._why

    def report(self, line: dict[str, float]) -> None:
        """Nobody watches but the log."""
