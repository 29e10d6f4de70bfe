"""The actors that make a synthetic set: fed with shard after shard, counted, and stopped when the budget is used up.

One row is one output shard. Rows are cut from a short table of numbers while actors work, so the plan is never held
whole; what is handed out are numbers, and a reader finds the masks of a shard by itself.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from infra import cluster
from infra.exporting import GenerateGauges, JobWatch
from infra.gates import inputs_of, tell
from infra.masks import read_masks
from infra.metrics import REASONS
from infra.rows import each_row
from infra.sampler import LoadSampler, SamplerActor, load_sampler
from infra.stage import SYNTHETIC, StageStatus, logs_uri
from infra.synthetic import Job
from siamdiff.config import Config
from siamdiff.journal import SHARD
from siamdiff.run import readable_seconds

log = logging.getLogger(__name__)

READ_CPUS = 0.25  # of a core, for each reader; as many readers as samplers run at most
# Shards at an actor: one has the device, another one is finished and written, or waits for its turn.
CALLS = 2
LOG_SECONDS = 5.0
HOUR = 3600.0


@dataclass
class Outcome:
    """How the work on the shards ended."""

    failures: dict[str, str]  # {shard: reason}; the job's own end under ""
    over_budget: str = ""  # which budget is used up, in words that follow "stopped by"


def make(
    config: Config, job: Job, todo: np.ndarray, status: StageStatus, load: LoadSampler | None = None
) -> Outcome:
    """Makes the shards with these numbers on the cluster.

    Args:
        config: of the job.
        job: what is made.
        todo: numbers of the shards to make, int64.
        status: told of each shard.
        load: gives an actor its sampler [the job's model].
    """
    import ray
    import ray.exceptions

    cluster.connect()
    most = min(config.generate.actors, len(todo))
    fewest = min(config.generate.min_actors or most, most)
    gpus = _gpus(config, job)
    cluster.check_room(
        {"CPU": fewest * config.cluster.actor_cpus + READ_CPUS, "GPU": fewest * gpus},
        f"{fewest} sampler actors and the reader",
        "lower generate.actors (or generate.min_actors), cluster.actor_cpus or cluster.gpus",
    )
    load = load or _loader(config, job)
    progress = Progress(config, job, status, len(todo), gpus)
    attempts = cluster.Attempts.start()
    outcome = Outcome({})
    try:
        with _ray_data_for_shards():
            for row in each_row(_results(config, job, todo, (fewest, most), attempts, load)):
                if row["error"]:
                    outcome.failures[row["name"]] = row["error"]
                    log.warning("shard %s failed: %s", row["name"], row["error"], extra={SHARD: row["name"]})
                elif row["attempt"] > 1:
                    told = "shard %s was made at attempt %d: its samplers died before"
                    log.warning(told, row["name"], row["attempt"], extra={SHARD: row["name"]})
                progress.add(row)
                if not outcome.over_budget and (why := progress.over_budget()):
                    outcome.over_budget = why
                    log.info("stopped by %s: shards at work are finished, no other is begun", why)
                    ray.get(attempts.close.remote())
    except ray.exceptions.RayError as error:
        outcome.failures[""] = cluster.first_line(error)
        log.error("the cluster gave up: %s", outcome.failures[""])
    progress.summarize()
    return outcome


def _gpus(config: Config, job: Job) -> float:
    """GPUs of each actor; copying needs none."""
    return config.cluster.gpus if job.model else 0.0


def _device(config: Config, job: Job) -> str:
    return "cuda" if _gpus(config, job) else "cpu"


def _loader(config: Config, job: Job) -> LoadSampler:
    """Gives the job's sampler; what its gates judge by is made first, where it is not there."""
    gates = inputs_of(config, job)
    tell(gates)
    return partial(load_sampler, job.plan, job.model.uri if job.model else "", _device(config, job), gates)


@contextmanager
def _ray_data_for_shards() -> Iterator[None]:
    """Lets Ray Data hand on each row by itself, not when 128 MB of them are together, and add actors to busy ones.

    It counts an actor as busy by the calls that wait for it too; by default it wants more of them than an actor takes.
    """
    import ray.data

    cluster.configure_data()
    context = ray.data.DataContext.get_current()
    scaling = context.autoscaling_config
    before = context.target_max_block_size, context.target_min_block_size
    threshold = scaling.actor_pool_util_upscaling_threshold
    context.target_max_block_size = context.target_min_block_size = 1
    scaling.actor_pool_util_upscaling_threshold = 1.0
    try:
        yield
    finally:
        context.target_max_block_size, context.target_min_block_size = before
        scaling.actor_pool_util_upscaling_threshold = threshold


def _results(
    config: Config,
    job: Job,
    todo: np.ndarray,
    actors: tuple[int, int],
    attempts: Any,
    load: LoadSampler,
) -> Any:
    """The Ray Data set with one row per finished or failed shard."""
    import pyarrow as pa
    import ray.data

    read: Any = read_masks  # Ray's type of what it maps with knows no further arguments
    actor: Any = SamplerActor
    fewest, most = actors
    gpus = _gpus(config, job)
    names = np.array([job.name(number) for number in todo.tolist()])
    tables = [  # one for each reader, in turns
        pa.table({"number": todo[first::most], "name": names[first::most]}) for first in range(most)
    ]
    return (
        ray.data.from_arrow(tables)
        .map(
            read,
            fn_kwargs={"masks_uri": job.masks.uri, "plan": job.plan},
            compute=ray.data.TaskPoolStrategy(size=most),  # a reader is far faster than a sampler
            num_cpus=READ_CPUS,
        )
        .map(
            actor,
            fn_constructor_kwargs={
                "load": load,
                "output": job.output,
                "device": _device(config, job),
                "threads": config.cluster.threads,
                "attempts": attempts,
                "logs": logs_uri(config, SYNTHETIC),
            },
            compute=ray.data.ActorPoolStrategy(
                min_size=fewest,
                max_size=most,
                max_tasks_in_flight_per_actor=CALLS,
                max_concurrent_calls_per_actor=CALLS,
                enable_true_multi_threading=True,
            ),
            num_cpus=config.cluster.actor_cpus,
            num_gpus=gpus or None,
        )
    )


class Progress:
    """What is done, what it took and what it costs: in the log, in status.json and as metrics."""

    def __init__(self, config: Config, job: Job, status: StageStatus, todo: int, gpus: float) -> None:
        self.config, self.job, self.status, self.gpus = config, job, status, gpus
        self.todo = self.left = todo
        self.began = time.monotonic()
        # Speed is counted from the first shard on: before it nodes, processes and models were starting.
        self.first: float | None = None
        self.since = self.shards_since = 0
        self.images = self.failed = self.retried = self.redrawn = self.rejected = 0
        self.by_gate: dict[str, int] = dict.fromkeys(REASONS, 0)
        self.drawing = 0.0  # seconds of all actors
        self.alive: dict[str, float] = {}  # seconds that each actor was there, as of its last row
        self.logged = self.began
        self._watch = status.watch or JobWatch("generate", config)
        self._gauges = GenerateGauges(self._watch)
        self._tell(None)

    @property
    def actor_seconds(self) -> float:
        """Summed over the actors, from the start of their processes to their last shard."""
        return sum(self.alive.values())

    @property
    def cost(self) -> float:
        """Dollars so far, at `cluster.price` a GPU hour."""
        return (self.config.cluster.price or 0.0) * self.gpus * self.actor_seconds / HOUR

    def add(self, row: dict[str, Any]) -> None:
        """Takes the row of one shard."""
        now = time.monotonic()
        self.alive[row["worker"]] = row["alive"]
        if row["skipped"]:
            return
        self.left -= 1
        self.failed += bool(row["error"])
        self.status.done += not row["error"]
        self.images += row["count"]
        self.retried += row["attempt"] > 1
        self.redrawn += row["redrawn"]
        self.rejected += row["rejected"]
        self.by_gate = {gate: count + row[f"rejected_{gate}"] for gate, count in self.by_gate.items()}
        self.drawing += row["draw"]
        self._gauges.add(row)
        if self.first is None:
            self.first = now
        else:
            self.since += row["count"]
            self.shards_since += 1
        if now - self.logged >= LOG_SECONDS or not self.left:
            self.logged = now
            self._tell((now - self.first) / self.shards_since if self.shards_since else None)

    def _tell(self, seconds_per_shard: float | None) -> None:
        """One line, status.json and the metrics."""
        figures = {
            "done": float(self.status.done),
            "planned": float(self.status.total),
            "failed": float(self.failed),
            "images": float(self.images),
            "actors": float(len(self.alive)),
            "gpu_seconds": self.gpus * self.actor_seconds,
            "busy": self.drawing / max(self.actor_seconds, 1e-9),
            "retried": float(self.retried),
            "redrawn": float(self.redrawn),
        }
        cost_left = None
        words = [f"{self.status.done} of {self.status.total} shards done"]
        if seconds_per_shard and self.first is not None:
            speed = self.since / (time.monotonic() - self.first)
            to_go = seconds_per_shard * self.left
            figures |= {"images_per_second": speed, "seconds_left": to_go}
            words.append(f"{speed:.3g} images/s")
            if self.left:
                words.append(f"about {readable_seconds(to_go)} to go")
            if self.cost:
                cost_left = self.cost / (self.todo - self.left) * self.left
                words.append(f"{self.cost:.2f} dollars spent, about {cost_left:.2f} to go")
        if self.redrawn:
            words.append(f"{self.redrawn} images drawn again, {self.rejected} rejected to the last")
        if self.shards_since or self.images:
            log.info(", ".join(words))
        self._gauges.set(figures, self.by_gate)
        self._watch.spent(self.cost, cost_left)
        self.status.write(cost=self.cost if self.config.cluster.price is not None else None)

    def over_budget(self) -> str:
        """Which budget of this command is used up, in words that follow "stopped by"; "" while none is."""
        generate, hours = self.config.generate, (time.monotonic() - self.began) / HOUR
        if generate.budget_hours is not None and hours >= generate.budget_hours:
            return f"its budget ({hours:.2f} of generate.budget_hours {generate.budget_hours:g} are spent)"
        if generate.budget_cost is not None and self.cost >= generate.budget_cost:
            return f"its budget ({self.cost:.2f} of generate.budget_cost {generate.budget_cost:g} dollars are spent)"
        return ""

    def summarize(self) -> None:
        """Tells what this command made, and what that took."""
        took = (
            f"{self.gpus * self.actor_seconds:.0f} GPU seconds"
            if self.gpus
            else (f"{self.actor_seconds:.0f} actor seconds")
        )
        price = ""
        if self.cost and self.images:
            price = f", {self.cost:.2f} dollars, {1000 * self.cost / self.images:.2f} per 1,000 images"
        log.info(
            "made %d images in %s by %d actors: %s%s, %d shards retried, %d images drawn again, %d rejected",
            self.images,
            readable_seconds(time.monotonic() - self.began),
            len(self.alive),
            took,
            price,
            self.retried,
            self.redrawn,
            self.rejected,
        )
