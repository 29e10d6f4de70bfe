"""Planning a million masks in four folds; finding 10,000 finished shards, on a disk and in S3.

    python benchmarks/plan.py

"plan" is what `jobs/generate.py` does before its first sampler starts, in a process of its own: it opens the mask set,
chooses the keys, claims the output, and counts the shards to make. Only dataset.json and index.parquet of the set are
made; planning reads nothing else. "peak" is the largest resident memory of that process, libraries included. The aims
are 60 s and 1 GB.
"finished" is the same command's look at an output whose shards are all there, 10,000 tars with their markers: seconds,
and requests by the client's own count. The aim is 30 s. The store is the tests' S3 server, on the same cores and disk.
"""

import hashlib
import multiprocessing
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.common import Spread, parser, show
from infra.synthetic import Job, prepare
from siamdiff import storage, transfer
from siamdiff.config import Config
from siamdiff.data.manifest import INDEX, INDEX_SCHEMA, MANIFEST, SCHEMA, Manifest, ShardEntry, set_digest
from siamdiff.data.shards import FOLDER, finished_shards, shard_name
from tests.s3 import S3Server

SHARD_SIZE = 256  # of the masks, ingest's default
SAMPLE_BYTES = 10_240
FOLDS = 4
PER_SHARD = 64  # generate.shard_size's default
AIM_PLAN = (60.0, 1e9)  # seconds, bytes
AIM_FINISHED = 30.0  # seconds


