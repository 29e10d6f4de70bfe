"""What runs on the nodes during evaluation: actors that turn images into features, a task that trains a segmenter.

Features of a set and the trained segmenter are kept under ROOT/evaluation/cache, named after what they depend on: one
more set costs its own features, not those of the others.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
from safetensors import SafetensorError

from infra import cluster
from infra.named_sets import NamedSet
from infra.stage import EVALUATION
from siamdiff import storage
from siamdiff.config import Config, digest
from siamdiff.data.shardset import ShardSet
from siamdiff.errors import SiamdiffError
from siamdiff.evaluation.agreement import (
    BATCH_SIZE,
    MAX_SIDE,
    NETWORK,
    Agreement,
    Judge,
    ShardPairs,
    measure_agreement,
)
from siamdiff.evaluation.features import EfficientNetLite0
from siamdiff.segmentation.networks import unet

log = logging.getLogger(__name__)

REFERENCE_SPLIT = "train"  # of the real set: what the model learnt to imitate
HELD_OUT = ("val", "test")
CHUNK = 32  # images read and embedded at a time
CACHE = "cache"  # may be deleted at any time
RECIPE = 1  # raised when the same inputs come to give other features or another segmenter


@dataclass(frozen=True)
class Measured:
    """Features float32 (N, D), rows in the order of the sorted keys, and mask agreement of the sets that have masks."""

    real: np.ndarray
    synthetic: dict[str, np.ndarray]
    agreement: dict[str, Agreement]


@dataclass(frozen=True)
class _Part:
    """Images whose features are wanted."""

    of: ShardSet
    keys: list[str]
    cache: str  # URI of their features


def measure(config: Config, real: ShardSet, sets: Sequence[NamedSet]) -> Measured:
    """Features of the real reference split and of every synthetic set, and mask agreement, made side by side.

    Raises:
        UserError: an actor needs more than this machine has.
        SiamdiffError: damaged data, or a worker lost more often than Ray retries.
    """
    import ray

    cluster.connect()
    # Where there is room for one of them only, segmenter and feature actor run one after the other.
    cluster.check_room(
        {"CPU": config.cluster.actor_cpus, "GPU": config.cluster.gpus},
        "the segmenter and each feature actor",
        "lower cluster.actor_cpus or cluster.gpus",
    )
    task = ray.remote(_agreement).options(num_cpus=config.cluster.actor_cpus, num_gpus=config.cluster.gpus)
    judged = {named.name: (named.shards.uri, named.shards.digest) for named in sets if named.has_masks}
    settings = config.evaluate.agreement_steps, config.evaluate.seed
    agreement: Any = (
        task.remote((real.uri, real.digest), judged, *settings, _judge_uri(config, real), _worker(config))
        if judged
        else ray.put({})
    )
    parts = {named.name: _part(config, named.shards, named.shards.keys(), "all samples") for named in sets}
    reference = _part(config, real, real.keys(REFERENCE_SPLIT), REFERENCE_SPLIT)
    with cluster.explained():
        features = _features(config, [reference, *parts.values()])
        return Measured(
            features[reference.cache],
            {name: features[part.cache] for name, part in parts.items()},
            ray.get(agreement),
        )


def _worker(config: Config) -> dict[str, Any]:
    return {"device": _device(config), "threads": config.cluster.threads}


def _device(config: Config) -> str:
    return "cuda" if config.cluster.gpus else "cpu"


def _cache_uri(config: Config, kind: str, **inputs: Any) -> str:
    """Where something lies that depends on these inputs alone."""
    assert config.root, "resolve() comes first"
    name = digest({"recipe": RECIPE, "device": _device(config), **inputs})[:16]
    return storage.join(config.root, EVALUATION, CACHE, f"{kind}-{name}.safetensors")


def _part(config: Config, of: ShardSet, keys: list[str], which: str) -> _Part:
    spec = asdict(EfficientNetLite0.spec)
    return _Part(of, keys, _cache_uri(config, "features", set=of.digest, samples=which, extractor=spec))


def _judge_uri(config: Config, real: ShardSet) -> str:
    return _cache_uri(
        config,
        "segmenter",
        set=real.digest,
        samples=REFERENCE_SPLIT,
        network=NETWORK,
        max_side=MAX_SIDE,
        batch_size=BATCH_SIZE,
        steps=config.evaluate.agreement_steps,
        seed=config.evaluate.seed,
    )


def _agreement(
    real_set: tuple[str, str],
    synthetic: dict[str, tuple[str, str]],
    steps: int,
    seed: int,
    judge_uri: str,
    worker: dict[str, Any],
) -> dict[str, Agreement]:
    """Trains the segmenter on the real training pairs and scores it on the held-out and the synthetic ones."""
    torch.set_num_threads(worker["threads"])
    real = ShardSet.open(*real_set)
    train = ShardPairs(real, real.keys(REFERENCE_SPLIT))
    judge = _kept_judge(judge_uri, len(train.keys), steps, seed, worker["device"])
    if judge is None:
        judge = Judge.train(train, steps=steps, seed=seed, device=worker["device"])
        storage.write_bytes(judge_uri, safetensors.torch.save(judge.network.state_dict()))
    held_out = ShardPairs(real, [key for split in HELD_OUT for key in real.keys(split)])
    opened = {name: ShardSet.open(*of) for name, of in synthetic.items()}
    pairs = {name: ShardPairs(of, of.keys()) for name, of in opened.items()}
    return measure_agreement(judge, held_out, pairs, worker["device"])


def _kept_judge(uri: str, n_train: int, steps: int, seed: int, device: str) -> Judge | None:
    network = unet().to(device).eval()
    try:
        network.load_state_dict(safetensors.torch.load(storage.read_bytes(uri)))
    except FileNotFoundError:
        return None
    except SafetensorError as error:
        raise _damaged(uri, error) from error
    return Judge(network, n_train, steps, seed)


class FeatureActor:
    """Reads chunks of images and embeds them; keeps the network and the open sets between chunks."""

    def __init__(self, device: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self._extract = EfficientNetLite0(device)
        self._sets: dict[str, ShardSet] = {}

    def __call__(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        """Rows {part, key, features float32 (D,)} of a chunk {part, uri, digest, keys}."""
        part = row["part"]
        if part not in self._sets:
            self._sets[part] = ShardSet.open(row["uri"], row["digest"])
        images = np.stack([self._sets[part].read(key).image for key in row["keys"]])  # (n, H, W, 3)
        return [
            {"part": part, "key": key, "features": features}
            for key, features in zip(row["keys"], self._extract(images), strict=True)
        ]


def _features(config: Config, parts: Sequence[_Part]) -> dict[str, np.ndarray]:
    """The features of some parts, by the URI where they are kept: read from there, or made and put there."""
    wanted = {part.cache: part for part in parts}  # a set under two names is one part
    features = {uri: kept for uri, part in wanted.items() if (kept := _kept_features(part)) is not None}
    missing = {uri: part for uri, part in wanted.items() if uri not in features}
    if features:
        log.info("features of %d of %d sets are there already", len(features), len(wanted))
    for uri, made in _embed(config, missing).items():
        storage.write_bytes(uri, safetensors.numpy.save({"features": made}))
        features[uri] = made
    return features


def _kept_features(part: _Part) -> np.ndarray | None:
    try:
        return safetensors.numpy.load(storage.read_bytes(part.cache))["features"]
    except FileNotFoundError:
        return None
    except SafetensorError as error:
        raise _damaged(part.cache, error) from error


def _damaged(uri: str, error: Exception) -> SiamdiffError:
    return SiamdiffError(f"{uri} is damaged ({error}); delete it and run the same command again")


def _embed(config: Config, parts: dict[str, _Part]) -> dict[str, np.ndarray]:
    import ray.data

    chunks = [
        {"part": name, "uri": part.of.uri, "digest": part.of.digest, "keys": part.keys[start : start + CHUNK]}
        for name, part in parts.items()
        for start in range(0, len(part.keys), CHUNK)
    ]
    if not chunks:
        return {}
    cluster.configure_data()
    actor: Any = FeatureActor  # Ray's own type of a class to call says less than the class
    rows = ray.data.from_items(chunks, override_num_blocks=len(chunks)).flat_map(
        actor,
        fn_constructor_kwargs=_worker(config),
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=_pool_size(config, len(chunks))),
        num_cpus=config.cluster.actor_cpus,
        num_gpus=config.cluster.gpus or None,
    )
    found = {(row["part"], row["key"]): row["features"] for row in rows.iter_rows()}
    lost = [key for name, part in parts.items() for key in part.keys if (name, key) not in found]
    if lost:
        whole = sum(len(part.keys) for part in parts.values())
        raise SiamdiffError(
            f"{len(lost)} of {whole} images came back without features ({lost[0]}); run the same command again"
        )
    return {name: np.stack([found[name, key] for key in part.keys]) for name, part in parts.items()}


def _pool_size(config: Config, chunks: int) -> int:
    """As many actors as there is room for beside the segmenter, each with the cores (or GPU share) it keeps busy."""
    import ray

    have = ray.cluster_resources()
    room = have.get("CPU", 1) / max(config.cluster.actor_cpus, config.cluster.threads) - 1
    if config.cluster.gpus:
        room = min(room, have.get("GPU", 0) / config.cluster.gpus)
    return max(1, min(int(room), chunks))
