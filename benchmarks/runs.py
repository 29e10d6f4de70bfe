"""Whole runs of the real loop, for the benchmarks: what they train on, and how long their steps took."""

import json
import multiprocessing
from pathlib import Path
from typing import Any

import torch

from benchmarks.phantoms import write_set
from benchmarks.reduced import make_base, save_base
from siamdiff import storage
from siamdiff.config import Config

SAMPLES = 64
NEVER = 10**6


def prepare(folder: Path, divisor: int, resolution: int) -> dict[str, Any]:
    """A base with 1 / `divisor` of Stable Diffusion 1.5's widths and a set of phantoms in a local folder.

    Returns:
        The sections of a configuration that trains on them and does nothing but steps: no previews, no validation, no
        checkpoint before the last step, one line of metrics a step.
    """
    torch.manual_seed(0)
    save_base(make_base(divisor), folder / "base")
    write_set(f"{folder}/data", SAMPLES, resolution, "jpg")
    return {
        "root": str(folder),
        "data": {"resolution": resolution},
        "model": {"base": f"{folder}/base"},
        "train": {
            "log_steps": 1,
            "preview_steps": NEVER,
            "preview_samples": 0,
            "validation_samples": 0,
            "checkpoint_minutes": float(NEVER),
            "loader_workers": 1,
        },
        "generate": {"steps": 1},
    }


def configure(sections: dict[str, Any], threads: int, **train: Any) -> Config:
    """The configuration of one run; `train` on top of what `prepare` gave."""
    return Config.model_validate(
        sections | {"train": sections["train"] | train, "cluster": {"threads": threads}}
    ).resolve()


def in_process(train: Any, config: Config) -> None:
    """Trains in a fresh process, as the workers of a cluster are."""
    process = multiprocessing.get_context("spawn").Process(target=train, args=(config,))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"run {config.train.run} ended with {process.exitcode}")


def rows(config: Config) -> list[dict[str, float]]:
    """The lines of a run's metrics."""
    lines = storage.read_bytes(storage.join(config.run_uri(), "metrics.jsonl")).splitlines()
    return [json.loads(line) for line in lines]


def step_seconds(config: Config, first: int) -> list[float]:
    """Seconds of each step after the first `first` ones."""
    return [row["step_seconds"] for row in rows(config)[first:]]
