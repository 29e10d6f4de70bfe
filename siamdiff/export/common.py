"""What every format shares: sets that fit together, their samples one shard at a time, a target whole or not at all."""

import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import siamdiff
from siamdiff import storage
from siamdiff.data.manifest import Manifest, ShardEntry
from siamdiff.data.sample import EncodedSample, Foreign
from siamdiff.data.shards import index_tar, read_marker, tar_uri, unpack
from siamdiff.data.shardset import ShardSet
from siamdiff.errors import SiamdiffError, UserError
from siamdiff.export.card import Described, Layout, card, without_uris

EXPORT = "export.json"  # the last object of every export
README = "README.md"
METADATA = "metadata.jsonl"
_THREADS = 8


def open_sets(uris: Sequence[str]) -> list[ShardSet]:
    """Complete sets whose samples can lie side by side.

    Raises:
        UserError: not a complete set, or a key lies in two of them.
        SiamdiffError: a manifest or an index is damaged.
    """
    sets = [ShardSet.open(uri) for uri in uris]
    owner: dict[str, ShardSet] = {}
    for shard_set in sets:
        for key in shard_set.index["key"].to_pylist():
            other = owner.setdefault(key, shard_set)
            if other is not shard_set:
                raise UserError(
                    f"sample {key} lies in {other.uri} and in {shard_set.uri}; give each set once, and no two "
                    "that hold the same samples"
                )
    return sets


def read_shards(shard_set: ShardSet) -> Iterator[list[EncodedSample]]:
    """The samples of a set, shard by shard; one shard is held in memory at a time.

    Raises:
        SiamdiffError: a shard is missing, or its bytes are not those that the manifest names.
    """
    for shard in shard_set.manifest.shards:
        data = shard_bytes(shard_set.uri, shard)
        yield [unpack(data, row) for row in index_tar(data, shard.name)]


def shard_bytes(set_uri: str, shard: ShardEntry) -> bytes:
    """The tar of a shard, whose hash was checked.

    Raises:
        SiamdiffError: it is missing, or its bytes are not those that the manifest names.
    """
    uri = tar_uri(set_uri, shard.name)
    try:
        data = storage.read_bytes(uri)
    except FileNotFoundError as error:
        raise SiamdiffError(f"{uri} is missing; make the set again") from error
    if hashlib.sha256(data).hexdigest() != shard.sha256:
        raise SiamdiffError(
            f"{uri} is damaged: its hash is not the manifest's; restore it, or make the set again"
        )
    return data


def has_mask(sample: EncodedSample) -> bool:
    """False for another method's image that came without a mask, whose stored mask is empty."""
    origin = sample.meta.synthetic
    return not isinstance(origin, Foreign) or origin.has_mask


def fields(sample: EncodedSample, shard_set: ShardSet, image: str, mask: str) -> dict[str, Any]:
    """What is known of a sample, for a line of METADATA: its files, its set's digest and all of its KEY.json."""
    about = {"image": image, "mask": mask, "set": shard_set.digest, "kind": shard_set.manifest.kind}
    return about | sample.meta.model_dump(mode="json")


@contextmanager
def writing(target: str, option: str = "--to", last: str = EXPORT) -> Iterator[str]:
    """Yields the URI to write under. A local target appears when the block has ended without an error, not before.

    In an object store, where nothing can be renamed, what the block writes is there at once; `last` comes last.

    Args:
        target: folder that must not be there yet, or be empty.
        option: by which the user named it, for messages.
        last: the file that says that what was written is whole.

    Raises:
        UserError: something lies at the target already, or it cannot be written.
    """
    target = storage.normalize(target)
    place = storage.local_path(target)
    if place is None:
        if storage.list_files(target):
            raise _taken(target, option, last)
        yield target
        return
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise _taken(target, option, last)
    partial = place.parent / f".partial-{uuid.uuid4().hex}"
    try:
        yield str(partial)
        try:
            os.rename(partial, place)  # replaces an empty folder, nothing else
        except OSError as error:
            raise _taken(target, option, last) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _taken(target: str, option: str, last: str) -> UserError:
    return UserError(
        f"{target} is there already and not an empty folder; name another with {option}, or delete it "
        f"(one without {last} is part of what was interrupted)"
    )


def put_all(uri: str, files: Iterable[tuple[str, bytes]]) -> None:
    """Writes files, several at a time. `files` are names under `uri` and contents, held in memory together."""
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(lambda file: storage.write_bytes(storage.join(uri, file[0]), file[1]), files))


@contextmanager
def metadata(uri: str) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Takes one object a line, and writes them as METADATA under `uri` when the block has ended without an error.

    They are gathered on this machine's disk: of a million samples they would fill its memory.
    """
    with tempfile.NamedTemporaryFile(prefix="siamdiff-") as file:

        def add(line: dict[str, Any]) -> None:
            file.write(storage.canonical_json(line) + b"\n")

        yield add
        file.flush()
        storage.upload_file(storage.join(uri, METADATA), Path(file.name))


def finish(uri: str, sets: Sequence[ShardSet], layout: Layout, counts: dict[str, int]) -> None:
    """Writes what tells people and tools about an export: README.md, then EXPORT, which says that it is whole.

    Args:
        uri: where the export is being written.
        sets: what it was made from.
        layout: its format.
        counts: samples by what the format divides them into.
    """
    described = [Described(shard_set.manifest, _versions(shard_set)) for shard_set in sets]
    storage.write_bytes(storage.join(uri, README), card(described, layout, counts).encode())
    about = {
        "format": layout,
        "siamdiff": siamdiff.__version__,
        "counts": counts,
        "sets": [_told(shard_set.manifest) for shard_set in sets],
    }
    storage.write_json(storage.join(uri, EXPORT), about)


def _told(manifest: Manifest) -> dict[str, Any]:
    """The manifest without its shards, which are not here, and without places."""
    told = manifest.model_dump(mode="json", exclude={"shards", "size", "index_sha256"})
    return told | {"made_from": without_uris(manifest.made_from)}


def _versions(shard_set: ShardSet) -> dict[str, str]:
    """Versions of what made the first shard; of copied or ingested ones they may be unknown."""
    for shard in shard_set.manifest.shards[:1]:
        try:
            return read_marker(shard_set.uri, shard.name).made_by.get("versions", {})
        except FileNotFoundError as error:
            raise SiamdiffError(f"{shard_set.uri}: shard {shard.name} has no marker") from error
    return {}
