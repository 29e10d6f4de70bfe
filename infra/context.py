"""This worker's place in Ray Train's worker group (siamdiff.training.context.Context)."""

import time
from datetime import timedelta
from typing import Any, Self

import torch

from infra.supervisor import Heart
from siamdiff.training.wish import Wish

NOTICE_SECONDS = 5.0  # between two looks whether a node is to be taken away


class RayContext:
    """A worker among others. What they tell each other goes over gloo: objects and wishes have no place on a GPU.

    Args:
        supervisor: the handle of infra.supervisor's actor.
        attempt: name of this worker group, by which the supervisor tells its pulses from those of an earlier one.
        patience: minutes that workers may wait for each other.
    """

    def __init__(self, supervisor: Any, attempt: str, patience: float) -> None:
        import ray.train
        import ray.train.torch

        place = ray.train.get_context()
        self.rank = place.get_world_rank()
        self.world_size = place.get_world_size()
        self.device = ray.train.torch.get_device()
        self._group = torch.distributed.new_group(backend="gloo", timeout=timedelta(minutes=patience))
        self._heart = Heart(supervisor, attempt, self.rank)
        self._why = ""
        self._looked = time.monotonic()
        self._leaving: set[str] = set()  # nodes whose end was announced

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._heart.stop()

    def gather(self, value: Any) -> list[Any]:
        """See siamdiff.training.context.Context."""
        values: list[Any] = [None] * self.world_size
        self._heart.is_waiting = True
        torch.distributed.all_gather_object(values, value, group=self._group)
        self._heart.is_waiting = False
        self._heart.beats += 1
        return values

    def agree(self, wish: Wish, step: int) -> Wish:
        """See siamdiff.training.context.Context."""
        self._heart.step = step
        asked, why = self._heart.wish, self._heart.why
        if asked:
            self._why = why
        looks = self.rank == 0 and time.monotonic() - self._looked >= NOTICE_SECONDS
        agreed = torch.tensor([max(wish, asked), looks], dtype=torch.int32)
        self._heart.is_waiting = True
        torch.distributed.all_reduce(agreed, torch.distributed.ReduceOp.MAX, group=self._group)
        self._heart.is_waiting = False
        self._heart.beats += 1
        wish, looks = Wish(int(agreed[0])), bool(agreed[1])
        if looks and self._is_node_leaving():
            wish = max(wish, Wish.CHECKPOINT)
        return wish

    def _is_node_leaving(self) -> bool:
        """Whether another node's end was announced; a collective of its own."""
        import ray.train

        self._looked = time.monotonic()
        info = ray.train.get_preemption_info()
        announced = set(info.preempted_node_ids) if info else set()
        news = announced - self._leaving
        self._leaving |= announced
        return bool(news)

    def why(self) -> str:
        """See siamdiff.training.context.Context."""
        return self._why

    def report(self, line: dict[str, float]) -> None:
        """Lets the job know, which sets the Prometheus gauges of training."""
        self._heart.tell(line)
