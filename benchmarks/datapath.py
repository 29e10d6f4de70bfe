"""Part of run.py: writing shards against bare tar, reading them against plain webdataset; on a disk, in one thread.

"write" makes samples of arrays and writes their shard, index, hashes and marker; bare is the same pairs encoded and
put into a tar. "read" decodes every pair of the shard, in order; plain webdataset does so with the same decoders.
"stream" is what a training process takes: the same pairs in a seeded random order, with timesteps and noise, from a
node that has fetched the shard. shards.py has more: S3, and reading by key from an empty cache.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
import webdataset

from benchmarks.phantoms import Pair, declare, make_pairs
from benchmarks.place import Place, quotient, take_turns
from benchmarks.shards import NAME, read_ours, write_bare, write_ours
from siamdiff.data.sample import decode_image, decode_mask
from siamdiff.data.shardset import ShardSet
from siamdiff.data.stream import Stream, StreamDataset, load_batches
from siamdiff.sections import ImageFormat

AIM = 1.1
FORMATS: tuple[ImageFormat, ...] = ("png", "jpg")
LATENT, TIMESTEPS, PROMPT_DROP = 4, 1000, 0.05
BATCH = 8


@dataclass(frozen=True)
class Size:
    """What is written and read."""

    resolution: int  # pixels
    count: int  # pairs of a shard


def measure(size: Size, rounds: int) -> dict[str, Any]:
    """Seconds of each kind of work, ours and theirs, and their quotients round by round."""
    place = Place(torch.device("cpu"), "fp32")
    pairs, rows = make_pairs(size.count, size.resolution), []
    with tempfile.TemporaryDirectory() as folder, node_cache(f"{folder}/cache"):
        for image_format in FORMATS:
            rows += _of_format(place, folder, pairs, image_format, rounds)
    return {"size": vars(size), "rows": rows, "aim": AIM}


def _of_format(
    place: Place, folder: str, pairs: list[Pair], image_format: ImageFormat, rounds: int
) -> list[dict[str, Any]]:
    numbers = count()

    def fresh() -> str:
        return f"{folder}/{image_format}-{next(numbers)}"

    writing = {
        "siamdiff": lambda: write_ours(fresh(), pairs, image_format),
        "plain": lambda: write_bare(f"{fresh()}.tar", pairs, image_format),
    }
    written = take_turns(place, writing, rounds)
    uri = f"{folder}/{image_format}"
    write_ours(uri, pairs, image_format)
    declare(uri, [NAME], len(pairs[0][1]))
    reading = {
        "siamdiff": lambda: read_ours(uri),
        "plain": lambda: read_webdataset(uri, image_format),
        "stream": lambda: read_stream(uri, len(pairs)),
    }
    read = take_turns(place, reading, rounds)
    kinds = {"write": (written["siamdiff"], written["plain"], "bare tar")}
    kinds |= {"read": (read["siamdiff"], read["plain"], "webdataset")}
    kinds |= {"stream": (read["stream"], read["plain"], "webdataset")}
    return [
        {
            "format": image_format,
            "kind": kind,
            "against": against,
            "seconds": ours.spread,
            "plain": theirs.spread,
            "quotient": quotient(ours, theirs),
            "samples_per_second": len(pairs) / ours.spread.median,
        }
        for kind, (ours, theirs, against) in kinds.items()
    ]


def read_webdataset(uri: str, image_format: ImageFormat) -> int:
    """Every pair of the shard as arrays, by webdataset; how many there were."""
    shard = webdataset.WebDataset(f"{uri}/shards/{NAME}.tar", shardshuffle=False)
    decoded = ((decode_image(raw[image_format]), decode_mask(raw["mask.png"])) for raw in shard)
    return sum(1 for _ in decoded)


def read_stream(uri: str, samples: int) -> int:
    """As many samples as the shard holds, as a training process takes them; how many there were."""
    shard_set = ShardSet.open(uri)
    side = shard_set.manifest.resolution // 8
    stream = Stream(tuple(shard_set.keys("train")), 42, BATCH)
    batches = load_batches(
        StreamDataset(shard_set, stream, (LATENT, side, side), TIMESTEPS, PROMPT_DROP),
        first_step=0,
        last_step=samples // BATCH,
        rank=0,
        world_size=1,
        micro_batch=BATCH,
        loader_workers=0,
        pin_memory=False,
    )
    return sum(len(batch.keys) for batch in batches)


@contextmanager
def node_cache(folder: str) -> Iterator[None]:
    """A node whose cache of shards is `folder`."""
    before = os.environ.get("SIAMDIFF_CACHE")
    Path(folder).mkdir()
    os.environ["SIAMDIFF_CACHE"] = folder
    try:
        yield
    finally:
        if before is None:
            del os.environ["SIAMDIFF_CACHE"]
        else:
            os.environ["SIAMDIFF_CACHE"] = before
