"""Every Prometheus metric of the project, in one table. Ray's metrics agents export them, with ray_ before the name.

    python -m infra.metrics      writes the table of docs/metrics.md again

infra/exporting.py sets them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

PAGE = Path(__file__).resolve().parents[1] / "docs" / "metrics.md"
BEGIN, END = "<!-- table: python -m infra.metrics -->\n", "<!-- end of the table -->\n"

TRAIN_LOSS_TERMS = ("L_m", "L_i", "L_c", "L_m_prime", "L")
ENDS = ("finished", "stopped", "failed", "refused", "diverged")
REASONS: tuple[str, ...] = ("copy", "blank", "dice")


@dataclass(frozen=True)
class Metric:
    """One metric: what it is called, counts and means. Labels take few values, each known beforehand but `run`."""

    name: str
    unit: str
    meaning: str
    labels: tuple[str, ...]
    kind: Literal["gauge", "counter", "histogram"] = "gauge"
    buckets: tuple[float, ...] = ()  # upper bounds, of a histogram

    @property
    def series(self) -> tuple[str, ...]:
        """The names under which Prometheus knows it."""
        name = f"ray_{self.name}"
        if self.kind == "histogram":
            return f"{name}_bucket", f"{name}_sum", f"{name}_count"
        return (f"{name}_total",) if self.kind == "counter" else (name,)


_JOB, _RUN, _CALL = ("stage", "run"), ("run",), ("operation", "scheme")

# Of the process that a job is; by the name that infra.exporting.JobWatch gives a figure.
JOB = {
    "heartbeat": Metric(
        "siamdiff_job_heartbeat_timestamp_seconds", "Unix time", "last sign of life; every 5 s", _JOB
    ),
    "start": Metric("siamdiff_job_start_timestamp_seconds", "Unix time", "this command's first moment", _JOB),
    "progress": Metric(
        "siamdiff_job_progress_timestamp_seconds",
        "Unix time",
        "when something was finished last: a step, a shard, a phase",
        _JOB,
    ),
    "phase": Metric(
        "siamdiff_job_phase", "0 or 1", "1 for the phase that status.json names", (*_JOB, "phase")
    ),
    "done": Metric("siamdiff_job_done", "steps, shards ...", "finished, as status.json counts", _JOB),
    "left": Metric("siamdiff_job_left", "steps, shards ...", "not finished yet", _JOB),
    "cost": Metric(
        "siamdiff_job_cost_dollars",
        "dollars",
        "spent at `cluster.price`: by all attempts at a run, by this command that generates",
        _JOB,
    ),
    "cost_left": Metric("siamdiff_job_cost_left_dollars", "dollars", "to the end, at this speed", _JOB),
    "budget": Metric("siamdiff_job_budget_dollars", "dollars", "`budget_cost` of the stage", _JOB),
    "schedule": Metric("siamdiff_job_schedule_seconds", "seconds", "`cluster.schedule_hours`", _JOB),
    "end": Metric(
        "siamdiff_job_end_timestamp_seconds",
        "Unix time",
        "when a command last ended in this way. A counter that a command adds the time to, once: Ray forgets the "
        "gauges of a process that ended, and keeps its counters",
        (*_JOB, "end"),
        "counter",
    ),
}

TRAIN_LOSS = Metric("siamdiff_train_loss", "loss", "mean since the last line, by term", ("run", "term"))
# By the name that a figure has in metrics.jsonl, or that infra.workers gives it. A line without it changes nothing.
TRAIN = {
    "step": Metric("siamdiff_train_step", "steps", "optimizer steps finished", _RUN),
    "samples_per_second": Metric(
        "siamdiff_train_samples_per_second",
        "samples per second",
        "over all workers, since the last line",
        _RUN,
    ),
    "tflops": Metric(
        "siamdiff_train_teraflops",
        "10^12 operations per second",
        "model floating-point operations of a worker",
        _RUN,
    ),
    "share_of_peak": Metric(
        "siamdiff_train_share_of_peak_ratio",
        "0 to 1",
        "of the GPU's peak in the run's precision; absent where that is not known",
        _RUN,
    ),
    "step_seconds": Metric(
        "siamdiff_train_step_seconds", "seconds", "of a step, mean since the last line", _RUN
    ),
    "data_seconds": Metric(
        "siamdiff_train_data_seconds",
        "seconds",
        "of a step's, those spent waiting for samples; slowest worker",
        _RUN,
    ),
    "checkpoint_seconds": Metric(
        "siamdiff_train_checkpoint_seconds",
        "seconds",
        "of a step's, those that checkpoints took; slowest worker",
        _RUN,
    ),
    "learning_rate": Metric("siamdiff_train_learning_rate", "1", "of the last step", _RUN),
    "gradient_norm": Metric(
        "siamdiff_train_gradient_norm", "1", "of the last step's whole batch, before clipping", _RUN
    ),
    "gpu_memory_bytes": Metric(
        "siamdiff_train_gpu_memory_bytes",
        "bytes",
        "that PyTorch held at most, since the start; fullest GPU; absent on a CPU",
        _RUN,
    ),
    "validation_loss": Metric(
        "siamdiff_train_validation_loss", "loss", "L_m on the val split, fixed noise and timesteps", _RUN
    ),
    "preview_mmd_linear_efficientnet_lite0": Metric(
        "siamdiff_train_preview_mmd",
        "squared distance",
        "unbiased MMD between the previews' samples and real images",
        _RUN,
    ),
    "preview_mmd_linear_efficientnet_lite0_floor": Metric(
        "siamdiff_train_preview_mmd_floor",
        "squared distance",
        "the same between real images and others",
        _RUN,
    ),
    "checkpoint_time": Metric(
        "siamdiff_train_checkpoint_timestamp_seconds",
        "Unix time",
        "when the last checkpoint counted; absent before the first",
        _RUN,
    ),
    "checkpoint_interval": Metric(
        "siamdiff_train_checkpoint_interval_seconds", "seconds", "`train.checkpoint_minutes`", _RUN
    ),
    "started": Metric(
        "siamdiff_train_started_timestamp_seconds", "Unix time", "when the workers were last started", _RUN
    ),
    "workers": Metric("siamdiff_train_workers", "workers", "heard of by now", _RUN),
    "restarts": Metric(
        "siamdiff_train_restarts", "restarts", "times that this job has started its workers again", _RUN
    ),
}

REJECTED = Metric(
    "siamdiff_generate_rejected",
    "images",
    "of this job that no draw made pass a gate, by gate; 0 of a gate that is off",
    ("run", "reason"),
)
# By the name that infra.fleet.Progress gives a figure.
GENERATE = {
    "done": Metric("siamdiff_generate_shards_done", "shards", "finished, by this job or before", _RUN),
    "planned": Metric("siamdiff_generate_shards_planned", "shards", "of the whole set", _RUN),
    "failed": Metric("siamdiff_generate_shards_failed", "shards", "given up by this job", _RUN),
    "retried": Metric(
        "siamdiff_generate_shards_retried", "shards", "finished at a later attempt than the first", _RUN
    ),
    "images": Metric("siamdiff_generate_images", "images", "written by this job", _RUN),
    "images_per_second": Metric(
        "siamdiff_generate_images_per_second",
        "images per second",
        "of all actors, since the job's first shard",
        _RUN,
    ),
    "seconds_left": Metric(
        "siamdiff_generate_seconds_left", "seconds", "until the last shard, at this speed", _RUN
    ),
    "actors": Metric(
        "siamdiff_generate_actors", "actors", "that finished a shard in this job, lost ones too", _RUN
    ),
    "busy": Metric(
        "siamdiff_generate_actor_busy_ratio",
        "0 to 1",
        "of all actors' seconds, those in which one drew; the rest is loading, waiting for masks and for the store",
        _RUN,
    ),
    "gpu_seconds": Metric(
        "siamdiff_generate_gpu_seconds", "GPU seconds", "GPUs of all actors times their seconds", _RUN
    ),
    "redrawn": Metric(
        "siamdiff_generate_redrawn", "images", "of this job that took more than one draw to pass", _RUN
    ),
}
# Seconds that add up, over all actors.
GENERATE_SECONDS = {
    "encode": Metric(
        "siamdiff_generate_encode_seconds",
        "seconds",
        "spent on encoding images, beside the next drawing",
        _RUN,
        "counter",
    ),
    "upload": Metric(
        "siamdiff_generate_upload_seconds",
        "seconds",
        "spent on packing shards and writing them to the store, beside the next drawing",
        _RUN,
        "counter",
    ),
}

# Of every process of a job: its own, the training workers, the actors.
STORE = {
    "requests": Metric(
        "siamdiff_store_requests", "calls", "calls of the store, however they ended", _CALL, "counter"
    ),
    "errors": Metric(
        "siamdiff_store_errors",
        "calls",
        "calls that failed after all attempts: `refused` (keys, permissions, no such place) or `failed`",
        (*_CALL, "error"),
        "counter",
    ),
    "retries": Metric("siamdiff_store_retries", "attempts", "after a call's first", _CALL, "counter"),
    "bytes": Metric(
        "siamdiff_store_bytes", "bytes", "of objects, `read` or `written`", ("scheme", "direction"), "counter"
    ),
    "seconds": Metric(
        "siamdiff_store_seconds",
        "seconds",
        "of a call with all its attempts: those that `read`, those that `write`, and those that only `look`",
        ("scheme", "direction"),
        "histogram",
        (0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0),
    ),
}

GROUPS: Mapping[str, tuple[Metric, ...]] = {
    "Job": tuple(JOB.values()),
    "Training": (TRAIN_LOSS, *TRAIN.values()),
    "Generation": (*GENERATE.values(), REJECTED, *GENERATE_SECONDS.values()),
    "Store": tuple(STORE.values()),
}


def table() -> Iterator[Metric]:
    """All metrics."""
    for group in GROUPS.values():
        yield from group


@cache
def create(metric: Metric) -> Any:
    """This process's ray.util.metrics object of a metric; exported while the process belongs to a Ray cluster."""
    from ray.util import metrics

    about = {"description": metric.meaning, "tag_keys": metric.labels}
    if metric.kind == "histogram":
        return metrics.Histogram(metric.name, boundaries=list(metric.buckets), **about)
    return (metrics.Counter if metric.kind == "counter" else metrics.Gauge)(metric.name, **about)


def as_markdown() -> str:
    """The table for docs/metrics.md, a part for each group."""
    lines: list[str] = []
    for title, group in GROUPS.items():
        lines += [
            f"### {title}",
            "",
            "| name in Prometheus | type | unit | labels | meaning |",
            "|---|---|---|---|---|",
        ]
        for metric in group:
            name = metric.series[0].removesuffix("_bucket")
            labels = " ".join(f"`{label}`" for label in metric.labels)
            lines.append(f"| `{name}` | {metric.kind} | {metric.unit} | {labels} | {metric.meaning} |")
        lines.append("")
    return "\n".join(lines)


def with_table(page: str) -> str:
    """A page with the table between its two marks."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{as_markdown()}{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
