"""A complete shard set, read in any order: real or synthetic, on a disk or in an object store."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from pydantic import ValidationError

from siamdiff import storage
from siamdiff.data.cache import checked_copy
from siamdiff.data.manifest import (
    INDEX,
    REPAIR,
    Manifest,
    ShardEntry,
    finish_set,
    read_index,
    read_manifest,
)
from siamdiff.data.sample import EncodedSample, Sample
from siamdiff.data.shards import IndexRow, tar_uri, unpack
from siamdiff.data.verify import verify
from siamdiff.errors import SiamdiffError, UserError

__all__ = ["Manifest", "ShardSet", "finish_set", "verify"]

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
        self._sorted = np.array(
            index["key"].to_pylist(), dtype="S"
        )  # a dictionary of millions would be a gigabyte

    @classmethod
    def open(cls, uri: str, digest: str | None = None) -> "ShardSet":
        """Opens the set at `uri`, for a job at work the one with the digest that it began with.

        Raises:
            UserError: not a complete set, or of an unknown schema.
            SiamdiffError: manifest or index is damaged, or the set has another digest.
        """
        uri = storage.normalize(uri)
        manifest = read_manifest(uri)
        if digest not in (None, manifest.digest):
            raise SiamdiffError(
                f"{uri} was replaced while the job ran; run the same command again for the new set"
            )
        return cls(uri, manifest, read_index(uri, manifest))

    @property
    def digest(self) -> str:
        """SHA-256, in hex, over the shards' names and hashes: the identity of the set's content."""
        return self.manifest.digest

    def __len__(self) -> int:
        return len(self.index)

    def keys(self, split: str | None = None) -> list[str]:
        """Sorted keys of one split (train, val, test), or of all."""
        keys = self.index["key"].to_pylist()
        if split is None:
            return keys
        # not Arrow's filter by expression, whose threads may abort a process that exits soon after
        splits = (value.as_py() for value in self.index["split"])
        return [key for key, of_key in zip(keys, splits, strict=True) if of_key == split]

    def row(self, key: str) -> IndexRow:
        """Where the sample `key` lies.

        Raises:
            UserError: no such sample.
            SiamdiffError: the index says of it what cannot be.
        """
        position = int(np.searchsorted(self._sorted, key.encode()))
        if position == len(self) or self._sorted[position].decode() != key:
            raise UserError(f"{self.uri} holds no sample {key!r}; ShardSet.keys() lists its {len(self)} keys")
        try:
            row = IndexRow(**self.index.slice(position, 1).to_pylist()[0])
        except ValidationError as error:
            raise self._strange(key) from error
        shard = self._shards.get(row.shard)
        if shard is None or row.offset + row.size > shard.size:  # more than there is must not be asked for
            raise self._strange(key)
        return row

    def _strange(self, key: str) -> SiamdiffError:
        return SiamdiffError(
            f"{storage.join(self.uri, INDEX)} is damaged: sample {key!r} cannot lie where it says; {REPAIR}"
        )

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
            SiamdiffError: its shard is missing or damaged, or it is of another size than the set's.
        """
        sample, side = self.read_encoded(key).decode(), self.manifest.resolution
        if sample.mask.shape != (side, side):
            raise SiamdiffError(
                f"{self.uri} is damaged: sample {key} is of {sample.meta.width} x {sample.meta.height}, the set's "
                f"resolution is {side}; {REPAIR}"
            )
        return sample


def _local_tar(set_uri: str, shard: ShardEntry) -> Path:
    """A local file with the shard's bytes, whose hash was checked by this process."""
    uri = tar_uri(set_uri, shard.name)
    known = _checked.get((uri, shard.sha256))
    if known is None or not known.exists():  # the node's cache may be emptied at any time
        copy = f"shards/{shard.sha256}.tar"
        known = _checked[uri, shard.sha256] = checked_copy(uri, shard.sha256, copy, "make the set again")
    return known
