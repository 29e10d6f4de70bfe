"""What a node keeps of objects in a store, shards and models, so that its processes download each once."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


def _unusable(place: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot keep {place} on this node ({error.strerror or error}); set SIAMDIFF_CACHE to a folder that can be "
        "written and has space"
    )