def write_index(uri: str, count: int) -> None:
    """dataset.json and index.parquet of a real set of `count` masks of the train split, in the local folder `uri`."""
    rng = np.random.default_rng(0)
    keys = np.sort(rng.integers(0, 2**64, count, dtype=np.uint64))
    starts = np.arange(0, count, SHARD_SIZE)
    names = [shard_name("train", i) for i in range(len(starts))]
    offsets = np.arange(count) % SHARD_SIZE * SAMPLE_BYTES
    columns: dict[str, Any] = {
        "key": _texts(keys.astype(">u8").tobytes(), 16),
        "split": pa.array(["train"]).take(pa.array(np.zeros(count, np.int64))),
        "group": _texts(rng.bytes(8 * count), 16),
        "shard": pa.array(names).take(pa.array(np.arange(count) // SHARD_SIZE)),
        "offset": offsets,
        "size": np.full(count, SAMPLE_BYTES),
        "image_format": pa.array(["png"]).take(pa.array(np.zeros(count, np.int64))),
        "image_sha256": _texts(rng.bytes(32 * count), 64),
        "mask_sha256": _texts(rng.bytes(32 * count), 64),
        "parent": pa.nulls(count, pa.string()),
        "fold": pa.nulls(count, pa.int32()),
    }
    for place, part in enumerate(("meta", "mask", "image")):
        columns[f"{part}_offset"] = offsets + 512 + 3072 * place
        columns[f"{part}_size"] = rng.integers(500, 2560, count)
    table = pa.table([columns[name] for name in INDEX_SCHEMA.names], schema=INDEX_SCHEMA)
    Path(uri).mkdir(parents=True)
    pq.write_table(table, Path(uri, INDEX), compression="zstd")
    sizes = np.diff([*starts, count]).tolist()
    shards = [
        ShardEntry(name=name, count=size, size=size * SAMPLE_BYTES, sha256=rng.bytes(32).hex())
        for name, size in zip(names, sizes, strict=True)
    ]
    manifest = Manifest(
        schema_version=SCHEMA,
        kind="real",
        digest=set_digest(shards),
        resolution=384,
        demo=True,
        license="Apache-2.0",
        permitted_use="any",
        count=count,
        size=count * SAMPLE_BYTES,
        splits={"train": count},
        shards=shards,
        index_sha256=hashlib.sha256(Path(uri, INDEX).read_bytes()).hexdigest(),
        made_from={"source": "nothing"},
    )
    storage.write_json(storage.join(uri, MANIFEST), manifest.model_dump(mode="json"))


def _texts(data: bytes, digits: int) -> pa.Array:
    """Hexadecimal texts of `digits` characters each, one after the other from some bytes."""
    text = data.hex().encode()
    ends = np.arange(0, len(text) + 1, digits, dtype=np.int32)
    return pa.StringArray.from_buffers(len(ends) - 1, pa.py_buffer(ends), pa.py_buffer(text))


def configure(root: str, masks: str, limit: int | None = None) -> Config:
    """Bulk generation of every mask, or the first `limit`, in FOLDS folds; of the method that needs no model."""
    settings = {"method": "copy-paste", "fold_masks": ["real"], "folds": FOLDS, "shard_size": PER_SHARD}
    generate = settings | {"masks": masks, "limit": limit}
    return Config.model_validate({"root": root, "generate": generate}).resolve()


def plan(config: Config) -> dict[str, float]:
    """Plans as a job does; what that took in this process."""
    started = time.perf_counter()
    job = prepare(config)
    todo = job.todo(finished_shards(job.output))
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "peak": peak(),
        "samples": job.count,
        "shards": job.shards,
        "to_make": len(todo),
    }


def peak() -> int:
    """The largest resident memory of this process so far, bytes; getrusage's may be the parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def plan_apart(config: Config) -> dict[str, float]:
    """As `plan`, in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(plan, config).result()


def write_finished(job: Job, folder: Path) -> None:
    """Every shard of a job in its output, each a tar and a marker of a few bytes, by way of a local folder."""
    shards = folder / FOLDER
    shards.mkdir()
    for number in range(job.shards):
        for kind in ("tar", "json"):
            (shards / f"{job.name(number)}.{kind}").write_bytes(b"{}")
    if storage.local_path(job.output) != folder:
        transfer.upload_folder(job.output, folder)


def recognise(job: Job, repeats: int) -> dict[str, Any]:
    """Seconds of finding the shards of an output that are done, how many are not, and the requests of one look."""
    seconds = []
    for _ in range(repeats):
        with counted(job.output) as requests:
            started = time.perf_counter()
            left = len(job.todo(finished_shards(job.output)))
            seconds.append(time.perf_counter() - started)
    return {"seconds": Spread.of(seconds), "left": left, "requests": dict(requests)}


@contextmanager
def counted(uri: str) -> Iterator[Counter[str]]:
    """Counts what this process asks an object store while the block runs, by operation; nothing of a disk."""
    asked: Counter[str] = Counter()
    if storage.local_path(uri) is not None:
        yield asked
        return
    client: Any = storage.filesystem(uri)[0]

    def count(model: Any, **_others: object) -> None:
        asked[model.name] += 1

    events = client.s3.meta.events
    events.register("before-call.s3", count)
    try:
        yield asked
    finally:
        events.unregister("before-call.s3", count)


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--masks", type=int, default=1_000_000, help="masks that are planned [1000000]")
    options.add_argument(
        "--shards", type=int, default=10_000, help="finished shards, a multiple of 4 [10000]"
    )
    options.add_argument("--repeats", type=int, default=3, help="looks at them [3]")
    chosen = options.parse_args()
    limit = chosen.shards // FOLDS * PER_SHARD
    rows = {}
    with tempfile.TemporaryDirectory() as folder, S3Server() as server, pytest.MonkeyPatch.context() as env:
        for name, value in server.env.items():
            env.setenv(name, value)
        masks = f"{folder}/masks"
        write_index(masks, max(chosen.masks, limit))
        planned = plan_apart(configure(f"{folder}/planned", masks, chosen.masks))
        for place, root in (("disk", f"{folder}/disk"), ("S3", server.new_root())):
            job = prepare(configure(root, masks, limit))
            local = storage.local_path(job.output) or Path(folder, "finished")
            local.mkdir(exist_ok=True)
            write_finished(job, local)
            rows[place] = recognise(job, chosen.repeats)
    lines = [
        f"plan: {planned['samples']:,} samples in {planned['shards']:,} shards: {planned['seconds']:.1f} s, peak "
        f"{planned['peak'] / 1e9:.2f} GB",
        f"finished: {chosen.shards:,} shards, {chosen.repeats} looks",
        *(
            f"{place:6}{row['seconds']!s:26} s, {row['left']} to make, requests {row['requests'] or 'none'}"
            for place, row in rows.items()
        ),
    ]
    aims = {"plan_seconds": AIM_PLAN[0], "plan_bytes": AIM_PLAN[1], "finished_seconds": AIM_FINISHED}
    show({"aims": aims, "plan": planned, "finished": rows}, lines, chosen.json)


if __name__ == "__main__":
    main()
