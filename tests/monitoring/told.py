"""A driver of Ray that tells every metric of the table, such that every panel and every alert has something to show.

Run by test_scrape.py with RAY_TMPDIR; it tells everything each half second until its standard input ends.
"""

import itertools
import select
import sys
import time

from infra import cluster, metrics
from infra.metrics import ENDS, JOB, REASONS, TRAIN_LOSS_TERMS, Metric, create, table

HOUR = 3600.0
VALUES = {  # of each label but stage, run, end and phase
    "term": TRAIN_LOSS_TERMS,
    "reason": REASONS,
    "operation": ("read_bytes", "write_bytes"),
    "scheme": ("s3",),
    "error": ("failed",),
    "direction": ("read", "written"),
}
LIVE = ("train", "generate")  # stages at work
LOST, FAILED = "segment", "evaluate"  # was killed, ended with an error


def figures(now: float) -> dict[str, float]:
    """Of a job that went wrong in every way that has an alert; all others are 1."""
    return {
        "siamdiff_job_heartbeat_timestamp_seconds": now,
        "siamdiff_job_start_timestamp_seconds": now - 6 * HOUR,
        "siamdiff_job_progress_timestamp_seconds": now - 5 * HOUR,
        "siamdiff_train_checkpoint_timestamp_seconds": now - 5 * HOUR,
        "siamdiff_train_started_timestamp_seconds": now - 6 * HOUR,
        "siamdiff_train_restarts": now // 2 % 2 * 5,  # both grow while they are looked at
        "siamdiff_generate_shards_retried": now // 2 % 2 * 5,
        "siamdiff_job_schedule_seconds": HOUR,
    }


def tags(metric: Metric, run: str) -> list[dict[str, str]]:
    """Every value of every label, of the jobs at work."""
    names = [label for label in metric.labels if label in VALUES]
    combined = [
        dict(zip(names, values, strict=True)) for values in itertools.product(*(VALUES[n] for n in names))
    ]
    if "run" in metric.labels:
        combined = [one | {"run": run} for one in combined]
    if "stage" in metric.labels:
        combined = [one | {"stage": stage} for one in combined for stage in LIVE]
    return [one | {"phase": "working"} if "phase" in metric.labels else one for one in combined]


def tell(round: int) -> None:
    """Everything once."""
    now = time.time()
    values = figures(now)
    for metric in table():
        if metric is JOB["end"]:
            continue
        made, value = create(metric), values.get(metric.name, 1.0)
        for one in tags(metric, "r"):
            if metric.kind == "gauge":
                made.set(value, tags=one)
            elif metric.kind == "counter":
                made.inc(1.0, tags=one)
            else:
                made.observe(0.1, tags=one)
    create(JOB["heartbeat"]).set(now - 0.5 * HOUR, tags={"stage": LOST, "run": "r"})
    if round == 0:
        for stage, end, ago in (
            ("generate", "finished", 2 * HOUR),
            ("train", "finished", 3 * HOUR),
            ("train", "diverged", HOUR),
            (FAILED, "failed", HOUR),
        ):
            assert end in ENDS
            create(JOB["end"]).inc(now - ago, tags={"stage": stage, "run": "r", "end": end})


if __name__ == "__main__":
    cluster.connect()
    assert set(metrics.table()) >= {JOB["end"]}
    for number in itertools.count():
        tell(number)
        if select.select([sys.stdin], [], [], 0.5)[0]:
            break
    cluster.leave()
