"""What runs on the nodes during evaluation: actors that turn images into features, a task that trains a segmenter.

Features and the trained segmenter are kept between evaluations (infra.embed).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError

from infra import cluster
from infra.embed import Part, cache_uri, damaged, embed, worker
from infra.named_sets import NamedSet
from infra.pairs import REFERENCE_SPLIT, Pairs, different_pairs, parent_pairs
from siamdiff import storage
from siamdiff.config import Config, digest
from siamdiff.data.shardset import ShardSet
from siamdiff.evaluation.agreement import (
    BATCH_SIZE,
    MAX_SIDE,
    NETWORK,
    Agreement,
    Judge,
    ShardPairs,
    measure_agreement,
)
from siamdiff.evaluation.copies import Limits, Nearest, calibrate, from_rows, nearest
from siamdiff.evaluation.distances import paired_cosine
from siamdiff.evaluation.extractors import EFFICIENTNET_EXTRACTOR, Extractor
from siamdiff.labels import labelled
from siamdiff.segmentation.networks import unet

HELD_OUT = ("val", "test")


@dataclass(frozen=True)
class Measured:
    """What figures are made of, by extractor; rows of features in the order of the sorted keys."""

    real: dict[str, np.ndarray]  # extractor -> features (M, D) of the reference
    synthetic: dict[str, dict[str, np.ndarray]]  # name of the set -> extractor -> features (N, D)
    pairs: dict[str, Pairs]  # name of the set -> its images with a parent in the reference
    values: dict[
        str, dict[str, np.ndarray]
    ]  # name -> extractor that has a paired figure -> value of each pair
    floors: dict[str, np.ndarray]  # such an extractor -> values of pairs of different real images
    agreement: dict[str, Agreement]  # of the sets that have masks
    copies: dict[str, Nearest]  # name of the set -> how near its images come to the reference's
    limits: list[Limits]  # what a copy is; empty: nothing to find copies by
    n_real: int  # images of the reference


def measure(
    config: Config, real: ShardSet, sets: Sequence[NamedSet], extractors: Sequence[Extractor]
) -> Measured:
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
        task.remote((real.uri, real.digest), judged, *settings, _judge_uri(config, real), worker(config))
        if judged
        else ray.put({})
    )
    measured = Measured(
        real={},
        synthetic={named.name: {} for named in sets},
        pairs={named.name: parent_pairs(real, named.shards) for named in sets},
        values={named.name: {} for named in sets},
        floors={},
        agreement={},
        copies={},
        limits=[],
        n_real=len(real.keys(REFERENCE_SPLIT)),
    )
    with cluster.explained():
        for extractor in extractors:
            (_paired if extractor.is_paired else _features)(config, real, sets, extractor, measured)
        measured.agreement.update(ray.get(agreement))
    return measured


def _features(
    config: Config, real: ShardSet, sets: Sequence[NamedSet], extractor: Extractor, measured: Measured
) -> None:
    """Adds the features of all sets; of CLIP the cosines of pairs too."""
    keys = real.keys(REFERENCE_SPLIT)
    parts = [Part(real, keys), *(Part(named.shards, named.shards.keys()) for named in sets)]
    reference, *others = embed(config, extractor, parts)
    if extractor.kind == EFFICIENTNET_EXTRACTOR.kind:
        _find_copies(config, real, reference, dict(zip(measured.synthetic, others, strict=True)), measured)
        reference, *others = (rows[:, : extractor.spec.dimensions] for rows in (reference, *others))
    measured.real[extractor.kind] = reference
    for named, features in zip(sets, others, strict=True):
        measured.synthetic[named.name][extractor.kind] = features
    if not extractor.spec.is_clip:
        return
    row = {key: i for i, key in enumerate(keys)}
    for named, features in zip(sets, others, strict=True):
        pairs = measured.pairs[named.name]
        of_parents = reference[[row[parent] for parent in pairs.parents]]
        measured.values[named.name][extractor.kind] = paired_cosine(features[pairs.rows], of_parents)
    ones, twos = different_pairs(real, config.evaluate.seed)
    cosines = paired_cosine(reference[[row[key] for key in ones]], reference[[row[key] for key in twos]])
    measured.floors[extractor.kind] = cosines


def _find_copies(
    config: Config, real: ShardSet, reference: np.ndarray, sets: dict[str, np.ndarray], measured: Measured
) -> None:
    """Adds how near every synthetic image comes to the reference, and what is near, as bulk generation does."""
    training = from_rows(reference)
    groups = dict(zip(real.index["key"].to_pylist(), real.index["group"].to_pylist(), strict=True))
    quantile = config.generate.gates.copy_quantile
    limits = calibrate(training, [groups[key] for key in real.keys(REFERENCE_SPLIT)], quantile)
    measured.limits.append(limits)
    measured.copies.update({name: nearest(from_rows(rows), training, limits) for name, rows in sets.items()})


def _paired(
    config: Config, real: ShardSet, sets: Sequence[NamedSet], extractor: Extractor, measured: Measured
) -> None:
    """Adds the values of pairs by a network that compares images themselves."""
    ones, twos = different_pairs(real, config.evaluate.seed)
    floor = [Part(real, ones, real, tuple(twos))] if ones else []
    found = {named.name: (named.shards, measured.pairs[named.name]) for named in sets}
    parts = {
        name: Part(shards, pairs.keys, real, tuple(pairs.parents))
        for name, (shards, pairs) in found.items()
        if pairs.keys
    }
    values = [made[:, 0] for made in embed(config, extractor, [*floor, *parts.values()])]
    measured.floors[extractor.kind] = values.pop(0) if floor else np.empty(0)
    for name, of in zip(parts, values, strict=True):
        measured.values[name][extractor.kind] = of


def _judge_uri(config: Config, real: ShardSet) -> str:
    return cache_uri(
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
    on: dict[str, Any],
) -> dict[str, Agreement]:
    """Trains the segmenter on the real training pairs and scores it on the held-out and the synthetic ones."""
    torch.set_num_threads(on["threads"])
    real = ShardSet.open(*real_set)
    train = ShardPairs(real, real.keys(REFERENCE_SPLIT))
    judge = _kept_judge(judge_uri, len(train.keys), steps, seed, on["device"])
    if judge is None:
        judge = Judge.train(train, steps=steps, seed=seed, device=on["device"])
        made_from = {"set": real.digest, "samples": digest(train.keys)}
        data = safetensors.torch.save(judge.network.state_dict(), labelled(made_from))
        storage.write_bytes(judge_uri, data)
    held_out = ShardPairs(real, [key for split in HELD_OUT for key in real.keys(split)])
    opened = {name: ShardSet.open(*of) for name, of in synthetic.items()}
    pairs = {name: ShardPairs(of, of.keys()) for name, of in opened.items()}
    return measure_agreement(judge, held_out, pairs, on["device"])


def _kept_judge(uri: str, n_train: int, steps: int, seed: int, device: str) -> Judge | None:
    network = unet().to(device).eval()
    try:
        network.load_state_dict(safetensors.torch.load(storage.read_bytes(uri)))
    except FileNotFoundError:
        return None
    except (SafetensorError, RuntimeError) as error:  # RuntimeError: tensors of another network
        raise damaged(uri, error) from error
    return Judge(network, n_train, steps, seed)
