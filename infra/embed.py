"""Features of image sets, and values of pairs of images, made by actors on the nodes and kept for the next evaluation.

What is kept lies under ROOT/evaluation/cache, named after what it depends on: one more set or extractor costs its own
features, not those of the others.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from safetensors import SafetensorError

from infra import cluster
from infra.stage import EVALUATION
from siamdiff import storage
from siamdiff.config import Config, digest
from siamdiff.data.shardset import ShardSet
from siamdiff.errors import SiamdiffError
from siamdiff.evaluation.extractors import Extractor
from siamdiff.labels import labelled

log = logging.getLogger(__name__)

CHUNK = 32  # images read and embedded at a time
CACHE = "cache"  # may be deleted at any time
RECIPE = 1  # raised when the same inputs come to give other features or another segmenter


@dataclass(frozen=True)
class Part:
    """Images whose features are wanted, or pairs of images whose values are."""

    of: ShardSet
    keys: list[str]
    against: ShardSet | None = None  # of the other images of pairs
    others: tuple[str, ...] = ()  # their keys

    def inputs(self) -> dict[str, Any]:
        """What the result depends on besides the extractor."""
        inputs: dict[str, Any] = {"set": self.of.digest, "samples": digest(self.keys)}
        if self.against is not None:
            inputs |= {"against": self.against.digest, "others": digest(self.others)}
        return inputs


def embed(config: Config, extractor: Extractor, parts: Sequence[Part]) -> list[np.ndarray]:
    """Features float32 (N, D) of each part, or values (N, 1) of its pairs, in the order of its keys.

    Raises:
        SiamdiffError: damaged data, or a worker lost more often than Ray retries.
    """
    places = [
        cache_uri(config, "features", extractor=extractor.identity(), **part.inputs()) for part in parts
    ]
    wanted = dict(zip(places, parts, strict=True))  # a set under two names is one part
    features = {uri: kept for uri, part in wanted.items() if (kept := _kept(uri, len(part.keys))) is not None}
    if features:
        log.info(
            "%s: features of %d of %d sets are there already", extractor.kind, len(features), len(wanted)
        )
    missing = {uri: part for uri, part in wanted.items() if uri not in features}
    for uri, made in _made(config, extractor, missing).items():
        data = safetensors.numpy.save({"features": made}, labelled(wanted[uri].inputs()))
        storage.write_bytes(uri, data)
        features[uri] = made
    return [features[uri] for uri in places]


def worker(config: Config) -> dict[str, Any]:
    """What an actor or task computes on."""
    return {"device": _device(config), "threads": config.cluster.threads}


def cache_uri(config: Config, kind: str, **inputs: Any) -> str:
    """Where something lies that depends on these inputs alone."""
    assert config.root, "resolve() comes first"
    name = digest({"recipe": RECIPE, "device": _device(config), **inputs})[:16]
    return storage.join(config.root, EVALUATION, CACHE, f"{kind}-{name}.safetensors")


def damaged(uri: str, error: Exception) -> SiamdiffError:
    """What is kept cannot be read."""
    reason = " ".join(str(error).split())[:160]
    return SiamdiffError(f"{uri} is damaged ({reason}); delete it and run the same command again")


class FeatureActor:
    """Reads chunks of images and embeds them; keeps the network and the open sets between chunks."""

    def __init__(self, extractor: Extractor, device: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self._features = None if extractor.is_paired else extractor.load(device)
        self._values = extractor.load_paired(device) if extractor.is_paired else None
        self._sets: dict[str, ShardSet] = {}

    def __call__(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        """Rows {part, key, features float32 (D,)} of a chunk {part, uri, digest, keys, against, ..., others}."""
        images = self._images(row["uri"], row["digest"], row["keys"])  # (n, H, W, 3)
        if self._values is not None:
            others = self._images(row["against"], row["against_digest"], row["others"])
            features = self._values(images, others)[:, None]  # (n, 1)
        else:
            assert self._features is not None
            features = self._features(images)  # (n, D)
        return [
            {"part": row["part"], "key": key, "features": vector}
            for key, vector in zip(row["keys"], features, strict=True)
        ]

    def _images(self, uri: str, digest: str, keys: Sequence[str]) -> np.ndarray:
        if uri not in self._sets:
            self._sets[uri] = ShardSet.open(uri, digest)
        return np.stack([self._sets[uri].read(key).image for key in keys])


def _device(config: Config) -> str:
    return "cuda" if config.cluster.gpus else "cpu"


def _kept(uri: str, count: int) -> np.ndarray | None:
    """Features (count, D) that are there already."""
    try:
        features = safetensors.numpy.load(storage.read_bytes(uri))["features"]
    except FileNotFoundError:
        return None
    except (SafetensorError, KeyError) as error:
        raise damaged(uri, error) from error
    if features.ndim != 2 or len(features) != count:
        raise damaged(uri, ValueError(f"an array {features.shape}, not ({count}, features)"))
    return features


def _made(config: Config, extractor: Extractor, parts: dict[str, Part]) -> dict[str, np.ndarray]:
    import ray.data

    chunks = [chunk for name, part in parts.items() for chunk in _chunks(name, part)]
    if not chunks:
        return {}
    cluster.configure_data()
    actor: Any = FeatureActor  # Ray's own type of a class to call says less than the class
    rows = ray.data.from_items(chunks, override_num_blocks=len(chunks)).flat_map(
        actor,
        fn_constructor_kwargs={"extractor": extractor, **worker(config)},
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


def _chunks(name: str, part: Part) -> list[dict[str, Any]]:
    against = {
        "against": part.against.uri if part.against else "",
        "against_digest": part.against.digest if part.against else "",
    }
    others = part.others or ("",) * len(part.keys)
    return [
        {
            "part": name,
            "uri": part.of.uri,
            "digest": part.of.digest,
            "keys": part.keys[start : start + CHUNK],
            "others": list(others[start : start + CHUNK]),
            **against,
        }
        for start in range(0, len(part.keys), CHUNK)
    ]


def _pool_size(config: Config, chunks: int) -> int:
    """As many actors as there is room for beside the segmenter, each with the cores (or GPU share) it keeps busy."""
    import ray

    have = ray.cluster_resources()
    room = have.get("CPU", 1) / max(config.cluster.actor_cpus, config.cluster.threads) - 1
    if config.cluster.gpus:
        room = min(room, have.get("GPU", 0) / config.cluster.gpus)
    return max(1, min(int(room), chunks))
