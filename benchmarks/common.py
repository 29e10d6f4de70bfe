"""What the benchmarks share: their options, medians with spread, the machine's name, the form of a report."""

import argparse
import json
import os
import platform
import statistics
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Spread:
    """A median with the quartiles around it; the unit is that of the values."""

    median: float
    low: float  # first quartile
    high: float  # third quartile
    count: int

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        """Of one value or more."""
        if len(values) < 2:
            return cls(values[0], values[0], values[0], 1)
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high, len(values))

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The options of every benchmark; `doc` is its module's docstring."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    return made


def machine(device: torch.device | None = None) -> dict[str, Any]:
    """Where and when a figure was measured; `load` is the number of processes that run beside.

    Args:
        device: where; by default a GPU if there is one.
    """
    on_gpu = torch.cuda.is_available() if device is None else device.type == "cuda"
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": torch.cuda.get_device_name(device) if on_gpu else None,
        "torch": torch.__version__,
        "load": os.getloadavg()[0],
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def show(figures: dict[str, Any], rows: list[str], as_json: bool) -> None:
    """Prints the figures, or the rows of their table below a line that names the machine."""
    where = machine()
    if as_json:
        print(json.dumps({"machine": where, **figures}, default=asdict))
        return
    print(
        f"{where['date']}, {where['gpu'] or where['processor']}, {where['cores']} cores, torch {where['torch']}, "
        f"load {where['load']:.1f}"
    )
    print("\n".join(rows))
