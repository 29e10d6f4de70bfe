"""How long a trainer waits for data that reads 200 samples of 384 x 384 pixels a second, from a disk and from S3.

    python benchmarks/data_wait.py
    python benchmarks/data_wait.py --workers 4 --formats jpg

The consumer stands for a GPU: it takes a batch of 48 from siamdiff.data.stream.load_batches, as the loop does, and
sleeps for as long as a step at that rate takes. "waiting" is the share of its time that it spent waiting for a batch;
the first batch, before which processes start and shards are fetched, is told apart. "one process" is what a single
reading process delivers with nobody sleeping, and "of it decoding" the part of its time that goes into PNG or JPEG.
The store is the tests' S3 server, which runs on the same cores; shards come from it into an empty node cache.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.common import Spread, parser, show
from benchmarks.phantoms import write_set
from siamdiff.data.shardset import ShardSet
from siamdiff.data.stream import Batch, Stream, StreamDataset, load_batches
from tests.s3 import S3Server

LATENT, TIMESTEPS, PROMPT_DROP = 4, 1000, 0.05
AIM = 0.02


def batches(uri: str, steps: int, batch: int, workers: int) -> Iterator[Batch]:
    """The batches of a run's first steps, as the only worker gets them."""
    shard_set = ShardSet.open(uri)
    stream = Stream(tuple(shard_set.keys("train")), 42, batch)
    side = shard_set.manifest.resolution // 8
    return load_batches(
        StreamDataset(shard_set, stream, (LATENT, side, side), TIMESTEPS, PROMPT_DROP),
        first_step=0,
        last_step=steps,
        rank=0,
        world_size=1,
        micro_batch=batch,
        loader_workers=workers,
        pin_memory=torch.cuda.is_available(),
    )


@contextmanager
def empty_cache() -> Iterator[None]:
    """A node that has fetched nothing yet."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as environment:
        environment.setenv("SIAMDIFF_CACHE", folder)
        yield


def waiting(uri: str, steps: int, batch: int, rate: float, workers: int) -> dict[str, Any]:
    """What a consumer of `rate` samples a second waits."""
    with empty_cache():
        started = time.perf_counter()
        source = batches(uri, steps + 1, batch, workers)
        next(source)
        first = time.perf_counter() - started
        waited = []
        for _ in range(steps):
            time.sleep(batch / rate)
            started = time.perf_counter()
            taken = next(source)
            waited.append(time.perf_counter() - started)
            del taken  # as the loop does: to free it is a part of the step
    total = sum(waited)
    return {
        "share": total / (total + steps * batch / rate),
        "seconds": Spread.of(waited),
        "worst": max(waited),
        "first": first,
    }


def speed(uri: str, steps: int, batch: int) -> float:
    """Samples per second of one reading process when nothing holds it up."""
    with empty_cache():
        source = batches(uri, steps + 2, batch, 1)
        next(source)
        started = time.perf_counter()
        for _ in range(steps):
            next(source)
        return steps * batch / (time.perf_counter() - started)


def decoding(uri: str) -> tuple[float, float]:
    """Processor seconds of a reading process for one sample, and of these the PNG or JPEG decoder's."""
    shard_set = ShardSet.open(uri)
    keys = shard_set.keys("train")
    side = shard_set.manifest.resolution // 8
    stream = Stream(tuple(keys), 42, len(keys))
    dataset = StreamDataset(shard_set, stream, (LATENT, side, side), TIMESTEPS, PROMPT_DROP)
    encoded = [shard_set.read_encoded(key) for key in keys]
    seconds = []
    for work in (lambda i: dataset[i], lambda i: encoded[i].decode()):
        started = time.process_time()
        for i in range(len(keys)):
            work(i)
        seconds.append((time.process_time() - started) / len(keys))
    return seconds[0], seconds[1]


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--resolution", type=int, default=384, help="side of the images, pixels [384]")
    options.add_argument(
        "--rate", type=float, default=200, help="samples a second that the consumer takes [200]"
    )
    options.add_argument("--batch", type=int, default=48, help="samples of a step [48]")
    options.add_argument("--steps", type=int, default=40, help="measured steps of each kind [40]")
    options.add_argument("--count", type=int, default=96, help="samples of the set [96]")
    options.add_argument("--workers", type=int, default=2, help="reading processes [2]")
    options.add_argument("--formats", nargs="+", choices=("png", "jpg"), default=["png", "jpg"])
    chosen = options.parse_args()
    torch.set_num_threads(1)
    measured = []
    with (
        tempfile.TemporaryDirectory() as folder,
        S3Server() as server,
        pytest.MonkeyPatch.context() as environment,
    ):
        for name, value in server.env.items():
            environment.setenv(name, value)
        for image_format in chosen.formats:
            for place, root in (("disk", Path(folder).as_uri()), ("S3", server.new_root())):
                uri = f"{root}/{image_format}"
                write_set(uri, chosen.count, chosen.resolution, image_format)
                row = waiting(uri, chosen.steps, chosen.batch, chosen.rate, chosen.workers)
                row |= {"format": image_format, "place": place}
                if place == "disk":
                    whole, decoder = decoding(uri)
                    row["one_process"] = speed(uri, max(2, chosen.steps // 4), chosen.batch)
                    row |= {"sample_ms": 1e3 * whole, "decoding_ms": 1e3 * decoder}
                measured.append(row)
    lines = [
        f"{chosen.rate:.0f} samples/s of {chosen.resolution} x {chosen.resolution}, batch {chosen.batch}, "
        f"{chosen.workers} reading processes, {chosen.steps} steps",
        f"{'format':8}{'from':6}{'waiting':>8}  {'seconds a step':26}{'worst':>7}{'first':>8}   one process",
    ]
    for row in measured:
        alone = ""
        if "one_process" in row:
            alone = (
                f"{row['one_process']:.0f} samples/s; {row['sample_ms']:.1f} ms of processor a sample, "
                f"{row['decoding_ms']:.1f} of it decoding"
            )
        lines.append(
            f"{row['format']:8}{row['place']:6}{row['share']:8.1%}  {row['seconds']!s:26}{row['worst']:7.3f}"
            f"{row['first']:8.2f}   {alone}"
        )
    show({"aim": AIM, "workers": chosen.workers, "rate": chosen.rate, "rows": measured}, lines, chosen.json)


if __name__ == "__main__":
    main()
