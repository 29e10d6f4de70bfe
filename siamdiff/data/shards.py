"""Shards: WebDataset tars whose bytes depend on their samples alone, each with a marker that says it is whole.

A shard NAME lies at `SET/shards/NAME.tar`; it exists once its marker `SET/shards/NAME.json` does. The tar is put only
if absent, so of two overlapping attempts one wins, and the marker describes the tar that is there.
"""

import hashlib
import io
import re
import tarfile
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from siamdiff import storage
from siamdiff.data.sample import (
    KEY_DIGITS,
    MAX_MEMBER_BYTES,
    Amount,
    EncodedSample,
    ImageFormat,
    Key,
    SampleMeta,
    Sha256,
    ShardName,
    Synthetic,
    Text,
)
from siamdiff.errors import SiamdiffError

FOLDER = "shards"
_NAME = re.compile(rf"([0-9a-f]{{{KEY_DIGITS}}})\.(json|mask\.png|png|jpg)")


class IndexRow(BaseModel):
    """Where a sample lies in its tar, in bytes, and what is needed to choose it without reading it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: Key
    split: Text
    group: Text
    shard: ShardName
    offset: Amount  # of the sample's first tar header
    size: Amount  # up to the end of its last member, padding included
    meta_offset: Amount  # of the members' data
    meta_size: Amount
    mask_offset: Amount
    mask_size: Amount
    image_offset: Amount
    image_size: Amount
    image_format: ImageFormat
    image_sha256: Sha256
    mask_sha256: Sha256
    parent: str | None  # of a synthetic sample, if known
    fold: int | None


class Marker(BaseModel):
    """What a finished shard holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ShardName
    count: Amount
    size: Amount  # bytes of the tar
    sha256: Sha256  # of the tar
    samples: list[IndexRow]
    made_by: dict[str, Any] = {}  # device type, versions: what byte identity depends on beside the content


def shard_name(split: str, number: int) -> str:
    """shard_name("train", 3) == "train-000003"."""
    return f"{split}-{number:06d}"


def tar_uri(set_uri: str, name: str) -> str:
    """Where the tar of a shard lies."""
    return storage.join(set_uri, FOLDER, f"{name}.tar")


def marker_uri(set_uri: str, name: str) -> str:
    """Where the marker of a shard lies."""
    return storage.join(set_uri, FOLDER, f"{name}.json")


def build_tar(samples: Iterable[EncodedSample]) -> bytes:
    """The tar of some samples: members sorted by name, no times, no owners; readable by `tar` and webdataset."""
    return _packed(samples)[0]


def _packed(samples: Iterable[EncodedSample]) -> tuple[bytes, list[tarfile.TarInfo]]:
    """The tar of some samples and its members in order, with the offsets that reading it again would tell."""
    members: dict[str, bytes] = {}
    for sample in samples:
        key = sample.meta.key
        files = {
            f"{key}.json": storage.canonical_json(sample.meta.model_dump(mode="json")),
            f"{key}.mask.png": sample.mask,
            f"{key}.{sample.image_format}": sample.image,
        }
        for name, data in files.items():
            if name in members:
                raise SiamdiffError(f"key {key} occurs twice in one shard; keys must be unique")
            members[name] = data
    buffer, infos = io.BytesIO(), []
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted(members):
            info = tarfile.TarInfo(name)  # its defaults: no time, no owner, mode 0644
            info.size = len(members[name])
            info.offset = buffer.tell()
            tar.addfile(info, io.BytesIO(members[name]))
            info.offset_data = buffer.tell() - _padded(info.size)
            infos.append(info)
    return buffer.getvalue(), infos


