"""The project's speed in one command: a training step, sampling and the data path, against what one would run instead.

    python -m benchmarks.run                                  # finds out what it is on; --json FILE writes all figures
    python -m benchmarks.run --parts training --rounds 9
    python -m benchmarks.run --size toy                       # does it run here at all?

One process, no Ray, no network, nothing downloaded: networks have random weights. On a CPU they are Stable Diffusion
1.5's with widths divided, in fp32; on a GPU (one is enough) its true size at 384 x 384 pixels, in bf16, for about eight
minutes. It warms up, lets what is compared take turns, and prints medians with their quartiles, quotients round by
round, counted operations, and the share that these are of what a large matrix product reaches in the same run.

It needs the packages of pyproject.toml's first list that siamdiff imports (docs/performance.md names them), not their
exact versions.
"""

import argparse
import json
import logging
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import datapath, sampling, training
from benchmarks.common import machine
from benchmarks.place import Place, find_place, matrix_rate
from siamdiff.training.speed import forbid_tf32

PARTS = ("training", "sampling", "data")


@dataclass(frozen=True)
class Size:
    """How large everything is, and how often it is repeated."""

    training: training.Size
    sampling: sampling.Size
    data: datapath.Size
    matrix: int  # side of the matrices whose product is the measure
    rounds: int


SIZES = {
    "toy": Size(training.Size(16, 64, 5), sampling.Size(16, 64, 2, 2), datapath.Size(64, 8), 256, 1),
    "small": Size(training.Size(2, 128, 8), sampling.Size(4, 64, 8, 20), datapath.Size(384, 64), 2048, 3),
    "true": Size(training.Size(1, 384, 32), sampling.Size(1, 384, 16, 50), datapath.Size(384, 64), 8192, 7),
}


def measure(place: Place, parts: list[str], size: Size, *, stages: bool) -> Iterator[dict[str, Any]]:
    """The figures so far, after each part: one that fails takes none of the others along.

    Args:
        place: where networks run; the data path is the CPU's.
        parts: of PARTS.
        size: of everything.
        stages: whether to measure what is there for GPUs, too.
    """
    rate = matrix_rate(place, size.matrix)
    figures: dict[str, Any] = {
        "machine": machine(place.device) | {"device": str(place.device), "precision": place.precision},
        "threads": torch.get_num_threads(),
        "matrix_tflops": rate / 1e12,
    }
    yield figures
    if "training" in parts:
        figures["training"] = training.measure(place, size.training, size.rounds, rate, stages=stages)
        figures["rounding"] = training.rounding(place)
        yield figures
        if stages:
            figures["workstation"] = training.workstation(place, size.training)
            yield figures
    if "sampling" in parts:
        figures["sampling"] = sampling.measure(place, size.sampling, size.rounds, rate, stages=stages)
        yield figures
    if "data" in parts:
        figures["data"] = datapath.measure(size.data, size.rounds)
        yield figures


def table(figures: dict[str, Any]) -> Iterator[str]:
    """The figures for a person, as Markdown that docs/performance.md takes."""
    where = figures["machine"]
    yield (
        f"{where['date']}, {where['gpu'] or where['processor']}, {where['cores']} cores, "
        f"{figures['threads']} threads, PyTorch {where['torch']}, {where['precision']}, load {where['load']:.1f}; a "
        f"large matrix product reaches {figures['matrix_tflops']:.3g} TFLOP/s"
    )
    if "training" in figures:
        yield from _training(figures)
    if station := figures.get("workstation"):
        yield (
            f"\nworkstation.yaml, a step of {station['batch']}: {station['reserved_gb']:.1f} GB reserved of "
            f"{station['cap_gb']}, {station['peak_gb']:.1f} made by the step, {station['seconds']:.1f} s"
        )
    if "sampling" in figures:
        yield from _sampling(figures["sampling"])
    if "data" in figures:
        yield from _data(figures["data"])


