"""Step time, images per second and cost against GPUs, on paper: arithmetic alone, in seconds, without a GPU.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --rate 0.15 0.4 --price 2
    python benchmarks/scaling.py --plot docs/images/scaling.svg

What the work takes is counted (siamdiff.estimate), what processors take was measured on two cores
(docs/performance.md), what GPUs and networks give is their makers' word times an assumed share: no GPU has been
measured. `--rate` puts another share of the GPU's peak in the place of the assumed one, such as `share_of_peak` in a
run's metrics.jsonl; given several, everything is told for each. docs/scaling.md tells what is modelled, and what was
found.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.common import parser, show
from benchmarks.scaling_generation import Generation
from benchmarks.scaling_limits import BATCH, MASKS, Check, Limit, fold_limit, gpu_limits, image_limits, shares
from benchmarks.scaling_training import (
    NODES,
    READ_PER_PROCESS,
    READERS,
    Node,
    Setting,
    Step,
    best,
    checkpoint_bytes,
)
from siamdiff.estimate.devices import UTILISATION
from siamdiff.sections import Precision

GPUS = (1, 8, 48, 64)  # 48: the most that the paper's batch has samples for
A_GPU = 6  # samples of each GPU where the batch grows with them: the paper's 48 on 8
STAGES = (0, 1, 2, 3)
IMAGES = (10**6, 10**8)
FOLDS = 4  # from so many masks, that is, which are more than anybody has; the paper's 1,450 beside them
DRAWN = "H100"  # in the plot
NAMES = {0: "stage 0", 2: "stages 1, 2", 3: "stage 3"}  # that differ where no micro-batches accumulate


def training(nodes: dict[str, Node], rate: float | None) -> list[dict[str, Any]]:
    """A row per GPU, number of GPUs, stage and batch; `step` is None where memory does not do for one sample, or where
    a worker would have none."""
    rows = []
    for name, node in nodes.items():
        for gpus in GPUS:
            for batch in (BATCH, A_GPU * gpus):
                for stage in STAGES:
                    setting = Setting(node, gpus, stage, batch, share=rate)
                    step = best(setting) if gpus <= batch else None
                    rows.append(
                        {"device": name, "gpus": gpus, "batch": batch, "stage": stage, "step": _told(step)}
                    )
    return rows


def _told(step: Step | None) -> dict[str, Any] | None:
    if step is None:
        return None
    return dataclasses.asdict(step) | {"seconds": step.seconds, "samples_per_second": step.rate}


def generation(nodes: dict[str, Node], rate: float | None) -> list[dict[str, Any]]:
    """A row per GPU, number of images, precision, number of masks and of GPUs; `rate` is that of 16 bit."""
    rows = []
    for node in nodes.values():
        for images in IMAGES:
            settings: list[tuple[Precision, float | None, int]] = [
                ("bf16", rate, images // FOLDS),
                ("fp32", None, images // FOLDS),
            ]
            if images == IMAGES[0]:  # of the larger number nobody would wait for the folds
                settings.append(("bf16", rate, MASKS))
            for precision, share, masks in settings:
                for gpus in (1, 8, 64):
                    rows.append(_generated(Generation(node, gpus, images, masks, precision, share)))
    return rows


def _generated(job: Generation) -> dict[str, Any]:
    asked = job.requests()
    return {
        "device": job.node.device.name,
        "gpus": job.gpus,
        "images": job.images,
        "masks": job.masks,
        "precision": job.precision,
        "images_per_second": job.rate,
        "hours": job.seconds / 3600,
        "hours_of": {
            "planning": job.planning_seconds / 3600,
            "sampling": job.sampling_seconds / 3600,
            "audit": job.audit_seconds / 3600,
            "finishing": job.finishing_seconds / 3600,
        },
        "gpu_hours": job.gpu_hours,
        "gpu_dollars": job.gpu_dollars,
        "shards": job.shards,
        "objects": job.objects,
        "bytes": job.size,
        "requests": dataclasses.asdict(asked) | {"all": asked.all},
        "request_dollars": asked.price,
        "month_dollars": job.month_dollars,
    }


def checks() -> list[Check]:
    """What can be held against figures of docs/performance.md, those that nothing was fitted to."""
    # A step of 1/2 of the widths takes `rest` and the time of its operations; both from the rows before N/3.
    one, eleven = 71.378e9, 785.156e9  # FLOP, counted
    speed = (eleven - one) / (6.06 - 1.33)
    rest = 1.33 - one / speed
    decode = 0.341e9  # FLOP of the tiny base at 64 x 64, as of the next line
    quotient = (24.450e9 + decode) / (9.819e9 + decode)
    waits = max(0.0, 1 - READERS * READ_PER_PROCESS["png"] / 200)
    return [
        Check("training, batch 1 after N/3, s", rest + 109.649e9 / speed, 1.82),
        Check("training, batch 11 after N/3, s", rest + 861.698e9 / speed, 6.90),
        Check("sampling, images/s with 20 steps by those with 50", quotient, 6.136 / 2.531),
        Check("fleet, 2 actors by 1, disk", 2.0, 1.963),
        Check("fleet, 2 actors by 1, S3", 2.0, 1.998),
        Check("checkpoint of 1/4 of the widths, GB", checkpoint_bytes(0, 54_731_956) / 1e9, 0.66),
        Check("share of a step that waits for data, 200 samples/s of PNG", waits, 0.0),
        Check("requests of a look at 10,000 finished shards", 2 * 10_000 / 1000, 20),
    ]


def lines_of_plot(node: Node, rate: float | None) -> dict[str, list[tuple[float, float]]]:
    """Samples/s against GPUs by what is drawn."""
    numbers = [1, 2, 4, 8, 16, 24, 32, 48, 64]
    lines = {}
    for stage, name in NAMES.items():
        steps = [
            (gpus, best(Setting(node, gpus, stage, BATCH, share=rate))) for gpus in numbers if gpus <= BATCH
        ]
        lines[f"{name}, batch {BATCH}"] = [(gpus, step.rate) for gpus, step in steps if step]
    growing = [(gpus, best(Setting(node, gpus, 2, A_GPU * gpus, share=rate))) for gpus in numbers]
    lines[f"stages 1, 2, {A_GPU} a GPU"] = [(gpus, step.rate) for gpus, step in growing if step]
    first = lines[f"stage 0, batch {BATCH}"][0][1]
    lines["in proportion"] = [(gpus, gpus * first) for gpus in numbers]
    return lines


def _training_lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield f"{'training, bf16, cache':22}{'GPUs':>5}{'batch':>6}" + "".join(
        f"{f'stage {s}: s, samples/s':>27}" for s in STAGES
    )
    for start in range(0, len(rows), len(STAGES)):
        of_stage = rows[start : start + len(STAGES)]
        first = of_stage[0]
        if first["batch"] == BATCH == A_GPU * first["gpus"] and start % (2 * len(STAGES)):
            continue  # the same twice
        cells = []
        for row in of_stage:
            step = row["step"]
            if step is None:
                cells.append("refused" if row["gpus"] > row["batch"] else "does not fit")
            else:
                cells.append(
                    f"{step['seconds']:.3f} {step['samples_per_second']:8.1f} {step['micro_batch']:2}x"
                    f"{step['accumulation']:<2}{'c' if step['checkpointing'] else ' '}"
                )
        yield f"{first['device']:22}{first['gpus']:5}{first['batch']:6}" + "".join(
            f"{cell:>27}" for cell in cells
        )


def _generation_lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield (
        f"{'generation':10}{'GPUs':>5}{'images':>12}{'masks':>11}{'':>6}{'images/s':>10}{'hours':>10}"
        f"{'GPU h':>9}{'dollars':>9}{'objects':>11}{'TB':>8}{'requests':>12}{'dollars':>9}{'a month':>9}"
    )
    for row in rows:
        yield (
            f"{row['device']:10}{row['gpus']:5}{row['images']:12,}{row['masks']:11,}{row['precision']:>6}{row['images_per_second']:10.2f}"
            f"{row['hours']:10,.1f}{row['gpu_hours']:9,.0f}{row['gpu_dollars']:9,.0f}{row['objects']:11,}"
            f"{row['bytes'] / 1e12:8.2f}{row['requests']['all']:12,}{row['request_dollars']:9,.2f}"
            f"{row['month_dollars']:9,.2f}"
        )


def _limit_lines(limits: list[Limit]) -> Iterator[str]:
    for limit in limits:
        yield f"{limit.at:15,.0f} {limit.of:7} {limit.what}; remedy: {limit.remedy}"


def _lines(found: dict[str, Any]) -> Iterator[str]:
    told = f"{found['rate']:.0%}" if found["rate"] else f"{UTILISATION['bf16']:.0%} (assumed)"
    yield f"share of the peak in bf16: {told}"
    yield from _training_lines(found["training"])
    yield from _generation_lines(found["generation"])
    yield f"what breaks first, {DRAWN}:"
    yield from _limit_lines(found["limits"])
    yield "what does not, as a share of what there is:"
    yield from (f"{value:15.3f} {what}" for what, value in found["shares"].items())


def predict(rate: float | None, price: float | None) -> dict[str, Any]:
    """Everything for one share of the GPU's peak; None: the assumed one."""
    nodes = {
        name: dataclasses.replace(node, price=price) if price is not None else node
        for name, node in NODES.items()
    }
    drawn = nodes[DRAWN]
    limits = [*gpu_limits(drawn, "bf16", rate), fold_limit(drawn, "bf16", rate), *image_limits()]
    return {
        "rate": rate,
        "training": training(nodes, rate),
        "generation": generation(nodes, rate),
        "limits": limits,
        "shares": shares(drawn, "bf16", rate),
    }


