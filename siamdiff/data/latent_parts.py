"""The cache of a shard set's latents: VAE moments and text states, computed once and kept beside the shards.

`SET/cache/DIGEST/`, where DIGEST names what the content depends on (`Origin`):

    moments/SHARD.npy    float32 (n, 2, C, H/8, W/8): mean and log-variance of the shard's samples, sorted by key
    texts/000000.npy     float32 (n, L, D): states of distinct prompts
    .../NAME.json        the marker: this part is whole
    cache.json           written last: the cache is complete

siamdiff.training.caching computes what is in the parts, siamdiff.data.latents reads it.
"""

import hashlib
import io
import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from siamdiff import storage
from siamdiff.data.shards import marked
from siamdiff.data.shardset import ShardSet
from siamdiff.errors import SiamdiffError, UserError

log = logging.getLogger(__name__)

SCHEMA = 1
FOLDER, MANIFEST = "cache", "cache.json"
MOMENTS, TEXTS = "moments", "texts"
SPLITS = ("train", "val")  # what training reads
PROMPTS_PER_PART = 64
# How far another device's moments or states may lie from ours, where a part is there without its marker.
_ALIKE = 1e-3
_THREADS = 4

Entry = TypeVar("Entry", bound="Part")


class Origin(BaseModel):
    """What a cache is made from: SHA-256 digests, in hex."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str  # of the shard set
    vae: str
    text_encoder: str
    tokenizer: str

    def uri(self, set_uri: str) -> str:
        """Where the cache of this origin lies."""
        name = hashlib.sha256(storage.canonical_json([SCHEMA, self.model_dump()])).hexdigest()[:16]
        return storage.join(set_uri, FOLDER, name)


class Part(BaseModel):
    """One array file of a cache."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    count: int  # rows
    shape: tuple[int, ...]  # of a row
    size: int  # bytes of the file
    sha256: str  # of the file


class TextPart(Part):
    """States of some prompts, row by row."""

    prompts: list[str]


class Marker(TextPart):
    """What a finished part holds; `prompts` of moments are the distinct ones of its samples."""

    made_by: dict[str, Any] = {}  # device, versions: what the last bits depend on


