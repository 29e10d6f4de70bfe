"""How busy the actors of bulk generation are with a model that takes a fixed time, and what 2 of them do against 1.

    python benchmarks/fleet.py
    python benchmarks/fleet.py --seconds 5 --places S3

All is as in a job, on a local Ray: infra.fleet hands out shards, readers read and transform masks, actors write tars
and markers. In place of the networks stands a sleep of fixed length for each batch, after which a phantom is encoded
for every mask. An actor is busy while it sleeps, and at no other time. "busy" is the share of that in its time from
the first batch of its first shard to the first batch of its last one, so that all that lies between two shards counts.
"gap" is what lies there, in seconds; what a shard's end takes is hidden where another one has its turn meanwhile.
"images/s" are all images by the time from the first batch of all to the end of the last; "times" is that of several
actors by that of one. The aims are 97 % and, for 2 actors, 1.9.
The store is the tests' S3 server; readers, encoders, store and Ray share the cores.
"""

import logging
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from benchmarks.common import Spread, parser, show
from benchmarks.phantoms import write_set
from infra import cluster, fleet
from infra.stage import StageStatus
from infra.synthetic import Job
from siamdiff.config import Config
from siamdiff.data.phantom import render_phantom
from siamdiff.data.sample import EncodedSample, Synthetic, content_key, make_sample
from siamdiff.data.shards import read_marker
from siamdiff.data.shardset import ShardSet
from siamdiff.sampling.conditions import Condition
from siamdiff.sampling.overlap import overlapped
from siamdiff.sampling.plan import Plan
from siamdiff.sampling.protocols import Made, Turn
from tests.s3 import S3Server

AIM_BUSY, AIM_TIMES = 0.97, 1.9
FOLDS = 3
MODEL = "stand-in"  # in place of a model's digest

Batches = list[tuple[float, float]]  # begin and end of each batch of a shard, seconds of the machine's clock


class StandIn:
    """Takes a fixed time for each batch, as a GPU would that does the work of the networks.

    Args:
        seconds: of a batch.
        plan: what is made.
    """

    def __init__(self, seconds: float, plan: Plan) -> None:
        self.seconds, self.plan, self.worker = seconds, plan, uuid.uuid4().hex
        self.image = render_phantom(0, 0, plan.settings.resolution)[0]

    def make(self, conditions: Sequence[Condition], turn: Turn) -> Made:
        """A sample for each condition; batches are formed and encoded as ShardSampler does it.

        The marker tells the actor, and when it was busy with the shard.
        """
        size, times = self.plan.settings.batch_size, []

        def drawn() -> Iterator[Sequence[Condition]]:
            with turn():
                for start in range(0, len(conditions), size):
                    began = time.monotonic()
                    time.sleep(self.seconds)
                    times.append((began, time.monotonic()))
                    yield conditions[start : start + size]

        samples = [one for encoded in overlapped(drawn(), self._encode_batch) for one in encoded]
        return Made(samples, {"worker": self.worker, "batches": times})

    def _encode_batch(self, batch: Sequence[Condition]) -> list[EncodedSample]:
        return [self._encode(condition) for condition in batch]

    def _encode(self, condition: Condition) -> EncodedSample:
        side = len(condition.mask)
        origin = Synthetic(
            parent=condition.parent,
            fold=condition.fold,
            transform=condition.transform,
            seed=condition.seed,
            model_digest=MODEL,
            sampler={"name": MODEL},
        )
        return make_sample(
            self.image,
            condition.mask,
            prompt=condition.prompt,
            split=condition.split,
            group=condition.group,
            source_size=(side, side),
            image_format=self.plan.settings.image_format,
            key=content_key(
                condition.mask.tobytes(), condition.parent.encode(), str(condition.fold).encode()
            ),
            synthetic=origin,
        )


def job_of(root: str, output: str, chosen: Any, actors: int) -> tuple[Config, Job]:
    """What `actors` actors make of the masks under `root`: the shards of FOLDS folds."""
    config = Config.model_validate(
        {
            "root": root,
            "data": {"resolution": chosen.resolution},
            "cluster": {"actor_cpus": 0.5},
            "generate": {
                "masks": f"{root}/data",
                "folds": FOLDS,
                "actors": actors,
                "batch_size": chosen.batch,
                "shard_size": chosen.shard,
            },
        }
    ).resolve()
    masks = ShardSet.open(f"{root}/data")
    plan = Plan.of(config.generate, masks=masks.digest, model=MODEL, resolution=chosen.resolution)
    keys = plan.choose(masks.keys("train"))
    return config, Job(plan, keys, masks, model=None, training=None, output=output)


