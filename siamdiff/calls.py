"""What whoever watches is told of each call of `siamdiff.storage`; while nobody watches, nothing is measured."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tenacity import Retrying

from siamdiff.errors import SiamdiffError, UserError

T = TypeVar("T")

REFUSED, FAILED = "refused", "failed"


@dataclass(frozen=True)
class StoreCall:
    """One call, however it ended. That an object is missing is an answer, not an error."""

    operation: str  # name of the function
    scheme: str  # "file" or "s3"
    seconds: float  # with all attempts and the waits between them
    retries: int  # attempts after the first
    read: int  # bytes of objects that came
    written: int  # bytes of objects that went
    error: str  # "", REFUSED (credentials, permissions, no such place) or FAILED (everything else)


Observer = Callable[[StoreCall], None]
_observer: Observer | None = None


def observe(observer: Observer | None) -> None:
    """Tells `observer` of each further call in this process, in the thread that called; None ends that.

    It must not raise, nor call the store.
    """
    global _observer
    _observer = observer


def watched(
    work: Callable[[Retrying], T], operation: str, arguments: tuple[Any, ...], retrying: Retrying
) -> T:
    """What `work` returns or raises; tells the observer, if there is one.

    Args:
        work: the call itself; raises SiamdiffError for what went wrong.
        operation: its name.
        arguments: of the call: the URI, then perhaps bytes to write, or the local file.
        retrying: counts the attempts.
    """
    observer = _observer
    if observer is None:
        return work(retrying)
    started, error, moved = time.monotonic(), "", (0, 0)
    try:
        result = work(retrying)
        moved = _moved(operation, arguments, result)
        return result
    except SiamdiffError as failure:
        error = REFUSED if isinstance(failure, UserError) else FAILED
        raise
    finally:
        scheme = "s3" if str(arguments[0]).startswith("s3://") else "file"
        seconds = time.monotonic() - started
        retries = max(int(retrying.statistics.get("attempt_number", 1)) - 1, 0)
        observer(StoreCall(operation, scheme, seconds, retries, *moved, error))


def _moved(operation: str, arguments: tuple[Any, ...], result: Any) -> tuple[int, int]:
    """Bytes of objects, read and written."""
    given = arguments[1] if len(arguments) > 1 else None
    if isinstance(result, bytes):
        return len(result), 0
    if isinstance(given, Path):
        size = given.stat().st_size
        return (0, size) if operation.startswith("upload") else (size, 0)
    if isinstance(given, bytes) and result is not False:  # False: another one was there
        return 0, len(given)
    return 0, 0
