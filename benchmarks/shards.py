"""Writing and reading shards against bare tarfile with the same encoder and decoder, on a disk and in S3.

    python benchmarks/shards.py
    python benchmarks/shards.py --formats jpg --resolution 512

One shard of pairs. "write" makes samples of arrays and writes their shard, index, hashes and marker: make_sample and
write_shard, against encoding the same pairs, adding them with a JSON each to a tar in memory, and putting it. "read" is
read_shard, decoded, in order, against reading the tar, walking through it and decoding. "by key" is the same by
ShardSet.read_encoded in random order, from an empty node cache. All of it in one thread; ours and bare take turns; each
round has a shard of its own. The aim is at most 1.1 times the seconds of bare.
The store is the tests' S3 server, on the same cores and disk. run.py takes the disk's part from here, where neither the
server nor pytest need be there: they are imported where they are used.
"""

import io
import json
import random
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import Spread, parser, show
from benchmarks.phantoms import Pair, declare, described, make_pairs
from siamdiff import storage
from siamdiff.data.sample import (
    EncodedSample,
    decode_image,
    decode_mask,
    encode_image,
    encode_mask,
    make_sample,
)
from siamdiff.data.shards import read_shard, shard_name, write_shard
from siamdiff.data.shardset import ShardSet
from siamdiff.sections import ImageFormat

AIM = 1.1
KINDS = ("write", "read", "by key")
NAME = shard_name("train", 0)


def write_ours(uri: str, pairs: list[Pair], image_format: ImageFormat) -> None:
    """A finished shard of the set at `uri`."""
    asked = described(len(pairs[0][1]), image_format)
    write_shard(uri, NAME, [make_sample(image, mask, **asked) for image, mask in pairs])


def write_bare(uri: str, pairs: list[Pair], image_format: ImageFormat) -> None:
    """A tar of the same pairs at `uri`."""
    asked = described(len(pairs[0][1]), image_format)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for i, (image, mask) in enumerate(pairs):
            members = {
                "json": json.dumps(asked).encode(),
                "mask.png": encode_mask(mask),
                image_format: encode_image(image, image_format),
            }
            for suffix, data in members.items():
                info = tarfile.TarInfo(f"{i:016x}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    fs, path = storage.filesystem(uri)
    fs.pipe_file(path, buffer.getvalue())


def read_ours(uri: str) -> None:
    """Every pair of the shard, as arrays."""
    for sample in read_shard(uri, NAME):
        sample.decode()


def read_bare(uri: str) -> None:
    """Every pair of the tar, as arrays, with its JSON."""
    fs, path = storage.filesystem(uri)
    content: Any = fs.cat_file(path)
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
        for info in tar:
            member = tar.extractfile(info)
            assert member is not None
            decode = {"json": json.loads, "mask.png": decode_mask}.get(
                info.name.partition(".")[2], decode_image
            )
            decode(member.read())


def read_by_key(shard_set: ShardSet) -> None:
    """Every pair of the set, as arrays, in random order, by a node that has fetched nothing yet."""
    keys = shard_set.keys()
    random.Random(0).shuffle(keys)
    import pytest

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as environment:
        environment.setenv("SIAMDIFF_CACHE", folder)
        for key in keys:
            shard_set.read_encoded(key).decode()


def timed(work: Callable[..., None], *arguments: Any) -> float:
    """Seconds that a call takes."""
    started = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - started


def measure(root: str, pairs: list[Pair], image_format: ImageFormat, rounds: int) -> dict[str, Any]:
    """Seconds of each kind of work under `root`, ours and bare, and their quotients round by round."""
    seconds: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    for i in range(1 + rounds):  # one to warm up
        ours, bare = f"{root}/{i}", f"{root}/bare-{i}.tar"
        written = (timed(write_ours, ours, pairs, image_format), timed(write_bare, bare, pairs, image_format))
        declare(ours, [NAME], len(pairs[0][1]))
        shard_set = ShardSet.open(ours)
        by_key = timed(read_by_key, shard_set)
        read, read_plainly = timed(read_ours, ours), timed(read_bare, bare)
        for kind, pair in zip(KINDS, (written, (read, read_plainly), (by_key, read_plainly)), strict=True):
            seconds[kind] += [pair] if i else []
    return {
        kind: {
            "siamdiff": Spread.of([ours for ours, _ in of_kind]),
            "bare": Spread.of([bare for _, bare in of_kind]),
            "quotient": Spread.of([ours / bare for ours, bare in of_kind]),
        }
        for kind, of_kind in seconds.items()
    }


def same_pairs(uri: str, pairs: list[Pair]) -> bool:
    """Whether the shard at `uri` holds the masks of these pairs, and as many samples."""
    samples: list[EncodedSample] = list(read_shard(uri, NAME))
    return sorted(sample.decode().mask.tobytes() for sample in samples) == sorted(
        m.tobytes() for _, m in pairs
    )


def main() -> None:
    """Measure and print."""
    import pytest

    from tests.s3 import S3Server

    options = parser(__doc__)
    options.add_argument("--resolution", type=int, default=384, help="side of the images, pixels [384]")
    options.add_argument("--count", type=int, default=64, help="pairs of the shard [64]")
    options.add_argument("--rounds", type=int, default=7, help="measured rounds of each kind [7]")
    options.add_argument("--formats", nargs="+", choices=("png", "jpg"), default=["png", "jpg"])
    chosen = options.parse_args()
    pairs, measured = make_pairs(chosen.count, chosen.resolution), []
    with tempfile.TemporaryDirectory() as folder, S3Server() as server, pytest.MonkeyPatch.context() as env:
        for name, value in server.env.items():
            env.setenv(name, value)
        for image_format in chosen.formats:
            for place, root in (("disk", str(Path(folder) / image_format)), ("S3", server.new_root())):
                kinds = measure(root, pairs, image_format, chosen.rounds)
                if not same_pairs(f"{root}/0", pairs):
                    raise SystemExit("the shard does not hold the pairs that it was made of")
                measured += [
                    {"format": image_format, "place": place, "kind": kind, **kinds[kind]} for kind in KINDS
                ]
    lines = [
        f"{chosen.count} pairs of {chosen.resolution} x {chosen.resolution} pixels, {chosen.rounds} rounds",
        f"{'':5}{'':6}{'':8}{'seconds':28}{'bare':28}times",
    ]
    lines += [
        f"{row['format']:5}{row['place']:6}{row['kind']:8}{row['siamdiff']!s:28}{row['bare']!s:28}{row['quotient']}"
        for row in measured
    ]
    show({"aim": AIM, "rows": measured}, lines, chosen.json)


if __name__ == "__main__":
    main()
