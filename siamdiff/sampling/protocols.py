"""What bulk generation asks of whatever makes its shards."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from siamdiff.data.sample import EncodedSample
from siamdiff.sampling.conditions import Condition

Turn = Callable[[], AbstractContextManager[None]]
"""Entered while the device is needed, so that threads which make a shard each can share it."""


@dataclass(frozen=True)
class Made:
    """A shard that was made."""

    samples: list[EncodedSample]
    made_by: dict[str, Any]  # what the bytes depend on beside the plan; kept in the marker
    encode_seconds: float = 0.0  # spent on encoding, beside the drawing


class Sampler(Protocol):
    """Makes one shard after the other; where threads call it, each makes a shard of its own."""

    def make(self, conditions: Sequence[Condition], turn: Turn) -> Made:
        """A sample for each condition of a shard, in order. `turn` may be entered more than once, at least once."""
        ...
