"""What a node keeps of objects in a store, shards and models, so that its processes download each once."""

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from siamdiff import storage
from siamdiff.errors import SiamdiffError, UserError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def cache_folder() -> Path:
    """Where downloads are kept on this node: SIAMDIFF_CACHE, else ~/.cache/siamdiff. Safe to delete.

    Raises:
        UserError: neither is known.
    """
    try:
        return Path(os.environ.get("SIAMDIFF_CACHE") or Path.home() / ".cache" / "siamdiff")
    except RuntimeError as error:
        raise UserError(f"no cache folder ({error}); set SIAMDIFF_CACHE to one on this node's disk") from None


@contextmanager
def cached(name: str) -> Iterator[Path]:
    """The place of `name` in the cache, which no other process of this node uses while the block runs.

    The block may download to it: what then fails on this node's disk is told as the cache's fault, not the store's.

    Raises:
        UserError: the cache cannot be written, or is full.
    """
    place = cache_folder() / name
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with open(f"{place}.lock", "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield place
    except SiamdiffError as error:
        cause = error.__cause__
        if (
            isinstance(cause, OSError) and cause.errno in _FULL
        ):  # a download was read from the store, written here
            raise _unusable(place, cause) from error
        raise
    except OSError as error:
        raise _unusable(place, error) from error


def made_once(name: str, make: Callable[[Path], None], is_whole: Callable[[Path], bool]) -> Path:
    """A folder of the cache, made by the first process of this node that asks for it; the others wait for it.

    Args:
        name: of the folder; another content needs another name.
        make: fills the folder it is given. One that fails leaves nothing behind.
        is_whole: whether the folder that is there is as it was made; a damaged one is made again.

    Raises:
        UserError: the cache cannot be written, or is full.
    """
    with cached(name) as folder:
        if is_whole(folder):
            return folder
        partial = Path(f"{folder}.partial")  # of a process that was killed, unless it is gone
        for leftover in (folder, partial):
            shutil.rmtree(leftover, ignore_errors=True)
        try:
            make(partial)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return folder


def checked_copy(uri: str, sha256: str, name: str, remedy: str) -> Path:
    """A local file with an object's bytes, whose hash was checked: itself where it is local, else the node's copy.

    Args:
        uri: of the object.
        sha256: of its bytes, in hex.
        name: of the copy in the cache; another content needs another name.
        remedy: what to do about an object that is missing, for the message.

    Raises:
        SiamdiffError: the object is missing, or its bytes are others.
        UserError: the cache cannot be written, or is full.
    """
    damaged = SiamdiffError(f"{uri} is damaged: its hash is not the recorded one; restore it, or {remedy}")
    in_place = storage.local_path(uri)
    if in_place is not None:
        if not in_place.is_file():
            raise SiamdiffError(f"{uri} is missing; {remedy}")
        if storage.file_sha256(in_place) != sha256:
            raise damaged
        return in_place
    with cached(name) as copy:
        if copy.is_file() and storage.file_sha256(copy) == sha256:
            return copy
        try:
            storage.download_file(uri, copy)
        except FileNotFoundError as error:
            raise SiamdiffError(f"{uri} is missing; {remedy}") from error
        if storage.file_sha256(copy) != sha256:
            copy.unlink()
            raise damaged
        return copy


def _unusable(place: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot keep {place} on this node ({error.strerror or error}); set SIAMDIFF_CACHE to a folder that can be "
        "written and has space"
    )
