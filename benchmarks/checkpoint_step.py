"""The step during which a checkpoint is written against the median step, on a disk and in S3; what writing costs.

    python benchmarks/checkpoint_step.py

A run of the real loop (1/4 of Stable Diffusion 1.5's widths, plain engine) writes a checkpoint every few steps in its
thread. Its metrics.jsonl has the seconds of every step and the time at which the newest checkpoint counted: that tells
which steps overlap with writing. "during" is the median over checkpoints of the longest of these steps, "quotient"
that by the median of all steps: the aim is 1.2 or less. "copy" is how long training stood still for the copy of the
state, as the loop says. Then the same state is written with nothing beside it: seconds per GB, and reckoned with them
the 874 million trained weights of Stable Diffusion 1.5 with AdamW's two moments, from one process.
The store is the tests' S3 server, on the same cores and disk.
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import runs
from benchmarks.common import Spread, parser, show
from benchmarks.reduced import make_base, make_model
from infra.train import train
from siamdiff.config import Config
from siamdiff.run import lease
from siamdiff.training.checkpoint import Writer, complete_checkpoints
from siamdiff.training.context import SingleProcess
from siamdiff.training.engine import TorchEngine
from tests.s3 import S3Server

WARM_UP = 2  # steps
SD15_GB = 12 * 874_264_516 / 1e9  # fp32 weights and two moments
AIM = 1.2


def train_plainly(config: Config) -> None:
    """The run in this process, without Ray."""
    train(config, demo=False)


def overlapping(rows: list[dict[str, float]], every: int) -> list[list[float]]:
    """For each checkpoint but the run's last: seconds of the steps from its copy until it counted.

    Args:
        rows: of metrics.jsonl, one a step.
        every: steps between two checkpoints.
    """
    steps = []
    for begun in range(every, len(rows), every):
        before = rows[begun - 1].get("checkpoint_time")
        seconds = []
        for row in rows[begun:]:
            seconds.append(row["step_seconds"])
            if row.get("checkpoint_time") != before:
                break
        steps.append(seconds)
    return steps


def write_alone(uri: str, divisor: int) -> dict[str, float]:
    """Seconds of copying and of writing the state of a model with nothing beside it, and its size in GB."""
    torch.manual_seed(0)
    model = make_model(make_base(divisor))
    engine = TorchEngine.of(model, Config.model_validate({"train": {"engine": "torch"}}), 1)
    for p in model.parameters():
        if p.requires_grad:
            p.grad = torch.full_like(p, 1e-6)
    engine.step()  # AdamW's moments are there from the first step on
    context = SingleProcess()
    with lease(uri) as held:
        writer = Writer(uri, context, held, kept=1)
        started = time.perf_counter()
        writer.begin(1, engine.snapshot, _nothing, {})
        copied = time.perf_counter()
        writer.wait()
        written = time.perf_counter()
        writer.close(0.0)
    files = complete_checkpoints(uri)[-1].marker()["files"]
    gb = sum(file["size"] for file in files.values()) / 1e9
    return {"gb": gb, "copy_seconds": copied - started, "write_seconds": written - copied}


def _nothing() -> None:
    pass


def measure(sections: dict[str, Any], place: str, root: str, chosen: Any) -> dict[str, Any]:
    """The figures of one place."""
    steps = WARM_UP + chosen.checkpoints * chosen.every + chosen.every // 2
    config = runs.configure(
        sections | {"root": root},
        chosen.threads,
        run=f"checkpoints-{place.lower()}",
        steps=steps,
        batch_size=chosen.batch,
        engine="torch",
        checkpoint_steps=chosen.every,
    )
    runs.in_process(train_plainly, config)
    rows = runs.rows(config)
    every_step = Spread.of([row["step_seconds"] for row in rows[WARM_UP:]])
    during = overlapping(rows, chosen.every)
    longest = Spread.of([max(seconds) for seconds in during])
    copies = [rows[begun]["checkpoint_seconds"] for begun in range(chosen.every, len(rows), chosen.every)]
    alone = [write_alone(f"{root}/alone-{i}", chosen.divisor) for i in range(chosen.alone)]
    rate = statistics.median(one["write_seconds"] / one["gb"] for one in alone)
    return {
        "place": place,
        "step": every_step,
        "during": longest,
        "overlapping_steps": statistics.median(len(seconds) for seconds in during),
        "quotient": longest.median / every_step.median,
        "copy": Spread.of(copies),
        "gb": alone[0]["gb"],
        "copy_seconds_per_gb": statistics.median(one["copy_seconds"] / one["gb"] for one in alone),
        "write_seconds_per_gb": rate,
        "sd15_write_seconds": rate * SD15_GB,
    }


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--divisor", type=int, default=4, help="of Stable Diffusion 1.5's widths [4]")
    options.add_argument("--resolution", type=int, default=128, help="side of the images, pixels [128]")
    options.add_argument("--batch", type=int, default=8, help="samples of a step [8]")
    options.add_argument("--every", type=int, default=6, help="steps between two checkpoints [6]")
    options.add_argument("--checkpoints", type=int, default=3, help="of each run, but its last [3]")
    options.add_argument("--alone", type=int, default=3, help="times that the state is written alone [3]")
    options.add_argument("--threads", type=int, default=1, help="of the training process [1]")
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    with tempfile.TemporaryDirectory() as folder, S3Server() as server, pytest.MonkeyPatch.context() as env:
        for name, value in server.env.items():
            env.setenv(name, value)
        sections = runs.prepare(Path(folder), chosen.divisor, chosen.resolution)
        sections["data"]["uri"] = f"{folder}/data"
        measured = [
            measure(sections, place, root, chosen)
            for place, root in (("disk", f"{folder}/disk"), ("S3", server.new_root()))
        ]
    lines = [
        f"1/{chosen.divisor} of Stable Diffusion 1.5's widths, {chosen.resolution} x {chosen.resolution} pixels, batch "
        f"{chosen.batch}, {chosen.threads} threads, a checkpoint of {measured[0]['gb']:.2f} GB every {chosen.every} "
        "steps",
        f"{'to':6}{'a step':26}{'during':26}{'quotient':>9}  {'copy':26}s/GB alone: copy, write; of SD 1.5",
    ]
    lines += [
        f"{row['place']:6}{row['step']!s:26}{row['during']!s:26}{row['quotient']:9.2f}  {row['copy']!s:26}"
        f"{row['copy_seconds_per_gb']:.2f}, {row['write_seconds_per_gb']:.2f}; {row['sd15_write_seconds']:.0f} s for "
        f"{SD15_GB:.1f} GB"
        for row in measured
    ]
    show({"aim": AIM, "rows": measured}, lines, chosen.json)


if __name__ == "__main__":
    main()
