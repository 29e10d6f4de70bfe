"""Several workers in one process: threads that meet at a barrier, each with its own place among the others."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from siamdiff.training.context import SingleProcess
from siamdiff.training.wish import Wish

T = TypeVar("T")


class Worker(SingleProcess):
    """One of `world_size` threads."""

    def __init__(self, rank: int, world_size: int, values: list[Any], barrier: threading.Barrier) -> None:
        super().__init__()
        self.rank, self.world_size = rank, world_size
        self._values, self._barrier = values, barrier

    def gather(self, value: Any) -> list[Any]:
        self._values[self.rank] = value
        self._barrier.wait()
        everyone = list(self._values)
        self._barrier.wait()  # nobody writes the next value before all have read this one
        return everyone

    def agree(self, wish: Wish, step: int) -> Wish:
        return max(self.gather(wish))


def on_workers(world_size: int, work: Callable[[Worker], T]) -> list[T]:
    """What `work` returns on each of the workers; an error of one ends all."""
    values: list[Any] = [None] * world_size
    barrier = threading.Barrier(world_size, timeout=60)

    def run(rank: int) -> T:
        try:
            return work(Worker(rank, world_size, values, barrier))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(world_size) as pool:
        return list(pool.map(run, range(world_size)))
