"""Re-reads a whole shard set and says what is wrong with it, problem by problem."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from siamdiff import storage
from siamdiff.data.manifest import INDEX, Manifest, ShardEntry, read_index, read_manifest
from siamdiff.data.shards import FOLDER, IndexRow, Marker, index_tar, read_marker, tar_uri, unpack
from siamdiff.errors import SiamdiffError, UserError

_THREADS = 4


def verify(uri: str) -> list[str]:
    """Problems of a complete set, one line each; [] when it is whole.

    Every byte is read: hashes, sizes and counts of shards, markers and totals; members, their JSON and hashes; every
    image decodes as RGB of the size declared, every mask as 0 and 255; keys are unique; index.parquet agrees.

    Raises:
        UserError: not a complete set (no dataset.json), or of an unknown schema.
    """
    uri = storage.normalize(uri)
    try:
        manifest = read_manifest(uri)
    except UserError:
        raise
    except SiamdiffError as error:
        return [str(error)]
    problems = list(_listing_problems(uri, manifest))
    rows: list[IndexRow] = []
    unread: set[str] = set()
    with ThreadPoolExecutor(_THREADS) as pool:
        checked = pool.map(lambda shard: _check_shard(uri, shard, manifest), manifest.shards)
        for shard, (found, faults) in zip(manifest.shards, checked, strict=True):
            problems += faults
            if found is None:
                unread.add(shard.name)
            else:
                rows += found
    problems += _key_problems(manifest, rows)
    if not unread:  # else the totals would only repeat what was said of the shard
        problems += _total_problems(manifest, rows)
    problems += _index_problems(uri, manifest, rows, unread)
    return problems


def _listing_problems(uri: str, manifest: Manifest) -> Iterator[str]:
    names = [shard.name for shard in manifest.shards]
    for name, count in Counter(names).items():
        if count > 1:
            yield f"dataset.json lists shard {name} {count} times"
    expected = {f"{name}.{kind}" for name in names for kind in ("tar", "json")}
    files = set(storage.list_files(storage.join(uri, FOLDER)))
    for name in sorted(expected - files):
        yield f"{FOLDER}/{name} is missing"
    for name in sorted(files - expected):
        yield f"{FOLDER}/{name} is not of this set: dataset.json does not list it"


def _check_shard(uri: str, shard: ShardEntry, manifest: Manifest) -> tuple[list[IndexRow] | None, list[str]]:
    """Rows of a shard as its tar has them (None: unreadable), and its problems. A missing file is the listing's."""
    problems: list[str] = []
    try:
        marker = read_marker(uri, shard.name)
        problems += _marker_problems(marker, shard)
    except FileNotFoundError:
        marker = None
    except SiamdiffError as error:
        marker = None
        problems.append(str(error))
    try:
        data = storage.read_bytes(tar_uri(uri, shard.name))
    except FileNotFoundError:
        return None, problems
    if len(data) != shard.size:
        problems.append(f"shard {shard.name} has {len(data)} bytes: dataset.json says {shard.size}")
    if hashlib.sha256(data).hexdigest() != shard.sha256:
        problems.append(
            f"shard {shard.name} has another sha256 than dataset.json says: its bytes were changed"
        )
    try:
        rows = index_tar(data, shard.name)
    except SiamdiffError as error:
        return None, [*problems, str(error)]
    if len(rows) != shard.count:
        problems.append(f"shard {shard.name} holds {len(rows)} samples: dataset.json says {shard.count}")
    if marker is not None and marker.samples != rows:
        problems.append(f"shard {shard.name}: the samples of its marker are not those of its tar")
    for row in rows:
        problems += _sample_problems(data, row, manifest)
    return rows, problems


def _marker_problems(marker: Marker, shard: ShardEntry) -> Iterator[str]:
    for field in ("count", "size", "sha256"):
        says, listed = getattr(marker, field), getattr(shard, field)
        if says != listed:
            yield f"marker of shard {shard.name} says {field} {says}: dataset.json says {listed}"


def _sample_problems(data: bytes, row: IndexRow, manifest: Manifest) -> Iterator[str]:
    sample = unpack(data, row)
    meta, side = sample.meta, manifest.resolution
    try:
        sample.decode()
    except SiamdiffError as error:
        yield f"shard {row.shard}, sample {row.key}: {error}"
    if (meta.width, meta.height) != (side, side):
        yield f"shard {row.shard}, sample {row.key}: {meta.width} x {meta.height}, the set's resolution is {side}"
    if (meta.synthetic is not None) != (manifest.kind == "synthetic"):
        yield f"shard {row.shard}, sample {row.key}: its JSON does not fit a {manifest.kind} set"


def _key_problems(manifest: Manifest, rows: list[IndexRow]) -> Iterator[str]:
    for key, count in Counter(row.key for row in rows).items():
        if count > 1:
            yield f"key {key} occurs {count} times"
    splits: dict[str, set[str]] = {}
    for row in rows:
        splits.setdefault(row.group, set()).add(row.split)
    for group, names in splits.items():
        if len(names) > 1 and manifest.kind == "real":
            yield f"group {group} is divided between the splits {', '.join(sorted(names))}"


def _total_problems(manifest: Manifest, rows: list[IndexRow]) -> Iterator[str]:
    if len(rows) != manifest.count:
        yield f"{len(rows)} samples are there: dataset.json says {manifest.count}"
    counted = dict(sorted(Counter(row.split for row in rows).items()))
    if counted != manifest.splits:
        yield f"the splits hold {counted}: dataset.json says {manifest.splits}"
    size = sum(shard.size for shard in manifest.shards)
    if size != manifest.size:
        yield f"dataset.json says {manifest.size} bytes: its shards add up to {size}"


def _index_problems(uri: str, manifest: Manifest, rows: list[IndexRow], unread: set[str]) -> Iterator[str]:
    try:
        table: pa.Table = read_index(uri, manifest)
    except SiamdiffError as error:
        yield str(error)
        return
    indexed = {row["key"]: row for row in table.to_pylist()}
    if len(indexed) != len(table):
        yield f"{INDEX} lists a key twice"
    there = {row.key: row.model_dump() for row in rows}
    wrong = [key for key in there if indexed.get(key) != there[key]]
    if wrong:
        yield f"{INDEX} does not agree with the shards about {len(wrong)} samples, {wrong[0]} first"
    lost = [key for key, row in indexed.items() if key not in there and row["shard"] not in unread]
    if lost:
        yield f"{INDEX} lists {len(lost)} samples that no shard holds, {lost[0]} first"
