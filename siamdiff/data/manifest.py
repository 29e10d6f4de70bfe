"""`dataset.json` and `index.parquet`: what makes finished shards one complete set.

A set that is made whole again after damage gets a new revision of `dataset.json`; the earlier ones stay under
`revisions/`, so that what was once trained on can be named.
"""

import contextlib
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from siamdiff import storage
from siamdiff.data.sample import KEY_PATTERN, Amount, Sha256, ShardName, Side, Text
from siamdiff.data.shards import Marker, read_marker
from siamdiff.errors import SiamdiffError, UserError

SCHEMA = 1
MANIFEST = "dataset.json"
INDEX = "index.parquet"
REVISIONS = "revisions"
_READ_THREADS = 16
_READ_ROWS = 65_536
_SORTED_ROWS = 2**20  # rows of a chunk, as parquet has them in a row group
_MAX_EXPANSION = 100  # bytes of an index in memory for one of its file: 4 is usual, hashes do not compress
_SMALL_INDEX = 64 * 2**20  # bytes in memory that any may take
_READ_AHEAD = 256  # markers: one of 64 samples is 30 kB
REPAIR = "python -m siamdiff verify --repair, then the command that made it, make it whole again"

INDEX_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("split", pa.string()),
        ("group", pa.string()),
        ("shard", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("meta_offset", pa.int64()),
        ("meta_size", pa.int64()),
        ("mask_offset", pa.int64()),
        ("mask_size", pa.int64()),
        ("image_offset", pa.int64()),
        ("image_size", pa.int64()),
        ("image_format", pa.string()),
        ("image_sha256", pa.string()),
        ("mask_sha256", pa.string()),
        ("parent", pa.string()),
        ("fold", pa.int32()),
    ]
)


