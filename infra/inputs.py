"""What training and its cache begin with: a set that can be trained on, and the base."""

import logging
from pathlib import Path
from typing import Any

import torch

from infra import cluster, logs
from infra.ingest import ingest
from siamdiff import storage
from siamdiff.config import Config
from siamdiff.data.manifest import MANIFEST
from siamdiff.data.shardset import ShardSet
from siamdiff.errors import UserError
from siamdiff.model.sources import TINY
from siamdiff.sections import PHANTOM
from siamdiff.terms import NO_DERIVATIVES, Terms, Use
from siamdiff.training import bases

log = logging.getLogger(__name__)


def ensure_data(config: Config, demo: bool) -> None:
    """A missing phantom set is made first; any other missing set is an error that opening it will name."""
    assert config.data.uri
    if config.data.source == PHANTOM and not storage.exists(storage.join(config.data.uri, MANIFEST)):
        ingest(config, demo)


def training_set(config: Config) -> ShardSet:
    """The set that a resolved configuration trains on.

    Raises:
        UserError: no complete set, a synthetic one, one of another resolution, one that may not be used, or one
            without samples for training.
    """
    assert config.data.uri
    shard_set = ShardSet.open(config.data.uri)
    if shard_set.manifest.kind != "real":
        raise UserError(
            f"{config.data.uri} is a {shard_set.manifest.kind} set; training takes a real one: give the set that "
            "ingest made with --data.uri"
        )
    if shard_set.manifest.resolution != config.data.resolution:
        raise UserError(
            f"{config.data.uri} holds images of {shard_set.manifest.resolution} pixels, data.resolution is "
            f"{config.data.resolution}; give --data.resolution {shard_set.manifest.resolution} or another root"
        )
    terms = Terms(shard_set.manifest.license, shard_set.manifest.permitted_use)
    if terms.use is Use.NONE:
        raise UserError(
            f"{config.data.uri} may not be used: its permitted_use is {shard_set.manifest.permitted_use!r}; train on "
            "another set"
        )
    if terms.forbids_derivatives:
        log.warning("%s is under %s: %s", config.data.uri, terms.license, NO_DERIVATIVES)
    if not shard_set.keys("train"):
        raise UserError(
            f"{config.data.uri} has no sample in its train split (it has {shard_set.manifest.splits}); "
            "ingest it with a split in which train has a share"
        )
    return shard_set


def prepare_base(config: Config) -> None:
    """Checks a base on a disk here; others a node of the cluster fetches or, with every core that is free, makes."""
    import ray

    if Path(config.model.base).is_absolute():
        bases.prepare_base(config)
        return
    cluster.connect()
    cores = max(1, int(min(16, cluster.largest_node("CPU")))) if config.model.base == TINY else 1
    with cluster.explained():
        ray.get(ray.remote(num_cpus=cores)(_prepare_base).remote(config.model_dump(), cores))


def _prepare_base(fields: dict[str, Any], cores: int) -> None:
    logs.in_worker(uses_gpu=False)
    torch.set_num_threads(cores)
    bases.prepare_base(Config(**fields))
