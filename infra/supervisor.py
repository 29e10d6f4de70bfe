"""Who watches over the workers of a run: an actor beside the job, which every worker tells each second how far it is.

The job is what decides (infra/workers.py). Workers cannot call it, nor it the workers while they train; so both meet at
this actor. It keeps nothing that cannot be lost: pulses come again, and so do wishes.
"""

import os
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from siamdiff.training.wish import Wish

PULSE_SECONDS = 1.0
KILL_SECONDS = 30.0  # in which a worker that is to be ended is gone


@dataclass(frozen=True)
class Pulse:
    """One worker's sign of life."""

    rank: int
    pid: int
    node: str  # Ray's id of it
    host: str
    step: int  # optimizer steps finished
    beats: int  # collectives finished: grows as long as the group moves
    is_waiting: bool  # for the other workers
    figures: dict[str, float] = field(default_factory=dict)  # the newest of each that it reported


@dataclass(frozen=True)
class Sight:
    """What is known of a worker: its last pulse, how old that is, and for how long nothing was finished (seconds)."""

    pulse: Pulse
    silent: float
    still: float


class Supervisor:
    """The actor. Ages are of its own clock, so clocks of different machines do not matter."""

    def __init__(self) -> None:
        self._attempt = ""
        self._wish, self._why = Wish.NOTHING, ""
        self._pulses: dict[int, tuple[Pulse, float, float]] = {}  # by rank: last one, since when heard, still

    def pulse(self, attempt: str, pulse: Pulse) -> tuple[Wish, str]:
        """Takes a worker's sign of life; returns what is wanted of the workers, and by whom."""
        if attempt != self._attempt:
            return Wish.NOTHING, ""
        now = time.monotonic()
        before = self._pulses.get(pulse.rank)
        moved = before is None or before[0].beats != pulse.beats
        self._pulses[pulse.rank] = (pulse, now, now if moved or before is None else before[2])
        return self._wish, self._why

    def look(self, attempt: str, wish: Wish, why: str) -> list[Sight]:
        """Takes what the job wants of the workers of an attempt; returns what is known of them, by rank."""
        if attempt != self._attempt:
            self._attempt, self._pulses = attempt, {}
        self._wish, self._why = wish, why
        now = time.monotonic()
        return [
            Sight(pulse, now - heard, now - moved)
            for _, (pulse, heard, moved) in sorted(self._pulses.items())
        ]


def start() -> Any:
    """The handle of a new supervisor on this node, which comes back if its process is lost."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Supervisor).options(num_cpus=0, max_restarts=-1, scheduling_strategy=here).remote()


class Heart:
    """The thread of a worker that tells the supervisor every second how far it is, and hears what is wanted."""

    def __init__(self, supervisor: Any, attempt: str, rank: int) -> None:
        import ray

        self.wish, self.why = Wish.NOTHING, ""
        self.step, self.beats, self.is_waiting = 0, 0, False
        self._figures: dict[str, float] = {}
        self._supervisor, self._attempt, self._rank = supervisor, attempt, rank
        self._node, self._host = ray.get_runtime_context().get_node_id(), os.uname().nodename
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heart", daemon=True)
        self._thread.start()

    def tell(self, figures: dict[str, float]) -> None:
        """Takes figures for the job; those that are not given stay."""
        self._figures = self._figures | figures

    def _beat(self) -> None:
        import ray
        import ray.exceptions

        while not self._stop.is_set():
            pulse = Pulse(
                self._rank,
                os.getpid(),
                self._node,
                self._host,
                self.step,
                self.beats,
                self.is_waiting,
                self._figures,
            )
            # it is started again; with the job, this process ends as well
            with suppress(ray.exceptions.RayError):
                answer = self._supervisor.pulse.remote(self._attempt, pulse)
                self.wish, self.why = ray.get(answer, timeout=10 * PULSE_SECONDS)
            self._stop.wait(PULSE_SECONDS)

    def stop(self) -> None:
        """No pulse comes any more."""
        self._stop.set()
        self._thread.join()


def stuck(sights: list[Sight], seconds: float) -> list[Sight]:
    """The workers to blame where nothing was finished for so long; none while the group moves.

    All wait for the slowest, so all stand still. To blame are those that are not heard of any more; if all are, those
    that do not wait for others; if all do, or none, all of them.
    """
    if not sights or max(sight.still for sight in sights) < seconds:
        return []
    silent = [sight for sight in sights if sight.silent > max(seconds / 2, 3 * PULSE_SECONDS)]
    busy = [sight for sight in sights if not sight.pulse.is_waiting]
    return silent or busy or sights


def kill(pulse: Pulse) -> None:
    """Ends a worker's process on its node with SIGKILL; a node that does not answer is left alone."""
    import ray
    import ray.exceptions
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(pulse.node, soft=False)
    task = ray.remote(_kill).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
    with suppress(ray.exceptions.RayError):  # Ray finds out by itself that the node is gone
        ray.get(task.remote(pulse.pid), timeout=KILL_SECONDS)


def _kill(pid: int) -> None:
    """Unless the number is by now another process's."""
    command = Path(f"/proc/{pid}/cmdline")
    if command.exists() and command.read_bytes().startswith(b"ray::"):
        os.kill(pid, signal.SIGKILL)