class Manifest(BaseModel):
    """What a complete cache holds; the content of its `cache.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int
    made_from: Origin
    count: int  # samples
    size: int  # bytes of all parts
    moments: list[Part]
    texts: list[TextPart]


def planned_moments(shard_set: ShardSet) -> dict[str, list[str]]:
    """{shard: its keys, sorted} of all shards with samples that training reads: each makes one part."""
    columns = (shard_set.index[name].to_pylist() for name in ("key", "shard", "split"))
    keys: dict[str, list[str]] = {}
    read = set()
    for key, shard, split in zip(*columns, strict=True):
        keys.setdefault(shard, []).append(key)
        if split in SPLITS:
            read.add(shard)
    return {shard: keys[shard] for shard in sorted(read)}


def planned_texts(prompts: Iterable[str]) -> dict[str, list[str]]:
    """{part: its prompts} of some prompts and the empty one, which dropped prompts become."""
    ordered = sorted({"", *prompts})
    return {
        f"{number:06d}": ordered[first : first + PROMPTS_PER_PART]
        for number, first in enumerate(range(0, len(ordered), PROMPTS_PER_PART))
    }


def file_uri(uri: str, kind: str, name: str) -> str:
    """Where the array file of a part lies; `kind` is MOMENTS or TEXTS."""
    return storage.join(uri, kind, f"{name}.npy")


def finished_parts(uri: str, kind: str) -> set[str]:
    """Names of the parts whose file and marker are both there, by one listing."""
    return marked(storage.join(uri, kind), ".npy")


def write_part(
    uri: str, kind: str, name: str, rows: np.ndarray, prompts: Sequence[str], made_by: dict[str, Any]
) -> Marker:
    """Writes a part and then its marker. Where a file of the same rows lies already, that one is kept and marked.

    Args:
        uri: of the cache.
        kind: MOMENTS or TEXTS.
        name: of the part.
        rows: float32 (n, ...).
        prompts: see `Marker`.
        made_by: recorded in the marker.

    Raises:
        SiamdiffError: a value is not finite, or another or a damaged file lies under this name.
    """
    file = file_uri(uri, kind, name)
    buffer = io.BytesIO()
    np.save(buffer, rows, allow_pickle=False)
    data = buffer.getvalue()
    if not storage.put_if_absent(file, data):
        theirs = storage.read_bytes(file)
        if theirs != data:
            _refuse_unlike(file, theirs, rows)
            data, made_by = theirs, {}
    marker = Marker(
        name=name,
        count=len(rows),
        shape=rows.shape[1:],
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        prompts=list(prompts),
        made_by=made_by,
    )
    storage.write_json(_marker_uri(uri, kind, name), marker.model_dump(mode="json"))
    return marker


def _refuse_unlike(file: str, theirs: bytes, rows: np.ndarray) -> None:
    """Another attempt may have had another device: its last bits differ, no more."""
    try:
        there = np.load(io.BytesIO(theirs), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise SiamdiffError(
            f"{file} is damaged ({error}); delete it and run the same command again"
        ) from error
    if there.shape != rows.shape or not np.allclose(there, rows, rtol=_ALIKE, atol=_ALIKE):
        raise SiamdiffError(
            f"{file} holds other values than these networks give; delete it and run the same command again"
        )


def _marker_uri(uri: str, kind: str, name: str) -> str:
    return storage.join(uri, kind, f"{name}.json")


def read_markers(uri: str, kind: str, names: Iterable[str]) -> list[Marker]:
    """The markers of some parts, sorted by name.

    Raises:
        SiamdiffError: one is missing or damaged.
    """

    def read(name: str) -> Marker:
        where = _marker_uri(uri, kind, name)
        try:
            return Marker.model_validate(storage.read_json(where))
        except FileNotFoundError as error:
            raise SiamdiffError(f"{where} is missing; run the same command again") from error
        except ValidationError as error:
            raise SiamdiffError(f"{where} is damaged; delete it and run the same command again") from error

    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(read, sorted(names)))


def finish_cache(uri: str, shard_set: ShardSet, origin: Origin) -> Manifest:
    """Declares a cache complete: writes cache.json.

    Raises:
        SiamdiffError: a part is missing, cut short, or not what was planned.
    """
    moments = read_markers(uri, MOMENTS, planned_moments(shard_set))
    texts = read_markers(uri, TEXTS, planned_texts(p for marker in moments for p in marker.prompts))
    manifest = Manifest(
        schema_version=SCHEMA,
        made_from=origin,
        count=sum(marker.count for marker in moments),
        size=sum(marker.size for marker in [*moments, *texts]),
        moments=[_entry(Part, marker) for marker in moments],
        texts=[_entry(TextPart, marker) for marker in texts],
    )
    there = storage.list_files(uri)
    for name, part in files_of(manifest):
        if there.get(name) != part.size:
            raise SiamdiffError(
                f"{storage.join(uri, name)} has {there.get(name, 0)} bytes, {part.size} were written: it is damaged; "
                "delete it and run the same command again"
            )
    if found := list(holes(manifest, shard_set)):
        raise SiamdiffError(f"{uri} has a hole: {found[0]}; delete {uri} and run the same command again")
    storage.write_json(storage.join(uri, MANIFEST), manifest.model_dump(mode="json"))
    return manifest


def _entry(kind: type[Entry], marker: Marker) -> Entry:
    return kind(**marker.model_dump(include=set(kind.model_fields)))


def read_cache_manifest(uri: str) -> Manifest:
    """The manifest of a complete cache.

    Raises:
        UserError: not a complete cache, or of an unknown schema.
        SiamdiffError: cache.json is damaged.
    """
    where = storage.join(uri, MANIFEST)
    try:
        content = storage.read_json(where)
    except FileNotFoundError:
        raise UserError(
            f"{uri} is not a complete cache: it has no {MANIFEST}; make it with jobs/cache.py, or train with "
            "--train.cache false"
        ) from None
    version = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version != SCHEMA:
        raise UserError(
            f"{where} has schema version {version}, this siamdiff reads {SCHEMA}; delete {uri} and run again"
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        fault = error.errors()[0]
        where_in = ".".join(map(str, fault["loc"])) or "content"
        raise SiamdiffError(
            f"{where} is damaged: {where_in}: {fault['msg']}; delete it and run the same command again"
        ) from error


def is_complete(uri: str, shard_set: ShardSet, origin: Origin) -> bool:
    """Whether a cache of this origin is complete and all its files are there with their sizes, by one listing.

    Raises:
        SiamdiffError: cache.json is damaged.
    """
    if not storage.exists(storage.join(uri, MANIFEST)):
        return False
    manifest = read_cache_manifest(uri)
    files = storage.list_files(uri)
    lost = [name for name, part in files_of(manifest) if files.get(name) != part.size]
    if lost:
        log.warning("%d parts of %s are missing: they are made again", len(lost), uri)
    return not lost and manifest.made_from == origin and not list(holes(manifest, shard_set))


def files_of(manifest: Manifest) -> Iterator[tuple[str, Part]]:
    """Name below the cache, and entry, of each array file."""
    for kind, parts in ((MOMENTS, manifest.moments), (TEXTS, manifest.texts)):
        for part in parts:
            yield f"{kind}/{part.name}.npy", part


def holes(manifest: Manifest, shard_set: ShardSet) -> Iterator[str]:
    """What of the set a cache does not hold, or holds in another form."""
    side = shard_set.manifest.resolution // 8
    parts = {part.name: part for part in manifest.moments}
    for shard, keys in planned_moments(shard_set).items():
        part = parts.get(shard)
        if part is None:
            yield f"no moments of shard {shard}, {len(keys)} samples"
        elif part.count != len(keys):
            yield f"moments of {part.count} samples of shard {shard}, which has {len(keys)}"
        elif (part.shape[0], *part.shape[2:]) != (2, side, side):
            yield f"moments of shard {shard} have the shape {part.shape}, not (2, C, {side}, {side})"
    shapes = {part.shape for part in manifest.texts}
    if len(shapes) > 1:
        yield f"text states of the shapes {sorted(shapes)}"
    prompts = [prompt for part in manifest.texts for prompt in part.prompts]
    if "" not in prompts:
        yield "no states of the empty prompt"
    if len(prompts) > len(set(prompts)) or any(part.count != len(part.prompts) for part in manifest.texts):
        yield "text states that do not fit their prompts"
