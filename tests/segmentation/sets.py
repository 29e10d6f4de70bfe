"""Small real and synthetic sets, and what may be wrong with them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from siamdiff.data.phantom import render_phantom
from siamdiff.data.sample import EncodedSample, Foreign, Synthetic, make_sample
from siamdiff.data.shards import shard_name, write_shard
from siamdiff.data.shardset import ShardSet, finish_set

SIDE = 32
SPLITS = {"train": 8, "val": 3, "test": 4}
FIRST = {"train": 0, "val": 100, "test": 200}


def pair(
    index: int,
    split: str,
    *,
    seed: int = 0,
    side: int = SIDE,
    arrays: tuple[np.ndarray, np.ndarray] | None = None,
    **about: Any,
) -> EncodedSample:
    """A phantom, or other arrays, as a sample of a split."""
    image, mask = arrays or render_phantom(seed=seed, index=index, size=side)
    known = {"prompt": "a polyp", "group": None, "source_size": (side, side), "image_format": "png"} | about
    return make_sample(image, mask, split=split, **known)


def finish(
    uri: str, shards: Mapping[str, list[EncodedSample]], kind: Any, side: int = SIDE, **made_from: Any
) -> ShardSet:
    """A complete set of some shards by name."""
    for name, samples in shards.items():
        write_shard(uri, name, samples)
    terms = {"license": "CC-BY-4.0", "permitted_use": "research"}
    finish_set(uri, list(shards), kind=kind, resolution=side, demo=False, made_from=made_from, **terms)
    return ShardSet.open(uri)


def real_set(
    uri: str,
    splits: Mapping[str, int] = SPLITS,
    *,
    seed: int = 0,
    side: int = SIDE,
    groups: Mapping[int, str] | None = None,
    subsets: tuple[str, ...] = (),
) -> ShardSet:
    """A set of phantoms; `groups` by index, `subsets` in turn over the test split."""
    shards = {}
    for split, count in splits.items():
        samples = []
        for i in range(count):
            index = FIRST[split] + i
            subset = subsets[i % len(subsets)] if subsets and split == "test" else None
            samples.append(
                pair(index, split, seed=seed, side=side, group=(groups or {}).get(index), subset=subset)
            )
        shards[shard_name(split, 0)] = samples
    return finish(uri, shards, "real", side)


def synthetic_set(
    uri: str,
    real: ShardSet,
    folds: int = 2,
    *,
    parents: list[str] | None = None,
    split: str = "train",
    side: int = SIDE,
) -> ShardSet:
    """Other phantoms under the masks of some parents, once per fold."""
    shards = {}
    group_of = {key: real.row(key).group for key in real.keys(None)}
    for fold in range(folds):
        samples = []
        for i, parent in enumerate(parents or real.keys("train")):
            origin = Synthetic(parent=parent, fold=fold, transform={}, seed=i, model_digest="m", sampler={})
            group = group_of.get(parent)
            samples.append(
                pair(1000 * (fold + 1) + i, split, seed=1, side=side, group=group, synthetic=origin)
            )
        shards[shard_name(f"fold{fold}", 0)] = samples
    return finish(uri, shards, "synthetic", side, model={"data_digest": real.digest})


def foreign_set(uri: str, count: int = 5, *, has_mask: bool = True) -> ShardSet:
    """A set that another method made."""
    origin = Foreign(method="Other", has_mask=has_mask)
    samples = [pair(i, "train", seed=3, synthetic=origin) for i in range(count)]
    return finish(uri, {shard_name("train", 0): samples}, "synthetic", origin=origin.model_dump())
