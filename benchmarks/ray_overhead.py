"""A step of the loop under Ray Train against one of the plain loop, and DeepSpeed's stages beside them.

    python benchmarks/ray_overhead.py

One worker, the same number of threads, the same base (1/4 of Stable Diffusion 1.5's widths), data and batch. "plain"
is the loop in a process without Ray (train.engine torch); "Ray" is the same engine in a worker of Ray Train, as
infra/train.py makes one; "ZeRO n" is that worker with DeepSpeed. Seconds of steps are those of each run's
metrics.jsonl. The kinds take turns, several rounds of runs; "over plain" is the median of the rounds' quotients of
medians, less one. The aim is 5 % or less for Ray, at steps of 0.5 s or more.
"""

import logging
import statistics
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

from benchmarks import runs
from benchmarks.common import Spread, parser, show
from infra import cluster, workers
from infra.context import RayContext
from infra.exporting import JobWatch
from infra.train import train
from siamdiff.config import Config
from siamdiff.run import lease
from siamdiff.training import bases
from siamdiff.training.engine import TorchEngine
from siamdiff.training.loop import train as train_loop

WARM_UP = 3  # steps
STAGES = (0, 1, 2, 3)
AIM = 0.05


def train_plainly(config: Config) -> None:
    """The run in this process, without Ray."""
    train(config, demo=False)


def train_under_ray(config: Config) -> None:
    """The run with the plain engine in one worker of Ray Train, watched as any."""
    cluster.connect()
    with lease(config.run_uri()) as held:
        workers.run(_worker, config, bases.base_uri(config, ""), held, JobWatch("train", config))


def _worker(arguments: dict[str, Any]) -> str:
    config = Config(**arguments["config"])
    torch.set_num_threads(config.cluster.threads)
    with RayContext(arguments["supervisor"], arguments["attempt"], patience=30.0) as context:
        train_loop(config, arguments["base_uri"], arguments["lease"], context, TorchEngine.of)
    return ""


def run(kind: str, name: str, sections: dict[str, Any], steps: int, batch: int, threads: int) -> list[float]:
    """Makes one run of a kind; returns the seconds of its steps."""
    engine = "torch" if kind in ("plain", "Ray") else "deepspeed"
    stage = int(kind[-1]) if engine == "deepspeed" else 0
    config = runs.configure(
        sections,
        threads,
        run=name,
        steps=WARM_UP + steps,
        batch_size=batch,
        engine=engine,
        zero_stage=stage,
    )
    if kind == "plain":
        runs.in_process(train_plainly, config)
    elif kind == "Ray":
        train_under_ray(config)
    else:
        train(config, demo=False)
    return runs.step_seconds(config, WARM_UP)


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--divisor", type=int, default=4, help="of Stable Diffusion 1.5's widths [4]")
    options.add_argument("--resolution", type=int, default=64, help="side of the images, pixels [64]")
    options.add_argument("--batch", type=int, default=12, help="samples of a step [12]")
    options.add_argument("--steps", type=int, default=12, help="measured steps of each run [12]")
    options.add_argument("--rounds", type=int, default=3, help="runs of each kind [3]")
    options.add_argument("--threads", type=int, default=1, help="of the training process [1]")
    options.add_argument("--stages", type=int, nargs="*", choices=STAGES, default=STAGES)
    chosen = options.parse_args()
    kinds = ["plain", "Ray", *(f"ZeRO {stage}" for stage in chosen.stages)]
    warnings.filterwarnings("ignore")
    logging.basicConfig(level=logging.ERROR)
    seconds: dict[str, list[list[float]]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as folder:
        sections = runs.prepare(Path(folder), chosen.divisor, chosen.resolution)
        for number in range(chosen.rounds):
            for kind in kinds:
                name = f"{kind.replace(' ', '-')}-{number}"
                seconds[kind].append(run(kind, name, sections, chosen.steps, chosen.batch, chosen.threads))
    figures = {}
    for kind in kinds:
        quotients = [
            statistics.median(ours) / statistics.median(plain) - 1
            for ours, plain in zip(seconds[kind], seconds["plain"], strict=True)
        ]
        figures[kind] = {
            "seconds": Spread.of([second for of_run in seconds[kind] for second in of_run]),
            "over_plain": Spread.of(quotients),
        }
    lines = [
        f"1/{chosen.divisor} of Stable Diffusion 1.5's widths, {chosen.resolution} x {chosen.resolution} pixels, batch "
        f"{chosen.batch}, {chosen.threads} threads, {chosen.rounds} runs of {chosen.steps} steps each",
        f"{'':8}{'seconds a step':28}over plain",
    ]
    lines += [
        f"{kind:8}{row['seconds']!s:28}{row['over_plain'].median:+.1%} "
        f"({row['over_plain'].low:+.1%} to {row['over_plain'].high:+.1%})"
        for kind, row in figures.items()
    ]
    show({"aim": AIM, "kinds": figures}, lines, chosen.json)


if __name__ == "__main__":
    main()