def _training(figures: dict[str, Any]) -> Iterator[str]:
    part = figures["training"]
    size, aims = part["size"], part["aims"]
    yield (
        f"\n**Training step**, 1/{size['divisor']} of Stable Diffusion 1.5's widths, {size['resolution']} x "
        f"{size['resolution']}, batch {size['batch']}\n"
    )
    yield "| | step | seconds | samples/s | TFLOP | TFLOP/s | of the matrix product | peak GB |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in part["rows"]:
        for name, step in row["steps"].items():
            yield f"| {row['phase']} | {name} | {step['seconds']} | {_rates(step)} |"
    for row in part["rows"]:
        yield (
            f"\n{row['phase']}: time {row['time']} of straightforward, operations {row['operations']:.3f}, their "
            f"quotient {row['time / operations']:.3f} (aim {aims['time / operations']}); counted memory with "
            f"checkpointing in both {row['memory']:.3f} (aim {aims['memory']}) at {row['largest'].batch} samples, the "
            f"largest batch for 24 GB; {row['controlnet']} times a plain ControlNet's step (aim {aims['controlnet']})"
        )
    if part["stages"]:
        yield "\n| step of siamdiff | | seconds | samples/s | TFLOP | TFLOP/s | of the matrix product | peak GB |"
        yield "|---|---|---|---|---|---|---|---|"
        for row in part["stages"]:
            yield f"| {row['stage']} | {row['phase']} | {row['seconds']} | {_rates(row)} |"
    found = figures["rounding"]
    errors = [
        f"{loss:.1e}, {norm:.1e}" for loss, norm in zip(found["loss"], found["gradient_norm"], strict=True)
    ]
    yield f"\nAgainst fp32 on the CPU, tiny: relative error of loss, gradient's norm {'; '.join(errors)}"


def _rates(row: dict[str, Any]) -> str:
    return (
        f"{row['samples_per_second']:.3g} | {row['tflop']:.3f} | {row['tflops']:.3g} | {row['share']:.0%} | "
        f"{row['peak_gb']:.2f}"
    )


def _sampling(part: dict[str, Any]) -> Iterator[str]:
    size = part["size"]
    yield (
        f"\n**Sampling**, 1/{size['divisor']} of the widths, {size['resolution']} x {size['resolution']}, batch "
        f"{size['batch']}, {size['steps']} steps, guidance {size['guidance']:g}; levels differ by at most "
        f"{part['largest_difference']}; ours reaches {part['share']:.0%} of the matrix product\n"
    )
    yield "| | seconds a batch | images/s | ours is faster by | peak GB |"
    yield "|---|---|---|---|---|"
    for name, row in part["rows"].items():
        times = part["times"].get(name, "")
        yield f"| {name} | {row['seconds']} | {row['images_per_second']:.3g} | {times} | {row['peak_gb']:.2f} |"
    if part["stages"]:
        yield "\n| siamdiff | seconds a batch | images/s | of the matrix product |"
        yield "|---|---|---|---|"
        for row in part["stages"]:
            yield f"| {row['stage']} | {row['seconds']} | {row['images_per_second']:.3g} | {row['share']:.0%} |"


def _data(part: dict[str, Any]) -> Iterator[str]:
    size = part["size"]
    yield f"\n**Data path**, {size['count']} pairs of {size['resolution']} x {size['resolution']}, one thread, disk\n"
    yield f"| | | seconds | against | its seconds | quotient (aim {part['aim']}) | samples/s |"
    yield "|---|---|---|---|---|---|---|"
    for row in part["rows"]:
        yield (
            f"| {row['format']} | {row['kind']} | {row['seconds']} | {row['against']} | {row['plain']} | "
            f"{row['quotient']} | {row['samples_per_second']:.3g} |"
        )


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    options.add_argument("--size", choices=tuple(SIZES), help="[true on a GPU, small on a CPU]")
    options.add_argument("--device", help="such as cuda:1 or cpu [a GPU, if there is one]")
    options.add_argument(
        "--precision", choices=("fp32", "bf16"), help="of networks [bf16 on a GPU, fp32 on a CPU]"
    )
    options.add_argument("--rounds", type=int, help="measured repetitions of each [the size's]")
    options.add_argument("--threads", type=int, help="of PyTorch on a CPU [all cores]")
    options.add_argument(
        "--stages",
        action=argparse.BooleanOptionalAction,
        help="what is there for GPUs, one thing added to the other, compilation last [on a GPU]",
    )
    options.add_argument("--json", type=Path, metavar="FILE", help="all figures, every quartile")
    chosen = options.parse_args()
    warnings.filterwarnings("ignore")
    logging.basicConfig(level=logging.ERROR)
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    forbid_tf32()
    place = find_place(chosen.device, chosen.precision)
    size = SIZES[chosen.size or ("true" if place.on_gpu else "small")]
    if chosen.rounds:
        size = Size(**(vars(size) | {"rounds": chosen.rounds}))
    stages = place.on_gpu if chosen.stages is None else chosen.stages
    started, told = time.perf_counter(), 0
    for figures in measure(place, chosen.parts, size, stages=stages):
        lines = list(table(figures))
        print("\n".join(lines[told:]), flush=True)
        told = len(lines)
        if chosen.json:
            chosen.json.write_text(json.dumps(figures, default=asdict, indent=1) + "\n")
    print(f"\n{(time.perf_counter() - started) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