def main() -> None:
    """Reckon and print."""
    options = parser(__doc__)
    options.add_argument(
        "--rate", type=float, nargs="+", metavar="SHARE", help="of the GPU's peak in bf16 [0.25, assumed]"
    )
    options.add_argument("--price", type=float, help="of a GPU hour, dollars [one for each GPU, assumed]")
    options.add_argument("--plot", type=Path, help="SVG to write: samples/s against GPUs, at the first share")
    chosen = options.parse_args()
    if wrong := [rate for rate in chosen.rate or [] if not 0 < rate <= 1]:
        options.error(f"--rate {wrong[0]} is no share of a peak; give numbers above 0, at most 1")
    rates = chosen.rate or [None]
    found = [predict(rate, chosen.price) for rate in rates]
    held = checks()
    if chosen.plot:
        from siamdiff.report.plots import growth

        chosen.plot.write_text(growth(lines_of_plot(NODES[DRAWN], rates[0]), "GPUs", "samples/s"))
    rows = [line for one in found for line in _lines(one)]
    rows.append("held against docs/performance.md: predicted, measured, error")
    rows += [
        f"{check.predicted:10.3f}{check.measured:10.3f}{check.error:8.1%}  {check.what}" for check in held
    ]
    show({"predictions": found, "checks": held}, rows, chosen.json)


if __name__ == "__main__":
    main()