class ShardEntry(BaseModel):
    """A shard of a complete set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ShardName
    count: Amount
    size: Amount
    sha256: Sha256


class Manifest(BaseModel):
    """What a complete set holds; the content of its `dataset.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int
    kind: Literal["real", "synthetic"]
    digest: Sha256  # SHA-256 of the shards' names and hashes: the set's identity
    resolution: Side
    demo: bool
    license: Text
    permitted_use: Text
    count: Amount
    size: Amount  # bytes of all tars
    splits: dict[str, Amount]
    shards: list[ShardEntry]
    index_sha256: Sha256
    made_from: dict[str, Any]
    revision: Amount = 1  # how often the set was declared complete with other content
    previous: str | None = None  # digest of the revision before


def set_digest(shards: Iterable[ShardEntry]) -> str:
    """The identity of a set: SHA-256, in hex, of the canonical JSON of its shards' names and hashes."""
    content = sorted([shard.name, shard.sha256] for shard in shards)
    return hashlib.sha256(storage.canonical_json(content)).hexdigest()


def finish_set(
    set_uri: str,
    names: Iterable[str],
    *,
    kind: Literal["real", "synthetic"],
    resolution: int,
    demo: bool,
    license: str,
    permitted_use: str,
    made_from: dict[str, Any],
) -> Manifest:
    """Declares a set complete: writes index.parquet, then dataset.json.

    Args:
        set_uri: URI of the set, whose shards are all finished.
        names: names of its shards.
        kind: real or synthetic.
        resolution: side of the images, pixels.
        demo: whether it was made by the default experiment.
        license: licence of the images.
        permitted_use: what licence or consent permits.
        made_from: digests and settings of everything it was made from.

    Raises:
        SiamdiffError: a shard without marker, or a key in two shards.
    """
    shards, table = _gathered(set_uri, names)
    repeated = [key for key, count in Counter(table["key"].to_pylist()).items() if count > 1]
    if repeated:
        raise SiamdiffError(
            f"{set_uri}: key {repeated[0]} lies in two shards ({len(repeated)} such keys); "
            "delete the set and make it again"
        )
    index = _index_bytes(table)
    manifest = Manifest(
        schema_version=SCHEMA,
        kind=kind,
        digest=set_digest(shards),
        resolution=resolution,
        demo=demo,
        license=license,
        permitted_use=permitted_use,
        count=len(table),
        size=sum(shard.size for shard in shards),
        splits=dict(sorted(Counter(table["split"].to_pylist()).items())),
        shards=shards,
        index_sha256=hashlib.sha256(index).hexdigest(),
        made_from=made_from,
    )
    return _publish(set_uri, manifest, index)


def _publish(set_uri: str, manifest: Manifest, index: bytes) -> Manifest:
    """Writes a set's index and manifest, as the next revision unless just these are there."""
    uri = storage.join(set_uri, MANIFEST)
    if storage.exists(uri):
        with contextlib.suppress(SiamdiffError, UserError):  # damaged, or of another schema
            there = read_manifest(set_uri)
            manifest = manifest.model_copy(update={"revision": there.revision, "previous": there.previous})
            if manifest == there:
                storage.write_bytes(storage.join(set_uri, INDEX), index)  # it may be what was damaged
                return there
        withdraw(set_uri)
    earlier = _revisions(set_uri)
    manifest = manifest.model_copy(
        update={"revision": len(earlier) + 1, "previous": _digest_in(earlier[-1]) if earlier else None}
    )
    storage.write_bytes(storage.join(set_uri, INDEX), index)
    storage.write_json(uri, manifest.model_dump(mode="json"))
    return manifest


def withdraw(set_uri: str) -> None:
    """Makes a set incomplete: its dataset.json becomes the last of `revisions/`; no reader opens the set any more."""
    uri = storage.join(set_uri, MANIFEST)
    try:
        content = storage.read_bytes(uri)
    except FileNotFoundError:
        return
    earlier = _revisions(set_uri)
    if not earlier or storage.read_bytes(earlier[-1]) != content:  # else it was lost right here before
        storage.write_bytes(storage.join(set_uri, REVISIONS, f"{len(earlier) + 1:06d}.json"), content)
    storage.delete(uri)


def _revisions(set_uri: str) -> list[str]:
    """URIs of the earlier manifests of a set, oldest first."""
    folder = storage.join(set_uri, REVISIONS)
    return [storage.join(folder, name) for name in storage.list_files(folder)]


def _digest_in(uri: str) -> str | None:
    """The set's digest in a manifest, which may be damaged."""
    try:
        return json.loads(storage.read_bytes(uri)).get("digest")
    except (ValueError, AttributeError):
        return None


def _gathered(set_uri: str, names: Iterable[str]) -> tuple[list[ShardEntry], pa.Table]:
    """Entries of some shards, sorted by name, and their rows, sorted by key; marker by marker, for sets of millions."""
    entries, tables = [], [INDEX_SCHEMA.empty_table()]
    for marker in iter_markers(set_uri, names):
        entries.append(
            ShardEntry(name=marker.name, count=marker.count, size=marker.size, sha256=marker.sha256)
        )
        rows = [row.model_dump() for row in marker.samples]
        tables.append(pa.Table.from_pylist(rows, schema=INDEX_SCHEMA))
    return entries, _by_key(pa.concat_tables(tables))


def _by_key(table: pa.Table) -> pa.Table:
    """Rows of the index sorted by key, in chunks of `_SORTED_ROWS`.

    An array of strings holds 2 GB, which the hashes of 33 million samples exceed; so it is sorted with 64-bit offsets.
    """
    fields = [f.with_type(pa.large_string()) if f.type == pa.string() else f for f in table.schema]
    wide = table.cast(pa.schema(fields)).combine_chunks()
    order = pc.sort_indices(wide, sort_keys=[("key", "ascending")])  # pyrefly: ignore[missing-attribute]
    starts = range(0, max(len(order), 1), _SORTED_ROWS)
    return pa.concat_tables(wide.take(order[i : i + _SORTED_ROWS]).cast(table.schema) for i in starts)


def iter_markers(set_uri: str, names: Iterable[str]) -> Iterator[Marker]:
    """The markers of some shards in the order of their names, read ahead by a few threads.

    Raises:
        SiamdiffError: one is missing or damaged.
    """

    def read(name: str) -> Marker:
        try:
            return read_marker(set_uri, name)
        except FileNotFoundError as error:
            raise SiamdiffError(
                f"{set_uri}: shard {name} has no marker; run the same command again"
            ) from error

    ordered = sorted(names)
    with ThreadPoolExecutor(_READ_THREADS) as pool:
        for start in range(0, len(ordered), _READ_AHEAD):
            yield from pool.map(read, ordered[start : start + _READ_AHEAD])


def _index_bytes(table: pa.Table) -> bytes:
    """index.parquet of some rows."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def read_manifest(set_uri: str) -> Manifest:
    """The manifest of a complete set.

    Raises:
        UserError: nothing there, or not a complete set, or of an unknown schema.
        SiamdiffError: dataset.json is damaged.
    """
    uri = storage.join(set_uri, MANIFEST)
    try:
        content = storage.read_json(uri)
    except FileNotFoundError:
        raise UserError(
            f"{set_uri} is not a complete set: it has no {MANIFEST}; "
            "run ingest (or generate) again, or name another set"
        ) from None
    version = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version != SCHEMA:
        raise UserError(
            f"{uri} has schema version {version}, this siamdiff reads {SCHEMA}; "
            "make the set again, or read it with the siamdiff that made it"
        )
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"])) or "content"
        raise SiamdiffError(f"{uri} is damaged: {where}: {fault['msg']}; {REPAIR}") from error
    if manifest.digest != set_digest(manifest.shards):
        raise SiamdiffError(f"{uri} is damaged: its digest is not that of its shards; {REPAIR}")
    return manifest


def read_index(set_uri: str, manifest: Manifest) -> pa.Table:
    """The index of a set, sorted by key, with the columns of INDEX_SCHEMA.

    Raises:
        SiamdiffError: it is missing, or not the one that the manifest names.
    """
    uri = storage.join(set_uri, INDEX)
    try:
        data = storage.read_bytes(uri)
    except FileNotFoundError as error:
        raise SiamdiffError(f"{uri} is missing; {REPAIR}") from error
    if hashlib.sha256(data).hexdigest() != manifest.index_sha256:
        raise SiamdiffError(f"{uri} is damaged: its hash is not the manifest's; {REPAIR}")
    try:
        # Without Arrow's threads: one in ten short processes (verify) would be aborted by them while it exits.
        # By batches: whole columns of millions of rows would be in memory twice while they are read.
        file = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False)
        if file.metadata.num_rows != manifest.count:
            raise SiamdiffError(
                f"{uri} is damaged: it has {file.metadata.num_rows} rows, {MANIFEST} says {manifest.count}; {REPAIR}"
            )
        batches = _bounded(file, _SMALL_INDEX + _MAX_EXPANSION * len(data), uri)
        table = pa.Table.from_batches(batches, schema=file.schema_arrow)
        del file, batches
        pa.default_memory_pool().release_unused()  # a third of what a large index took
    except (pa.ArrowException, OSError) as error:
        raise SiamdiffError(f"{uri} is damaged: {error}; {REPAIR}") from error
    if not table.schema.equals(INDEX_SCHEMA):
        raise SiamdiffError(f"{uri} has other columns than schema {SCHEMA}; {REPAIR}")
    if any(table[name].null_count for name in INDEX_SCHEMA.names[:-2]) or not _are_keys(table["key"]):
        raise SiamdiffError(f"{uri} is damaged: it has rows without what every sample has; {REPAIR}")
    return table


def _bounded(file: pq.ParquetFile, limit: int, uri: str) -> Iterator[pa.RecordBatch]:
    """The rows of an index, unless they fill the memory: a text that repeats takes no room in the file."""
    size = 0
    for batch in file.iter_batches(_READ_ROWS, use_threads=False):
        size += batch.nbytes
        if size > limit:
            raise SiamdiffError(f"{uri} is damaged: its rows take over {limit} bytes; {REPAIR}")
        yield batch


def _are_keys(keys: pa.ChunkedArray) -> bool:
    matches = pc.call_function("match_substring_regex", [keys], pc.MatchSubstringOptions(KEY_PATTERN))
    return pc.call_function("all", [matches], pc.ScalarAggregateOptions(min_count=0)).as_py()
