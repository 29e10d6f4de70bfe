"""The worker group of a run: started by Ray Train, watched while it works, started again when it is lost.

Ray Train neither restarts nor resizes it: here is decided, by what lies in the store, and after a checkpoint where that
can be had. Ray only counts how many workers there is room for.
"""

import logging
import os
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import Any

from infra import cluster, signals, supervisor
from infra.exporting import JobWatch, TrainGauges
from siamdiff.config import Config
from siamdiff.errors import SiamdiffError, StoppedError
from siamdiff.run import Lease
from siamdiff.training import checkpoint
from siamdiff.training.wish import Wish

log = logging.getLogger(__name__)

# Ray Train looks at the nodes every 20 s: it may wait for one that is gone, by default for 60 s, or overlook a new one.
START_TIMEOUT = ("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "20")
SETTLE_SECONDS = 25.0
GROW_SECONDS = 60.0  # a group works at least so long before it is stopped for a larger one
MORE_WORKERS = "more workers"


def run(
    worker: Callable[[dict[str, Any]], str], config: Config, base_uri: str, held: Lease, watch: JobWatch
) -> None:
    """Runs `worker` in `train.workers` processes until it returns, starting them again after a loss.

    Args:
        worker: called in each with {"config", "base_uri", "lease", "supervisor", "attempt"}; returns why
            all of them stopped after a checkpoint, "" at the end.
        config: resolved configuration.
        base_uri: of the base.
        held: the right to write in the run's folder.
        watch: told of progress and cost.

    Raises:
        UserError: no room for the workers.
        StoppedError: a signal, or the loop itself.
        SiamdiffError: a worker's own, or workers were lost more often than `train.max_restarts`.
    """
    train, need = config.train, _resources(config)
    fewest = train.min_workers or train.workers
    cluster.check_room(
        {name: amount * fewest for name, amount in need.items()},
        "training workers",
        "lower train.workers or cluster.gpus",
    )
    if fewest < train.workers:
        os.environ.setdefault(*START_TIMEOUT)
    lost = 0
    with _scratch() as folder, signals.watched() as stop:
        group = _Group(config, stop, watch)
        while True:
            before = checkpoint.complete_steps(config.run_uri())[-1:]
            arguments = {"config": config.model_dump(), "base_uri": base_uri, "lease": held}
            try:
                group.fit(lambda more: _trainer(worker, config, arguments | more, folder))  # noqa: B023, called at once
                return
            except _LostError as error:
                held.check()
                moved = checkpoint.complete_steps(config.run_uri())[-1:] != before
                lost = 1 if moved else lost + 1
                if lost > train.max_restarts:
                    raise SiamdiffError(
                        f"workers were lost {lost} times without a new checkpoint, last by: {error}; "
                        "look at the log above, then run the same command again"
                    ) from error.__cause__
                log.warning("a worker was lost, starting the workers again: %s", error)
            except StoppedError:
                if not group.is_growing or stop.why:
                    raise
                lost = 0  # it left a checkpoint
                log.info("there is room for more workers: starting again with them")


class _LostError(Exception):
    """Ray's error at the end of a worker group, in one line."""


class _Group:
    """Starts one worker group after the other and watches it from the main thread while Ray waits in another."""

    def __init__(self, config: Config, stop: signals.Stop, watch: JobWatch) -> None:
        self.config, self.stop, self.watch = config, stop, watch
        self.gauges = TrainGauges(watch)
        self.supervisor = supervisor.start()
        self.starts = 0
        self.is_growing = False  # stopped by ourselves, for a larger one
        self.tried: set[frozenset[str]] = set()  # nodes among which that was tried before
        self.nodes: frozenset[str] = frozenset()
        self.changed = 0.0  # when they last did
        self.ended = float("-inf")  # when a worker was last ended by us

    def fit(self, make_trainer: Callable[[dict[str, Any]], Any]) -> None:
        """Runs one worker group to its end.

        Raises:
            StoppedError: the workers wrote a checkpoint and stopped, or the grace ended before they did.
            SiamdiffError: a worker's own.
            _LostError: everything else that ended the group.
        """
        from ray.exceptions import RayError
        from ray.train import TrainingFailedError

        self.attempt, self.started, self.is_growing = uuid.uuid4().hex, time.monotonic(), False
        more = {"supervisor": self.supervisor, "attempt": self.attempt}
        interval = 60 * self.config.train.checkpoint_minutes
        self.gauges.set(
            {"restarts": self.starts, "started": time.time(), "checkpoint_interval": interval, "workers": 0}
        )
        self.starts += 1
        self._look()
        done = _in_thread(make_trainer(more).fit)
        while not wait([done], timeout=1.0).done:
            self._watch()
        try:
            why = done.result().return_value
        except (TrainingFailedError, RayError) as error:  # the second, where Ray's own controller is lost
            _raise_ours(error)
            if self.stop.why:  # lost on the way out
                raise stopped(self.config, self.stop, is_late=False) from error
            raise _LostError(_told(error)) from error
        if why:
            raise StoppedError(why)

    def _watch(self) -> None:
        """Once a second: passes on what is wanted, ends what is stuck or late."""
        sights, train = self._look(), self.config.train
        is_late = self.stop.seconds() > train.grace_seconds
        if self.stop.why and (is_late or sights == []):
            raise stopped(self.config, self.stop, is_late)
        if sights is None:
            return
        self._tell(sights)
        if len(sights) == train.workers:
            self.tried.clear()
        patient = time.monotonic() - self.ended < supervisor.KILL_SECONDS  # Ray notices a death in seconds
        for sight in [] if patient else supervisor.stuck(sights, 60 * train.stall_minutes):
            pulse, self.ended = sight.pulse, time.monotonic()
            log.warning(
                "worker %d (process %d on %s) finished nothing for %.0f s, train.stall_minutes is %g; its last step "
                "is %d: ending it",
                pulse.rank, pulse.pid, pulse.host, sight.still, train.stall_minutes, pulse.step,
            )  # fmt: skip
            supervisor.kill(pulse)
        if sights and len(sights) < train.workers and not self.is_growing and self._is_room_for_more():
            self.is_growing = True
            self.tried.add(self.nodes)

    def _tell(self, sights: list[supervisor.Sight]) -> None:
        """Passes on what the workers know to whoever watches the job."""
        self.gauges.set({"workers": len(sights)})
        for sight in sights:
            if sight.pulse.rank != 0:
                continue
            steps, done, line = self.config.train.steps, sight.pulse.step, sight.pulse.figures
            self.gauges.set(line)
            if done:
                self.watch.moved(sight.still, done, steps)
            if "cost" in line:
                self.watch.spent(line["cost"], line["cost"] / line["step"] * (steps - line["step"]))

    def _look(self) -> list[supervisor.Sight] | None:
        """What is known of the workers; None while the supervisor does not answer."""
        import ray
        import ray.exceptions

        why = self.stop.why or (MORE_WORKERS if self.is_growing else "")
        answer = self.supervisor.look.remote(self.attempt, Wish.STOP if why else Wish.NOTHING, why)
        try:
            return ray.get(answer, timeout=10)
        except ray.exceptions.RayError:
            return None

    def _is_room_for_more(self) -> bool:
        """Whether one more worker fits into what is free, and nothing was tried yet with the nodes there are."""
        import ray

        now, nodes = time.monotonic(), _living_nodes()
        if nodes != self.nodes:
            self.nodes, self.changed = nodes, now
        if now - self.started < GROW_SECONDS or now - self.changed < SETTLE_SECONDS or nodes in self.tried:
            return False
        free = ray.available_resources()
        return all(free.get(name, 0.0) >= amount for name, amount in _resources(self.config).items())


def stopped(config: Config, stop: signals.Stop, is_late: bool) -> StoppedError:
    """The error that ends a job which a signal stopped without a checkpoint of its own."""
    steps = checkpoint.complete_steps(config.run_uri())
    where = f"the last checkpoint is of step {steps[-1]}" if steps else "there is no checkpoint yet"
    grace = config.train.grace_seconds
    late = f", train.grace_seconds {grace:g} were too few for a checkpoint" if is_late else ""
    return StoppedError(f"stopped by {stop.why}{late}; {where}; the same command goes on from there")


def _resources(config: Config) -> dict[str, float]:
    """What one worker books."""
    gpus = config.cluster.gpus
    return {"CPU": 1.0} | ({"GPU": gpus} if gpus else {})


def _trainer(worker: Callable[..., str], config: Config, arguments: dict[str, Any], folder: str) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    train, gpus = config.train, config.cluster.gpus
    fewest = train.min_workers or train.workers
    return TorchTrainer(
        worker,
        train_loop_config=arguments,
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=(fewest, train.workers) if fewest < train.workers else train.workers,
            elastic_resize_monitor_interval_s=float("inf"),  # it would end the group without a checkpoint
            use_gpu=bool(gpus),
            resources_per_worker=_resources(config),
        ),
        run_config=RunConfig(
            name=f"siamdiff-{uuid.uuid4().hex[:8]}",
            storage_path=folder,
            failure_config=FailureConfig(max_failures=0, max_preemption_failures=0),
        ),
    )


