"""Pairs and shard sets for the benchmarks: phantoms, each in eight different ways, since drawing takes long."""

from typing import Any

import numpy as np

from siamdiff.data.phantom import render_phantom
from siamdiff.data.sample import make_sample
from siamdiff.data.shards import shard_name, write_shard
from siamdiff.data.shardset import finish_set
from siamdiff.sections import ImageFormat

TURNS = 8  # of a square, mirrored or not
SHARD_SIZE = 32
PROMPT = "an endoscopy image with a polyp"

Pair = tuple[np.ndarray, np.ndarray]  # image uint8 (S, S, 3), mask uint8 (S, S) in {0, 255}


def make_pairs(count: int, size: int) -> list[Pair]:
    """`count` different phantoms, square of `size` pixels."""
    pairs = [render_phantom(0, i, size) for i in range(-(-count // TURNS))]
    return [_turned(*pairs[i // TURNS], turn=i % TURNS) for i in range(count)]


def described(size: int, image_format: ImageFormat) -> dict[str, Any]:
    """What `make_sample` asks for beside a pair."""
    return {
        "prompt": PROMPT,
        "split": "train",
        "group": None,
        "source_size": (size, size),
        "image_format": image_format,
    }


def write_set(uri: str, count: int, size: int, image_format: ImageFormat) -> None:
    """A complete set of `count` phantoms, square of `size` pixels, all of the train split."""
    samples = [
        make_sample(image, mask, **described(size, image_format)) for image, mask in make_pairs(count, size)
    ]
    names = [shard_name("train", i) for i in range(-(-count // SHARD_SIZE))]
    for i, name in enumerate(names):
        write_shard(uri, name, samples[i * SHARD_SIZE : (i + 1) * SHARD_SIZE])
    declare(uri, names, size)


def declare(uri: str, names: list[str], size: int) -> None:
    """Makes a complete set of finished shards."""
    finish_set(
        uri,
        names,
        kind="real",
        resolution=size,
        demo=True,
        license="Apache-2.0",
        permitted_use="any",
        made_from={"source": "phantom"},
    )


def _turned(image: np.ndarray, mask: np.ndarray, turn: int) -> Pair:
    image, mask = (np.rot90(a[:, ::-1] if turn // 4 else a, turn % 4).copy() for a in (image, mask))
    return image, mask
