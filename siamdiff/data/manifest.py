"""`dataset.json` and `index.parquet`: what makes finished shards one complete set."""

import hashlib
import io
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from siamdiff import storage
from siamdiff.data.shards import IndexRow, Marker, read_marker
from siamdiff.errors import SiamdiffError, UserError

SCHEMA = 1
MANIFEST = "dataset.json"
INDEX = "index.parquet"
_READ_THREADS = 16
_REPAIR = f"delete the set's {MANIFEST} and run the command that made it again"

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

    name: str
    count: int
    size: int
    sha256: str


class Manifest(BaseModel):
    """What a complete set holds; the content of its `dataset.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int
    kind: Literal["real", "synthetic"]
    digest: str  # SHA-256 of the shards' names and hashes: the set's identity
    resolution: int
    demo: bool
    license: str
    permitted_use: str
    count: int
    size: int  # bytes of all tars
    splits: dict[str, int]
    shards: list[ShardEntry]
    index_sha256: str
    made_from: dict[str, Any]


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
    markers = read_markers(set_uri, names)
    rows = [row for marker in markers for row in marker.samples]
    repeated = [key for key, count in Counter(row.key for row in rows).items() if count > 1]
    if repeated:
        raise SiamdiffError(
            f"{set_uri}: key {repeated[0]} lies in two shards ({len(repeated)} such keys); "
            "delete the set and make it again"
        )
    index = index_bytes(rows)
    shards = [ShardEntry(name=m.name, count=m.count, size=m.size, sha256=m.sha256) for m in markers]
    manifest = Manifest(
        schema_version=SCHEMA,
        kind=kind,
        digest=set_digest(shards),
        resolution=resolution,
        demo=demo,
        license=license,
        permitted_use=permitted_use,
        count=len(rows),
        size=sum(shard.size for shard in shards),
        splits=dict(sorted(Counter(row.split for row in rows).items())),
        shards=shards,
        index_sha256=hashlib.sha256(index).hexdigest(),
        made_from=made_from,
    )
    storage.write_bytes(storage.join(set_uri, INDEX), index)
    storage.write_json(storage.join(set_uri, MANIFEST), manifest.model_dump(mode="json"))
    return manifest


def read_markers(set_uri: str, names: Iterable[str]) -> list[Marker]:
    """The markers of some shards, sorted by name.

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

    with ThreadPoolExecutor(_READ_THREADS) as pool:
        return list(pool.map(read, sorted(names)))


def index_bytes(rows: list[IndexRow]) -> bytes:
    """index.parquet of some rows, sorted by key."""
    ordered = sorted((row.model_dump() for row in rows), key=lambda row: row["key"])
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ordered, schema=INDEX_SCHEMA), buffer, compression="zstd")
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
        raise SiamdiffError(f"{uri} is damaged: {where}: {fault['msg']}; {_REPAIR}") from error
    if manifest.digest != set_digest(manifest.shards):
        raise SiamdiffError(f"{uri} is damaged: its digest is not that of its shards; {_REPAIR}")
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
        raise SiamdiffError(f"{uri} is missing; {_REPAIR}") from error
    if hashlib.sha256(data).hexdigest() != manifest.index_sha256:
        raise SiamdiffError(f"{uri} is damaged: its hash is not the manifest's; {_REPAIR}")
    try:
        # Without Arrow's threads: one in ten short processes (verify) would be aborted by them while it exits.
        table = pq.ParquetFile(io.BytesIO(data), pre_buffer=False).read(use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise SiamdiffError(f"{uri} is damaged: {error}; {_REPAIR}") from error
    if not table.schema.equals(INDEX_SCHEMA):
        raise SiamdiffError(f"{uri} has other columns than schema {SCHEMA}; {_REPAIR}")
    return table