def make(config: Config, job: Job, seconds: float) -> dict[str, list[Batches]]:
    """Makes a set with stand-ins; returns {actor: the batches of its shards, in order}."""
    todo = job.todo([])
    status = StageStatus(job.output, total=len(todo))
    outcome = fleet.make(config, job, todo, status, partial(StandIn, seconds, job.plan))
    if outcome.failures:
        raise SystemExit(f"shards failed: {outcome.failures}")
    by_actor: dict[str, list[Batches]] = {}
    for number in todo.tolist():
        made_by = read_marker(job.output, job.name(number)).made_by
        by_actor.setdefault(made_by["worker"], []).append(made_by["batches"])
    return {worker: sorted(shards) for worker, shards in by_actor.items()}


def busy(shards: list[Batches]) -> float:
    """The share of an actor's time that its batches take, from its first shard's begin to its last one's."""
    slept = sum(ended - began for batches in shards[:-1] for began, ended in batches)
    return slept / (shards[-1][0][0] - shards[0][0][0])


def gaps(shards: list[Batches]) -> list[float]:
    """Seconds from the end of the last batch of each of an actor's shards to the begin of the next one."""
    return [after[0][0] - before[-1][1] for before, after in pairwise(shards)]


def images_per_second(by_actor: dict[str, list[Batches]], images: int) -> float:
    """All images by the time from the first batch of all to the end of the last."""
    times = [
        time for shards in by_actor.values() for batches in shards for batch in batches for time in batch
    ]
    return images / (max(times) - min(times))


def measure(root: str, chosen: Any) -> list[dict[str, Any]]:
    """One row per number of actors, the first of them one, with the set and the output under `root`."""
    write_set(f"{root}/data", chosen.shard * chosen.shards // FOLDS, chosen.resolution, "png")
    rows: list[dict[str, Any]] = []
    for actors in (1, *chosen.actors):
        config, job = job_of(root, f"{root}/by-{actors}", chosen, actors)
        by_actor = make(config, job, chosen.seconds)
        speed = images_per_second(by_actor, job.count)
        rows.append(
            {
                "actors": actors,
                "busy": Spread.of([busy(shards) for shards in by_actor.values() if len(shards) > 1]),
                "gap": Spread.of([gap for shards in by_actor.values() for gap in gaps(shards)]),
                "images_per_second": speed,
                "times": speed / rows[0]["images_per_second"] if rows else 1.0,
            }
        )
    return rows


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--seconds", type=float, default=1.0, help="of a batch [1]")
    options.add_argument("--batch", type=int, default=16, help="images of a batch [16]")
    options.add_argument("--shard", type=int, default=64, help="images of a shard [64]")
    options.add_argument("--shards", type=int, default=12, help="that are made, a multiple of 3 [12]")
    options.add_argument("--resolution", type=int, default=384, help="side of the images, pixels [384]")
    options.add_argument("--actors", type=int, nargs="+", default=[2], help="compared with one [2]")
    options.add_argument("--places", nargs="+", choices=("disk", "S3"), default=["disk", "S3"])
    chosen = options.parse_args()
    logging.basicConfig(level=logging.ERROR)
    measured = []
    with tempfile.TemporaryDirectory() as folder, S3Server() as server, pytest.MonkeyPatch.context() as env:
        for name, value in {**server.env, "SIAMDIFF_CACHE": f"{folder}/cache"}.items():
            env.setenv(name, value)  # before Ray starts: its workers inherit it
        cluster.connect()
        roots = {"disk": f"{folder}/root", "S3": server.new_root()}
        for place in chosen.places:
            measured += [{"place": place, **row} for row in measure(roots[place], chosen)]
        cluster.leave()
    lines = [
        f"{chosen.shards} shards of {chosen.shard} images of {chosen.resolution} x {chosen.resolution} pixels, "
        f"{chosen.seconds:g} s for a batch of {chosen.batch}",
        f"{'':6}{'actors':>6}  {'busy':28}{'gap, s':28}{'images/s':>9}{'times':>7}",
    ]
    lines += [
        f"{row['place']:6}{row['actors']:>6}  {row['busy']!s:28}{row['gap']!s:28}"
        f"{row['images_per_second']:9.2f}{row['times']:7.3f}"
        for row in measured
    ]
    show({"aims": {"busy": AIM_BUSY, "times": AIM_TIMES}, "rows": measured}, lines, chosen.json)


if __name__ == "__main__":
    main()