def index_tar(data: bytes, name: str) -> list[IndexRow]:
    """One row per sample of a tar, in its order. Hashes and JSON are checked, pixels are not.

    Raises:
        SiamdiffError: not a whole tar of complete samples; the message says what is wrong.
    """
    infos = list(tar_members(data, name))
    rows = _index(data, name, infos)
    end = infos[-1].offset_data + _padded(infos[-1].size) if infos else 0
    expected = -(-(end + 2 * tarfile.BLOCKSIZE) // tarfile.RECORDSIZE) * tarfile.RECORDSIZE
    if len(data) != expected or data[end:].strip(b"\0"):
        raise SiamdiffError(
            f"shard {name} is damaged: {len(data)} bytes, should be {expected}; cut or added to"
        )
    return rows


def _index(data: bytes, name: str, infos: Iterable[tarfile.TarInfo]) -> list[IndexRow]:
    """The rows of a tar with these members, of which everything is checked but pixels."""
    rows: list[IndexRow] = []
    members: dict[str, tarfile.TarInfo] = {}
    for info in infos:
        key, _, suffix = info.name.partition(".")
        if members and key != next(iter(members.values())).name.partition(".")[0]:
            rows.append(_row(data, name, members))
            members = {}
        if suffix in members:
            raise SiamdiffError(f"shard {name} is damaged: member {info.name} occurs twice")
        members[suffix] = info
    if members:
        rows.append(_row(data, name, members))
    keys = [row.key for row in rows]
    if keys != sorted(set(keys)):
        raise SiamdiffError(f"shard {name} is damaged: its keys are not sorted or occur twice")
    return rows


def tar_members(data: bytes, name: str) -> Iterator[tarfile.TarInfo]:
    """The members of a tar, header by header.

    Not by opening it: what tarfile does for headers that shards have not (long names, attributes, sparse files) takes a
    hostile tar anywhere: sizes below zero lead it in a circle, one attribute of digits keeps it busy for hours.
    """
    position = 0
    while (header := data[position : position + tarfile.BLOCKSIZE]).strip(b"\0"):
        try:
            info = tarfile.TarInfo.frombuf(header, "ascii", "backslashreplace")
        except tarfile.HeaderError as error:
            raise SiamdiffError(f"shard {name} is damaged: not a whole tar ({error})") from error
        info.offset, info.offset_data = position, position + tarfile.BLOCKSIZE
        _check_member(info, name)
        position = info.offset_data + _padded(info.size)
        if position > len(data):
            raise SiamdiffError(
                f"shard {name} is damaged: not a whole tar, it ends within member {info.name}"
            )
        yield info


def _check_member(info: tarfile.TarInfo, name: str) -> None:
    """Refuses links, devices, folders, names that are no member's, and sizes that no member has."""
    if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or _NAME.fullmatch(info.name) is None:
        raise SiamdiffError(
            f"shard {name} is damaged: member {info.name[:100]!r} is not KEY.json, .mask.png, .png or .jpg"
        )
    if not 0 <= info.size <= MAX_MEMBER_BYTES:
        raise SiamdiffError(
            f"shard {name} is damaged: member {info.name} has {info.size} bytes, over {MAX_MEMBER_BYTES}"
        )


def _padded(size: int) -> int:
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _row(data: bytes, name: str, members: dict[str, tarfile.TarInfo]) -> IndexRow:
    key = next(iter(members.values())).name.partition(".")[0]
    images: list[ImageFormat] = [kind for kind in ("png", "jpg") if kind in members]
    if len(images) != 1 or len(members) != 3:
        raise SiamdiffError(f"shard {name} is damaged: sample {key} has the members {sorted(members)}")
    image, mask, meta = members[images[0]], members["mask.png"], members["json"]
    described = parse_meta(_slice(data, meta), name, key)
    for info, expected in ((image, described.image_sha256), (mask, described.mask_sha256)):
        if hashlib.sha256(_slice(data, info)).hexdigest() != expected:
            raise SiamdiffError(
                f"shard {name} is damaged: member {info.name} has another hash than its JSON says"
            )
    origin = described.synthetic if isinstance(described.synthetic, Synthetic) else None
    first = min(info.offset for info in members.values())
    last = max(info.offset_data + _padded(info.size) for info in members.values())
    return IndexRow(
        key=key,
        split=described.split,
        group=described.group,
        shard=name,
        offset=first,
        size=last - first,
        meta_offset=meta.offset_data,
        meta_size=meta.size,
        mask_offset=mask.offset_data,
        mask_size=mask.size,
        image_offset=image.offset_data,
        image_size=image.size,
        image_format=images[0],
        image_sha256=described.image_sha256,
        mask_sha256=described.mask_sha256,
        parent=origin.parent if origin else None,
        fold=origin.fold if origin else None,
    )


def _slice(data: bytes, info: tarfile.TarInfo) -> bytes:
    return _cut(data, info.offset_data, info.size)


def _cut(data: bytes, start: int, size: int) -> bytes:
    return data[start : start + size]


def parse_meta(data: bytes, shard: str, key: str) -> SampleMeta:
    """A sample's JSON.

    Raises:
        SiamdiffError: it is not valid, or it belongs to another key.
    """
    try:
        meta = SampleMeta.model_validate_json(data)
    except ValidationError as error:
        raise SiamdiffError(f"shard {shard} is damaged: {key}.json ({_first_fault(error)})") from error
    if meta.key != key:
        raise SiamdiffError(f"shard {shard} is damaged: {key}.json says key {meta.key}")
    return meta


def _first_fault(error: ValidationError) -> str:
    fault = error.errors()[0]
    return f"{'.'.join(map(str, fault['loc'])) or 'content'}: {fault['msg']}"


def write_shard(
    set_uri: str, name: str, samples: Iterable[EncodedSample], made_by: dict[str, Any] | None = None
) -> Marker:
    """Writes a shard and then its marker. Where a tar of the same keys lies already, that one is kept and marked.

    Args:
        set_uri: URI of the set.
        name: such as train-000000.
        samples: in any order; keys must be unique.
        made_by: recorded in the marker: what the bytes depend on beside the content.

    Raises:
        SiamdiffError: another or a damaged tar lies under this name.
    """
    data, infos = _packed(samples)
    planned = _index(data, name, infos)
    uri = tar_uri(set_uri, name)
    if storage.put_if_absent(uri, data):
        marker = _mark(name, data, planned, made_by or {})
        _write_marker(set_uri, marker)
        return marker
    return _adopt(set_uri, name, data, planned, made_by or {})


def _mark(name: str, data: bytes, rows: list[IndexRow], made_by: dict[str, Any]) -> Marker:
    digest = hashlib.sha256(data).hexdigest()
    return Marker(name=name, count=len(rows), size=len(data), sha256=digest, samples=rows, made_by=made_by)


def _adopt(set_uri: str, name: str, ours: bytes, planned: list[IndexRow], made_by: dict[str, Any]) -> Marker:
    """Marks the tar that another attempt put first."""
    uri = tar_uri(set_uri, name)
    theirs = storage.read_bytes(uri)
    try:
        rows = index_tar(theirs, name)
    except SiamdiffError as error:
        raise SiamdiffError(f"{error}; delete {uri} and run the same command again") from error
    if sorted(map(_planned_as, rows)) != sorted(map(_planned_as, planned)):
        raise SiamdiffError(
            f"{uri} holds other samples ({len(rows)}) than planned ({len(planned)}); delete it, or write elsewhere"
        )
    # Of bytes that are not ours nobody but their writer knows what made them: its own marker replaces this one.
    marker = _mark(name, theirs, rows, made_by if theirs == ours else {})
    if storage.exists(marker_uri(set_uri, name)):
        there = read_marker(set_uri, name)
        if there.sha256 == marker.sha256:
            return there
    _write_marker(set_uri, marker)
    return marker


def _write_marker(set_uri: str, marker: Marker) -> None:
    """Not by `storage.write_json`: for a shard of small images Python's indented JSON takes longer than its tar."""
    storage.write_bytes(marker_uri(set_uri, marker.name), marker.model_dump_json(indent=2).encode() + b"\n")


def _planned_as(row: IndexRow) -> tuple[str, int]:
    """What a plan knows of a sample: a synthetic one's key hashes pixels whose last bits another device changes."""
    return (row.key, -1) if row.parent is None or row.fold is None else (row.parent, row.fold)


def finished_shards(set_uri: str) -> set[str]:
    """Names of the shards whose tar and marker are both there, by one listing."""
    return marked(storage.join(set_uri, FOLDER), ".tar")


def marked(folder_uri: str, suffix: str) -> set[str]:
    """Names in a folder of which both NAME + `suffix` and the marker NAME.json are there, by one listing."""
    files = storage.list_files(folder_uri)
    return {name.removesuffix(suffix) for name in files if name.endswith(suffix)} & {
        name.removesuffix(".json") for name in files if name.endswith(".json")
    }


def read_marker(set_uri: str, name: str) -> Marker:
    """The marker of a shard.

    Raises:
        FileNotFoundError: there is none.
        SiamdiffError: it is damaged.
    """
    uri = marker_uri(set_uri, name)
    try:
        marker = Marker.model_validate(storage.read_json(uri))
    except ValidationError as error:
        raise SiamdiffError(f"{uri} is damaged: {_first_fault(error)}; delete it and run again") from error
    if marker.name != name or marker.count != len(marker.samples):
        raise SiamdiffError(f"{uri} is damaged: it says {marker.count} samples of {marker.name}; delete it")
    return marker


def unpack(data: bytes, row: IndexRow, base: int = 0) -> EncodedSample:
    """The sample of an index row from bytes that begin at offset `base` of its tar.

    Raises:
        SiamdiffError: the JSON is damaged.
    """
    meta = _cut(data, row.meta_offset - base, row.meta_size)
    image = _cut(data, row.image_offset - base, row.image_size)
    mask = _cut(data, row.mask_offset - base, row.mask_size)
    return EncodedSample(parse_meta(meta, row.shard, row.key), image, mask, row.image_format)


def read_shard(set_uri: str, name: str) -> Iterator[EncodedSample]:
    """The samples of a finished shard, sorted by key.

    Raises:
        FileNotFoundError: no such shard.
        SiamdiffError: the tar is not the one that its marker describes.
    """
    marker = read_marker(set_uri, name)
    data = storage.read_bytes(tar_uri(set_uri, name))
    if hashlib.sha256(data).hexdigest() != marker.sha256:
        raise SiamdiffError(f"{tar_uri(set_uri, name)} is damaged: its hash is not the marker's")
    for row in marker.samples:
        yield unpack(data, row)
