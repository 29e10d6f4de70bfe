"""Reads the cache of a shard set's latents (siamdiff.data.latent_parts): by key and by prompt, or refuses it."""

import hashlib
import io
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np

from siamdiff import storage
from siamdiff.data.cache import checked_copy
from siamdiff.data.latent_parts import (
    FOLDER,
    MANIFEST,
    MOMENTS,
    SPLITS,
    TEXTS,
    Manifest,
    Origin,
    Part,
    files_of,
    holes,
    planned_moments,
    read_cache_manifest,
)
from siamdiff.data.shardset import ShardSet
from siamdiff.errors import SiamdiffError, UserError

log = logging.getLogger(__name__)

_THREADS = 4
_OPEN_PARTS = 256  # maps of files held at once, by each process


class LatentCache:
    """A complete cache, all its parts on this node and checked; read by key and by prompt.

    Open with `LatentCache.open`.

    Attributes:
        uri: where it lies.
        manifest: content of its cache.json.
    """

    uri: str
    manifest: Manifest

    def __init__(
        self, uri: str, manifest: Manifest, shard_set: ShardSet, files: dict[str, tuple[Path, str]]
    ) -> None:
        self.uri, self.manifest = uri, manifest
        self._files = files
        planned = planned_moments(shard_set)
        places = sorted(
            (key, n, row) for n, keys in enumerate(planned.values()) for row, key in enumerate(keys)
        )
        self._shards = list(planned)
        # arrays, since a set may have millions of keys
        self._keys = np.array([key for key, _, _ in places], dtype="S")
        self._places = np.array([place for _, *place in places], dtype=np.int32)  # (n, 2): shard, row
        self._prompts = {
            prompt: (part.name, row) for part in manifest.texts for row, prompt in enumerate(part.prompts)
        }

    @classmethod
    def open(cls, uri: str, shard_set: ShardSet, origin: Origin) -> "LatentCache":
        """Opens a cache: brings all parts to this node, once, and checks every hash before anything is used.

        Args:
            uri: of the cache.
            shard_set: the set that it is of.
            origin: what it must have been made from.

        Raises:
            UserError: not a complete cache, or of another VAE, text encoder, tokenizer or set.
            SiamdiffError: it has a hole, or a part is missing or damaged.
        """
        started = time.monotonic()
        manifest = read_cache_manifest(uri)
        _refuse_other(uri, manifest.made_from, origin)
        for hole in holes(manifest, shard_set):
            raise SiamdiffError(
                f"{uri} has a hole: {hole}; delete {uri} and make it again with jobs/cache.py"
            )
        with ThreadPoolExecutor(_THREADS) as pool:
            fetched = list(pool.map(lambda item: (item[0], _fetch(uri, *item)), files_of(manifest)))
        log.info(
            "cache %s: %d samples, %d prompts, %.1f MB, read and checked in %.1f s",
            uri,
            manifest.count,
            sum(part.count for part in manifest.texts),
            manifest.size / 1e6,
            time.monotonic() - started,
        )
        return cls(uri, manifest, shard_set, dict(fetched))

    def moments(self, key: str) -> np.ndarray:
        """Mean and log-variance of the sample `key`, float32 (2, C, H/8, W/8).

        Raises:
            SiamdiffError: the cache does not hold it.
        """
        place = int(np.searchsorted(self._keys, key.encode()))
        if place == len(self._keys) or self._keys[place] != key.encode():
            raise SiamdiffError(
                f"the cache {self.uri} holds no sample {key}: it is of the splits {', '.join(SPLITS)}"
            )
        shard, row = self._places[place]
        return self._row(MOMENTS, self._shards[shard], row)

    def text(self, prompt: str) -> np.ndarray:
        """States of a prompt, float32 (L, D).

        Raises:
            SiamdiffError: the cache does not hold it.
        """
        if prompt not in self._prompts:
            raise SiamdiffError(f"the cache {self.uri} holds no states of the prompt {prompt!r}")
        name, row = self._prompts[prompt]
        return self._row(TEXTS, name, row)

    def _row(self, kind: str, name: str, row: int) -> np.ndarray:
        return np.array(_mapped(*self._files[f"{kind}/{name}.npy"])[row])  # a copy, which may be written to


def _refuse_other(uri: str, there: Origin, wanted: Origin) -> None:
    names = {"data": "set", "vae": "VAE", "text_encoder": "text encoder", "tokenizer": "tokenizer"}
    for field, name in names.items():
        one, other = getattr(there, field), getattr(wanted, field)
        if one != other:
            raise UserError(
                f"{uri} is a cache of another {name} (digest {one[:12]}, here {other[:12]}); make one of this {name} "
                "with jobs/cache.py"
            )


def _fetch(uri: str, name: str, part: Part) -> tuple[Path, str]:
    """A local file with the part's bytes, whose hash was checked, and the hash."""
    remedy = "delete what is left of it and run jobs/cache.py"
    path = checked_copy(storage.join(uri, name), part.sha256, f"latents/{part.sha256}.npy", remedy)
    rows = _mapped(path, part.sha256)
    if rows.shape != (part.count, *part.shape) or rows.dtype != np.float32:
        raise SiamdiffError(f"{uri}/{name} is damaged: it holds {rows.dtype} {rows.shape}; {remedy}")
    return path, part.sha256


@lru_cache(maxsize=_OPEN_PARTS)
def _mapped(path: Path, sha256: str) -> np.ndarray:
    """A file's rows, mapped into memory; the hash tells it from another file that lay there before."""
    return np.load(path, mmap_mode="r", allow_pickle=False)


def verify_caches(set_uri: str) -> list[str]:
    """Problems of the complete caches of a set, one line each, after reading every byte; [] where there are none.

    Caches that are not complete, or of an earlier content of the set, are not looked at: no reader takes them.

    Raises:
        UserError: not a complete set, or of an unknown schema.
    """
    shard_set = ShardSet.open(set_uri)
    folder = storage.join(set_uri, FOLDER)
    problems: list[str] = []
    for name in storage.list_files(folder):
        uri = storage.join(folder, name.partition("/")[0])
        if name != f"{storage.name_of(uri)}/{MANIFEST}":
            continue
        try:
            manifest = read_cache_manifest(uri)
            if manifest.made_from.data == shard_set.digest:
                problems += _problems(uri, manifest, shard_set)
        except SiamdiffError as error:
            problems.append(str(error))
    return problems


def _problems(uri: str, manifest: Manifest, shard_set: ShardSet) -> list[str]:
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda item: _part_problem(storage.join(uri, item[0]), item[1]), files_of(manifest))
        return [f"{uri} has a hole: {hole}" for hole in holes(manifest, shard_set)] + [p for p in found if p]


def _part_problem(file: str, part: Part) -> str | None:
    """What is wrong with the object in the store: this node's copy of it does not count here."""
    try:
        data = storage.read_bytes(file)
    except FileNotFoundError:
        return f"{file} is missing"
    if hashlib.sha256(data).hexdigest() != part.sha256:
        return f"{file} has another sha256 than {MANIFEST} says: its bytes were changed"
    is_finite = np.isfinite(np.load(io.BytesIO(data), allow_pickle=False)).all()
    return None if is_finite else f"{file} holds values that are not finite"
