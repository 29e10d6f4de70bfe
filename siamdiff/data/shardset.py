"""A complete shard set, read in any order: real or synthetic, on a disk or in an object store."""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from siamdiff import storage
from siamdiff.data.manifest import Manifest, ShardEntry, finish_set, read_index, read_manifest
from siamdiff.data.sample import EncodedSample, Sample
from siamdiff.data.shards import IndexRow, tar_uri, unpack
from siamdiff.data.verify import verify
from siamdiff.errors import SiamdiffError, UserError

__all__ = ["Manifest", "ShardSet", "finish_set", "verify"]

_HASH_BLOCK = 4 * 2**20
_checked: dict[tuple[str, str], Path] = {}  # (tar, sha256) -> local file; each process checks a hash once


class ShardSet:
    """A complete set. Open with `ShardSet.open(uri)`; may be sent to other processes.

    Attributes:
        uri: where it lies.
        manifest: content of its dataset.json.
        index: one row per sample, sorted by key; columns as in `siamdiff.data.shards.IndexRow`.
    """

    uri: str
    manifest: Manifest
    index: pa.Table

    def __init__(self, uri: str, manifest: Manifest, index: pa.Table) -> None:
        self.uri, self.manifest, self.index = uri, manifest, index
        self._shards = {shard.name: shard for shard in manifest.shards}
        self._position = {key: i for i, key in enumerate(index["key"].to_pylist())}

    @classmethod
    def open(cls, uri: str) -> "ShardSet":
        """Opens the set at `uri`.

        Raises:
            UserError: not a complete set, or of an unknown schema.
            SiamdiffError: manifest or index is damaged.
        """
        uri = storage.normalize(uri)
        manifest = read_manifest(uri)
        return cls(uri, manifest, read_index(uri, manifest))

    @property
    def digest(self) -> str:
        """SHA-256, in hex, over the shards' names and hashes: the identity of the set's content."""
        return self.manifest.digest

    def __len__(self) -> int:
        return len(self._position)

    def keys(self, split: str | None = None) -> list[str]:
        """Sorted keys of one split (train, val, test), or of all."""
        table = self.index if split is None else self.index.filter(pc.field("split") == split)
        return table["key"].to_pylist()

    def row(self, key: str) -> IndexRow:
        """Where the sample `key` lies.

        Raises:
            UserError: no such sample.
        """
        position = self._position.get(key)
        if position is None:
            raise UserError(f"{self.uri} holds no sample {key!r}; ShardSet.keys() lists its {len(self)} keys")
        return IndexRow(**self.index.slice(position, 1).to_pylist()[0])

    def read_encoded(self, key: str) -> EncodedSample:
        """The sample `key` as its shard holds it, by one ranged read.

        Raises:
            UserError: no such sample.
            SiamdiffError: its shard is missing or damaged.
        """
        row = self.row(key)
        with open(_local_tar(self.uri, self._shards[row.shard]), "rb") as file:
            file.seek(row.offset)
            return unpack(file.read(row.size), row, base=row.offset)

    def read(self, key: str) -> Sample:
        """The sample `key` as arrays: image uint8 (H, W, 3), mask uint8 (H, W) in {0, 255}.

        Raises:
            UserError: no such sample.
            SiamdiffError: its shard is missing or damaged.
        """
        return self.read_encoded(key).decode()


def cache_folder() -> Path:
    """Where shards of object stores are kept on this node: SIAMDIFF_CACHE, else ~/.cache/siamdiff. Safe to delete."""
    return Path(os.environ.get("SIAMDIFF_CACHE") or Path.home() / ".cache" / "siamdiff")


def _local_tar(set_uri: str, shard: ShardEntry) -> Path:
    """A local file with the shard's bytes, whose hash was checked by this process."""
    uri = tar_uri(set_uri, shard.name)
    known = _checked.get((uri, shard.sha256))
    if known is None:
        known = _checked[uri, shard.sha256] = _fetch(uri, shard)
    return known


def _fetch(uri: str, shard: ShardEntry) -> Path:
    in_place = storage.local_path(uri)
    if in_place is not None:
        if not in_place.is_file():
            raise SiamdiffError(f"{uri} is missing; make the set again")
        if file_sha256(in_place) != shard.sha256:
            raise SiamdiffError(
                f"{uri} is damaged: its hash is not the manifest's; restore it, or make the set again"
            )
        return in_place
    cached = cache_folder() / "shards" / f"{shard.sha256}.tar"
    with _only_one(cached.with_suffix(".lock")):
        if cached.is_file() and file_sha256(cached) == shard.sha256:
            return cached
        try:
            storage.download_file(uri, cached)
        except FileNotFoundError as error:
            raise SiamdiffError(f"{uri} is missing; make the set again") from error
        if file_sha256(cached) != shard.sha256:
            cached.unlink()
            raise SiamdiffError(
                f"{uri} is damaged: its hash is not the manifest's; restore it, or make the set again"
            )
        return cached


@contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    """Keeps the other processes of this node out: a shard is downloaded once, by the first that needs it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex, read in blocks."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()
