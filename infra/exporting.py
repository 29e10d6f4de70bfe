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
    """What a job tells of one of its stages: phase, progress, heartbeat, cost, and how it ended.

    Args:
        stage: such as "train".
        config: resolved configuration; `train.run` is the label `run` of every stage.
    """

    def __init__(self, stage: str, config: Config) -> None:
        assert config.train.run, "the configuration is resolved"
        self.tags = {"stage": stage, "run": config.train.run}
        now = time.time()
        self._figures = {"start": now, "progress": now}
        budget = {"train": config.train.budget_cost, "generate": config.generate.budget_cost}.get(stage)
        if budget is not None:
            self._figures["budget"] = budget
        if config.cluster.schedule_hours:
            self._figures["schedule"] = 3600 * config.cluster.schedule_hours
        self._phases: dict[str, float] = {}
        self._lock = threading.Lock()  # the thread that beats reads what the job's own writes

    def tell(self, phase: str, done: int, total: int) -> None:
        """Takes what status.json says."""
        first = phase.partition(" ")[0]  # the rest names a set
        with self._lock:
            if (first, done) != (self._phase(), self._figures.get("done")):
                self._figures["progress"] = time.time()
            self._phases = dict.fromkeys(self._phases, 0.0) | {first: 1.0}
            self._figures |= {"done": float(done), "left": float(total - done)}
        self._export()

    def moved(self, ago: float, done: int, total: int) -> None:
        """Takes that something was finished so many seconds ago, where status.json does not say so."""
        with self._lock:
            self._figures |= {"progress": time.time() - ago, "done": float(done), "left": float(total - done)}

    def spent(self, cost: float, cost_left: float | None) -> None:
        """Takes dollars, spent and still to be spent."""
        with self._lock:
            self._figures["cost"] = cost
            if cost_left is not None:
                self._figures["cost_left"] = cost_left

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Exports everything every few seconds while the block runs, also what was told before there was a cluster."""
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

    def _phase(self) -> str:
        return next((phase for phase, is_now in self._phases.items() if is_now), "")

    def _export(self) -> None:
        if not is_connected():
            return
        with self._lock:
            figures, phases = self._figures | {"heartbeat": time.time()}, dict(self._phases)
        for name, value in figures.items():
            metrics.create(metrics.JOB[name]).set(value, tags=self.tags)
        for phase, is_now in phases.items():
            metrics.create(metrics.JOB["phase"]).set(is_now, tags=self.tags | {"phase": phase})


class TrainGauges:
    """What a job tells of its run: the lines of rank 0, and what it knows itself."""

    def __init__(self, run: str) -> None:
        self._tags = {"run": run}

    def set(self, line: dict[str, float]) -> None:
        """Takes one line of metrics.jsonl, or a part of one; what is not in the table is passed over."""
        for name in line.keys() & metrics.TRAIN.keys():
            metrics.create(metrics.TRAIN[name]).set(line[name], tags=self._tags)
        for term in line.keys() & set(metrics.TRAIN_LOSS_TERMS):
            metrics.create(metrics.TRAIN_LOSS).set(line[term], tags=self._tags | {"term": term})


class GenerateGauges:
    """What a job tells of the set that it makes."""

    def __init__(self, run: str) -> None:
        self._tags = {"run": run}

    def set(self, figures: dict[str, float], rejected: dict[str, int]) -> None:
        """Takes what is known; the others stay what they were.

        Args:
            figures: by the names of metrics.GENERATE.
            rejected: images by gate, of metrics.REASONS.
        """
        for name, value in figures.items():
            metrics.create(metrics.GENERATE[name]).set(value, tags=self._tags)
        for reason, count in rejected.items():
            metrics.create(metrics.REJECTED).set(count, tags=self._tags | {"reason": reason})

    def add(self, row: dict[str, Any]) -> None:
        """Takes the seconds that a shard took, by the names of metrics.GENERATE_SECONDS."""
        for name, metric in metrics.GENERATE_SECONDS.items():
            if row[name] > 0:
                metrics.create(metric).inc(row[name], tags=self._tags)
