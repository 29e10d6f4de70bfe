"""What runs on the nodes during evaluation: actors that turn images into features, a task that trains a segmenter."""

from typing import Any

import numpy as np
import torch

from infra import cluster
from siamdiff.config import Config
from siamdiff.data.shardset import ShardSet
from siamdiff.errors import SiamdiffError
from siamdiff.evaluation.agreement import Agreement, ShardPairs, measure_agreement
from siamdiff.evaluation.features import EfficientNetLite0

REFERENCE_SPLIT = "train"  # of the real set: what the model learnt to imitate
HELD_OUT = ("val", "test")
CHUNK = 32  # images read and embedded at a time


def measure(config: Config, real: ShardSet, synthetic: ShardSet) -> tuple[dict[str, np.ndarray], Agreement]:
    """Features of the real reference split and of the synthetic set, and mask agreement, made side by side.

    Returns features float32 (N, D), rows in the order of the sorted keys, as {"real": ..., "synthetic": ...}.

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
    sets = {"real": (real.uri, real.digest), "synthetic": (synthetic.uri, synthetic.digest)}
    agreement = task.remote(sets, config.evaluate.agreement_steps, config.evaluate.seed, _worker(config))
    with cluster.explained():
        return _features(config, real, synthetic), ray.get(agreement)


def _worker(config: Config) -> dict[str, Any]:
    return {"device": "cuda" if config.cluster.gpus else "cpu", "threads": config.cluster.threads}


def _agreement(sets: dict[str, tuple[str, str]], steps: int, seed: int, worker: dict[str, Any]) -> Agreement:
    """Trains the segmenter on the real training pairs and scores it on the held-out and the synthetic ones."""
    torch.set_num_threads(worker["threads"])
    real, synthetic = ShardSet.open(*sets["real"]), ShardSet.open(*sets["synthetic"])
    held_out = [key for split in HELD_OUT for key in real.keys(split)]
    return measure_agreement(
        ShardPairs(real, real.keys(REFERENCE_SPLIT)),
        ShardPairs(real, held_out),
        ShardPairs(synthetic, synthetic.keys()),
        steps=steps,
        seed=seed,
        device=worker["device"],
    )


class FeatureActor:
    """Reads chunks of images and embeds them; keeps the network and the open sets between chunks."""

    def __init__(self, device: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self._extract = EfficientNetLite0(device)
        self._sets: dict[str, ShardSet] = {}

    def __call__(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        """Rows {set, key, features float32 (D,)} of a chunk {set, uri, digest, keys}."""
        name = row["set"]
        if name not in self._sets:
            self._sets[name] = ShardSet.open(row["uri"], row["digest"])
        images = np.stack([self._sets[name].read(key).image for key in row["keys"]])  # (n, H, W, 3)
        return [
            {"set": name, "key": key, "features": features}
            for key, features in zip(row["keys"], self._extract(images), strict=True)
        ]


def _features(config: Config, real: ShardSet, synthetic: ShardSet) -> dict[str, np.ndarray]:
    import ray.data

    cluster.configure_data()
    keys = {"real": real.keys(REFERENCE_SPLIT), "synthetic": synthetic.keys()}
    chunks = [
        {"set": name, "uri": of.uri, "digest": of.digest, "keys": keys[name][start : start + CHUNK]}
        for name, of in (("real", real), ("synthetic", synthetic))
        for start in range(0, len(keys[name]), CHUNK)
    ]
    actor: Any = FeatureActor  # Ray's own type of a class to call says less than the class
    rows = ray.data.from_items(chunks, override_num_blocks=len(chunks)).flat_map(
        actor,
        fn_constructor_kwargs=_worker(config),
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=_pool_size(config, len(chunks))),
        num_cpus=config.cluster.actor_cpus,
        num_gpus=config.cluster.gpus or None,
    )
    found = {(row["set"], row["key"]): row["features"] for row in rows.iter_rows()}
    lost = [key for name in keys for key in keys[name] if (name, key) not in found]
    if lost:
        whole = sum(map(len, keys.values()))
        raise SiamdiffError(
            f"{len(lost)} of {whole} images came back without features ({lost[0]}); run the same command again"
        )
    return {name: np.stack([found[name, key] for key in keys[name]]) for name in keys}


def _pool_size(config: Config, chunks: int) -> int:
    """As many actors as there is room for beside the segmenter, each with the cores (or GPU share) it keeps busy."""
    import ray

    have = ray.cluster_resources()
    room = have.get("CPU", 1) / max(config.cluster.actor_cpus, config.cluster.threads) - 1
    if config.cluster.gpus:
        room = min(room, have.get("GPU", 0) / config.cluster.gpus)
    return max(1, min(int(room), chunks))
