"""The cache of a set's latents, made on a cluster: Ray Data hands out shards, a pool of actors encodes and writes them.

One row is one part of the cache, of one shard or of some prompts. A part counts once its marker lies in the store. So a
killed actor, a killed driver or a second job at the same cache cost time only: the same command makes what is missing.
"""

import json
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from infra import cluster, logs
from infra.inputs import ensure_data, prepare_base, training_set
from infra.rows import attempt_row, each_row, prepare_actor, refuse_leftovers
from infra.stage import reported
from siamdiff.config import Config
from siamdiff.data.latent_parts import MOMENTS, TEXTS, Origin, finish_cache, finished_parts, is_complete
from siamdiff.data.shardset import ShardSet
from siamdiff.model.base import load_base
from siamdiff.training import bases
from siamdiff.training.caching import PartMaker, Tell, make_cache, missing_moments, missing_texts, origin_of
from siamdiff.training.context import SingleProcess

log = logging.getLogger(__name__)

CACHE = "cache"  # folder of the stage's status under the root
LOG_SECONDS = 5.0


def cache(config: Config, demo: bool) -> None:
    """Makes the cache of a configuration's set and base; makes what is missing where an attempt ended.

    Raises:
        UserError: no data, no base, no room for the actors.
        SiamdiffError: parts could not be made.
    """
    ensure_data(config, demo)
    with reported(config, CACHE) as status:
        shard_set = training_set(config)
        if config.train.engine == "torch":
            bases.prepare_base(config)
        else:
            prepare_base(config)
        status.write(phase="caching")
        base = bases.base_uri(config, shard_set.digest)
        ensure_cache(config, base, lambda done, total: status.write(done=done, total=total))


def ensure_cache(config: Config, base_uri: str, tell: Tell) -> str:
    """Makes the cache of a configuration's set for a base, unless it is complete.

    On a cluster with as many actors as there are training workers; with train.engine torch in this process.

    Args:
        config: resolved configuration.
        base_uri: of the base, see siamdiff.training.bases.base_uri; it is prepared.
        tell: called now and then with parts done and parts in all; of moments first, then of text states.

    Returns:
        The cache's URI.

    Raises:
        UserError: no room for the actors.
        SiamdiffError: parts could not be made; the others are.
    """
    assert config.data.uri
    shard_set = ShardSet.open(config.data.uri)
    if config.train.engine == "torch":
        torch.set_num_threads(max(config.cluster.threads * config.train.workers, 1))
        with bases.open_base(config, base_uri) as folder:
            return make_cache(load_base(str(folder)), shard_set, SingleProcess().device, tell)
    import ray

    cluster.connect()
    with cluster.explained():
        origin: Any = ray.get(
            ray.remote(num_cpus=1)(_origin).remote(config.model_dump(), base_uri, shard_set.digest)
        )
    uri = origin.uri(shard_set.uri)
    if is_complete(uri, shard_set, origin):
        log.info("the cache %s is complete", uri)
        return uri
    rows = [{"name": shard, "prompts": ""} for shard in missing_moments(uri, shard_set)]
    _make(config, base_uri, shard_set, uri, MOMENTS, rows, tell)
    texts = missing_texts(uri, shard_set)
    rows = [{"name": name, "prompts": json.dumps(prompts)} for name, prompts in texts.items()]
    _make(config, base_uri, shard_set, uri, TEXTS, rows, tell)
    manifest = finish_cache(uri, shard_set, origin)
    log.info("cache of %d samples: %s", manifest.count, uri)
    return uri


def _origin(fields: dict[str, Any], base_uri: str, data_digest: str) -> Origin:
    logs.in_worker(uses_gpu=False)
    with bases.open_base(Config(**fields), base_uri) as folder:
        return origin_of(load_base(str(folder)), data_digest)


def _make(
    config: Config,
    base_uri: str,
    shard_set: ShardSet,
    uri: str,
    kind: str,
    rows: list[dict[str, str]],
    tell: Tell,
) -> None:
    """Makes parts of one kind, one per row.

    Raises:
        SiamdiffError: some could not be made.
    """
    import ray.data
    import ray.exceptions

    if not rows:
        return
    actors, gpus = min(config.train.workers, len(rows)), config.cluster.gpus
    cluster.check_room(
        {"CPU": actors * config.cluster.actor_cpus, "GPU": actors * gpus},
        f"{actors} actors for the cache",
        "lower train.workers, cluster.actor_cpus or cluster.gpus",
    )
    cluster.configure_data()
    actor: Any = CacheActor  # Ray's type of what it maps with knows no further arguments
    results = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        actor,
        fn_constructor_kwargs={
            "fields": config.model_dump(),
            "base_uri": base_uri,
            "data_digest": shard_set.digest,
            "uri": uri,
            "kind": kind,
            "attempts": cluster.Attempts.start(),
        },
        # one part at work, one ready to follow it
        compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=2),
        num_cpus=config.cluster.actor_cpus,
        num_gpus=gpus or None,
    )
    failures: dict[str, str] = {}
    logged = time.monotonic()
    log.info("making %d parts of %s, %s", len(rows), uri, kind)
    try:
        for done, result in enumerate(each_row(results), 1):
            if result["error"]:
                failures[result["name"]] = result["error"]
                log.warning("%s of %s failed: %s", kind, result["name"], result["error"])
            if time.monotonic() - logged > LOG_SECONDS or done == len(rows):
                logged = time.monotonic()
                log.info("%s: %d of %d parts", kind, done, len(rows))
                tell(done, len(rows))
    except ray.exceptions.RayError as error:
        log.exception("the cluster gave up")
        failures[""] = cluster.first_line(error)
    names = [row["name"] for row in rows]
    refuse_leftovers(f"parts of {uri}", names, finished_parts(uri, kind), failures)


class CacheActor:
    """A base's VAE and text encoder on one device, fed with one part at a time.

    Args:
        fields: of the configuration.
        base_uri: of the base.
        data_digest: of the set that the job began with.
        uri: of the cache.
        kind: of the parts, moments or texts.
        attempts: handle of the `Attempts` actor.
    """

    def __init__(
        self,
        fields: dict[str, Any],
        base_uri: str,
        data_digest: str,
        uri: str,
        kind: str,
        attempts: Any,
    ) -> None:
        config = Config(**fields)
        assert config.data.uri
        device = "cuda" if config.cluster.gpus else "cpu"
        prepare_actor(device, config.cluster.threads)
        shard_set = ShardSet.open(config.data.uri, data_digest)
        with bases.open_base(config, base_uri) as folder:
            self.maker = PartMaker(load_base(str(folder)), torch.device(device), shard_set, uri)
        self.kind = kind
        self.attempts = attempts

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Makes and writes one part: {name, count, seconds, error}."""
        return attempt_row(row["name"], self.attempts, "encoder", partial(self._make, row))

    def _make(self, row: dict[str, Any], begin: Callable[[], None]) -> int:
        begin()
        if self.kind == MOMENTS:
            return self.maker.moments(row["name"]).count
        return self.maker.texts(row["name"], json.loads(row["prompts"])).count
