"""Shard sets for the benchmarks: phantoms, of which each gives eight different images, since drawing takes long."""

import numpy as np

from siamdiff.data.phantom import render_phantom
from siamdiff.data.sample import EncodedSample, make_sample
from siamdiff.data.shards import shard_name, write_shard
from siamdiff.data.shardset import finish_set
from siamdiff.sections import ImageFormat

TURNS = 8  # of a square, mirrored or not
SHARD_SIZE = 32


def write_set(uri: str, count: int, size: int, image_format: ImageFormat) -> None:
    """A complete set of `count` phantoms, square of `size` pixels, all of the train split."""
    pairs = [render_phantom(0, i, size) for i in range(-(-count // TURNS))]
    samples = [_turned(*pairs[i // TURNS], turn=i % TURNS, image_format=image_format) for i in range(count)]
    names = [shard_name("train", i) for i in range(-(-count // SHARD_SIZE))]
    for i, name in enumerate(names):
        write_shard(uri, name, samples[i * SHARD_SIZE : (i + 1) * SHARD_SIZE])
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


def _turned(image: np.ndarray, mask: np.ndarray, turn: int, image_format: ImageFormat) -> EncodedSample:
    image, mask = (np.rot90(a[:, ::-1] if turn // 4 else a, turn % 4).copy() for a in (image, mask))
    side = image.shape[0]
    return make_sample(
        image,
        mask,
        prompt="an endoscopy image with a polyp",
        split="train",
        group=None,
        source_size=(side, side),
        image_format=image_format,
    )
