"""Who sets the metrics of infra/metrics.py: the job about itself and its workers, every process about the store.

What workers know of a run reaches the job with their pulses (infra/supervisor.py), so that all of a run's series are of
one process, and none stays behind with a lost worker. A process that belongs to no Ray cluster exports nothing.
"""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from infra import metrics
from infra.metrics import Metric
from siamdiff import calls
from siamdiff.config import Config

BEAT_SECONDS = 5.0
_DIRECTIONS = {
    "read_bytes": "read",
    "download_file": "read",
    "write_bytes": "write",
    "put_if_absent": "write",
    "upload_file": "write",
}
_ends: dict[tuple[str, str, str], float] = {}  # what this process has told of its ends, by labels


def is_connected() -> bool:
    """Whether this process belongs to a Ray cluster."""
    if "ray" not in sys.modules:
        return False
    import ray

    return ray.is_initialized()


def watch_store() -> None:
    """Counts this process's calls of the store from now on."""
    calls.observe(_count)


def _count(call: calls.StoreCall) -> None:
    if not is_connected():
        return
    made = {name: metrics.create(metric) for name, metric in metrics.STORE.items()}
    scheme = {"scheme": call.scheme}
    about = scheme | {"operation": call.operation}
    made["requests"].inc(1, tags=about)
    if call.error:
        made["errors"].inc(1, tags=about | {"error": call.error})
    if call.retries:
        made["retries"].inc(call.retries, tags=about)
    for direction, size in (("read", call.read), ("written", call.written)):
        if size:
            made["bytes"].inc(size, tags=scheme | {"direction": direction})
    direction = _DIRECTIONS.get(call.operation, "look")
    made["seconds"].observe(call.seconds, tags=scheme | {"direction": direction})


class JobWatch:
    """What a job tells of one of its stages: phase, progress, heartbeat, cost, all gauges, and how it ended.

    Args:
        stage: such as "train".
        config: resolved configuration; `train.run` is the label `run` of every stage.
    """

    def __init__(self, stage: str, config: Config) -> None:
        assert config.train.run, "the configuration is resolved"
        self.tags = {"stage": stage, "run": config.train.run}
        self._gauges: dict[tuple[Metric, frozenset[tuple[str, str]]], float] = {}
        self._lock = threading.Lock()  # the thread that beats reads what the job's own writes
        self._done: tuple[str, int] | None = None  # phase, and what is done in it
        now = time.time()
        self._tell("start", now)
        self._tell("progress", now)
        budget = {"train": config.train.budget_cost, "generate": config.generate.budget_cost}.get(stage)
        if budget is not None:
            self._tell("budget", budget)
        if config.cluster.schedule_hours:
            self._tell("schedule", 3600 * config.cluster.schedule_hours)

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Takes the value of a gauge, which stays until the next one or the job's end.

        Args:
            metric: of the table.
            value: what it is now.
            labels: those that the job does not know.
        """
        tags = {name: value for name, value in self.tags.items() if name in metric.labels} | labels
        with self._lock:
            self._gauges[metric, frozenset(tags.items())] = value

    def tell(self, phase: str, done: int, total: int) -> None:
        """Takes what status.json says."""
        first = phase.partition(" ")[0]  # the rest names a set
        if (first, done) != self._done:
            self._tell("progress", time.time())
        if self._done and self._done[0] != first:
            self.set(metrics.JOB["phase"], 0.0, phase=self._done[0])
        self.set(metrics.JOB["phase"], 1.0, phase=first)
        self._done = first, done
        self._tell("done", done)
        self._tell("left", total - done)
        self._export()

    def moved(self, ago: float, done: int, total: int) -> None:
        """Takes that something was finished so many seconds ago, where status.json does not say so."""
        self._tell("progress", time.time() - ago)
        self._tell("done", done)
        self._tell("left", total - done)

    def spent(self, cost: float, cost_left: float | None) -> None:
        """Takes dollars, spent and still to be spent."""
        self._tell("cost", cost)
        if cost_left is not None:
            self._tell("cost_left", cost_left)

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Exports everything every few seconds while the block runs: Ray forgets a gauge that is not set again."""
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(BEAT_SECONDS):
                self._export()

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def ended(self, end: str) -> None:
        """Takes how it ended, one of metrics.ENDS."""
        if not is_connected():
            return
        tags = self.tags | {"end": end}
        key = (tags["stage"], tags["run"], end)
        now = time.time()
        metrics.create(metrics.JOB["end"]).inc(now - _ends.get(key, 0.0), tags=tags)
        _ends[key] = now

    def _tell(self, name: str, value: float) -> None:
        self.set(metrics.JOB[name], float(value))

    def _export(self) -> None:
        if not is_connected():
            return
        self._tell("heartbeat", time.time())
        with self._lock:
            gauges = dict(self._gauges)
        for (metric, tags), value in gauges.items():
            metrics.create(metric).set(value, tags=dict(tags))


class TrainGauges:
    """What a job tells of its run: the lines of rank 0, and what it knows itself."""

    def __init__(self, watch: JobWatch) -> None:
        self._watch = watch

    def set(self, line: dict[str, float]) -> None:
        """Takes one line of metrics.jsonl, or a part of one; what is not in the table is passed over."""
        for name in line.keys() & metrics.TRAIN.keys():
            self._watch.set(metrics.TRAIN[name], line[name])
        for term in line.keys() & set(metrics.TRAIN_LOSS_TERMS):
            self._watch.set(metrics.TRAIN_LOSS, line[term], term=term)


class GenerateGauges:
    """What a job tells of the set that it makes."""

    def __init__(self, watch: JobWatch) -> None:
        self._watch = watch

    def set(self, figures: dict[str, float], rejected: dict[str, int]) -> None:
        """Takes what is known; the others stay what they were.

        Args:
            figures: by the names of metrics.GENERATE.
            rejected: images by gate, of metrics.REASONS.
        """
        for name, value in figures.items():
            self._watch.set(metrics.GENERATE[name], value)
        for reason, count in rejected.items():
            self._watch.set(metrics.REJECTED, float(count), reason=reason)

    def add(self, row: dict[str, Any]) -> None:
        """Takes the seconds that a shard took, by the names of metrics.GENERATE_SECONDS."""
        for name, metric in metrics.GENERATE_SECONDS.items():
            if row[name] > 0:
                metrics.create(metric).inc(row[name], tags={"run": self._watch.tags["run"]})