def _in_thread(function: Callable[[], Any]) -> Future[Any]:
    """Runs a function in a thread that does not keep the process alive: Ray would wait for a group without end."""
    future: Future[Any] = Future()

    def work() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # noqa: BLE001, raised where the future is asked
            future.set_exception(error)

    threading.Thread(target=work, name="worker group", daemon=True).start()
    return future


def _living_nodes() -> frozenset[str]:
    import ray

    return frozenset(node["NodeID"] for node in ray.nodes() if node["Alive"])


@contextmanager
def _scratch() -> Iterator[str]:
    """A folder for Ray's own notes about a worker group; nothing in it is needed later."""
    folder = tempfile.mkdtemp(prefix="siamdiff-ray-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _told(error: Any) -> str:
    """One line of what ended a group: of the process that died, where others only lost their connection to it."""
    from ray.exceptions import RayActorError

    failures = {
        rank: getattr(failure, "health_check_failure", failure)
        for rank, failure in getattr(error, "worker_failures", {}).items()
    }
    dead = [rank for rank, failure in failures.items() if isinstance(failure, RayActorError)]
    for rank in dead or failures:
        return f"worker {rank}: {cluster.first_line(failures[rank])}"
    return cluster.first_line(error)


def _raise_ours(error: Any) -> None:
    """Raises the SiamdiffError of a worker, if that is what ended the group: trying again would not help."""
    for failure in getattr(error, "worker_failures", {}).values():
        cause = failure
        while cause is not None:
            if isinstance(cause, SiamdiffError):
                raise cause from None
            cause = getattr(cause, "cause", None) or cause.__cause__
