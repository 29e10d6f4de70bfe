"""Where a benchmark runs: the device, what it can do at most, and how time and memory are taken there."""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.common import Spread
from siamdiff.estimate.meter import Meter
from siamdiff.sections import Precision
from siamdiff.training.engine import DTYPES


@dataclass(frozen=True)
class Place:
    """A device, and the precision in which networks are measured on it."""

    device: torch.device
    precision: Precision

    @property
    def on_gpu(self) -> bool:
        """Whether it is a CUDA device."""
        return self.device.type == "cuda"

    @property
    def dtype(self) -> torch.dtype:
        """Of the networks' arithmetic."""
        return DTYPES[self.precision]

    def wait(self) -> None:
        """Until everything that was asked of the device is done."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)


def find_place(device: str | None = None, precision: Precision | None = None) -> Place:
    """A GPU in bf16 where there is one, else the CPU in fp32; or what is asked for."""
    found = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return Place(found, precision or ("bf16" if found.type == "cuda" else "fp32"))


@dataclass(frozen=True)
class Measured:
    """A piece of work that was repeated."""

    seconds: list[float]  # one a round, in order
    peak: int  # bytes of the tensors that it made which were alive at once

    @property
    def spread(self) -> Spread:
        """Of the seconds."""
        return Spread.of(self.seconds)


def take_turns(place: Place, works: dict[str, Callable[[], object]], rounds: int) -> dict[str, Measured]:
    """Every work once a round, one after the other, so that what disturbs the machine disturbs all of them.

    Before that each is run once, to warm up and for its memory, which takes time of its own to look at.
    """
    peaks = {name: peak_of(place, work) for name, work in works.items()}
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            seconds[name].append(timed(place, work))
    return {name: Measured(seconds[name], peaks[name]) for name in works}


def quotient(ours: Measured, theirs: Measured) -> Spread:
    """Ours by theirs, round by round."""
    return Spread.of([a / b for a, b in zip(ours.seconds, theirs.seconds, strict=True)])


def timed(place: Place, work: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    gc.collect()
    place.wait()
    started = time.perf_counter()
    work()
    place.wait()
    return time.perf_counter() - started


def peak_of(place: Place, work: Callable[[], object]) -> int:
    """Bytes of the tensors that a call makes and that are alive at once."""
    gc.collect()
    if not place.on_gpu:
        with Meter([]) as meter:
            work()
        return meter.peak
    there = torch.cuda.memory_allocated(place.device)
    torch.cuda.reset_peak_memory_stats(place.device)
    work()
    place.wait()
    return torch.cuda.max_memory_allocated(place.device) - there


def matrix_rate(place: Place, side: int, rounds: int = 10) -> float:
    """Floating-point operations a second that a product of two square matrices reaches, the best of the rounds."""
    a, b = (torch.randn(side, side, device=place.device, dtype=place.dtype) for _ in range(2))
    measured = take_turns(place, {"product": lambda: a @ b}, rounds)
    return 2 * side**3 / min(measured["product"].seconds)
