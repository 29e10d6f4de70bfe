"""What bulk work has in common: one row of Ray Data is one file in the store, made by an actor that holds networks.

A row comes back as {name, count, seconds, error, attempt, skipped}. What counts is what lies in the store, whatever
the rows say.
"""

import logging
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch

from infra import logs
from infra.cluster import CLOSED, MAX_ATTEMPTS
from infra.masks import SHARD_FAILURES, one_line
from siamdiff.errors import SiamdiffError
from siamdiff.journal import SHARD

log = logging.getLogger(__name__)


def prepare_actor(device: str, threads: int) -> None:
    """Prepares an actor's process for results that are the same each time; called first thing there.

    Args:
        device: "cpu" or "cuda".
        threads: of PyTorch on a CPU; their number changes the last bits.
    """
    logs.in_worker(uses_gpu=device != "cpu")
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = False  # another choice of kernels, other last bits
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False  # float32 is what the marker says
    torch.backends.cuda.matmul.allow_tf32 = False


class _ClosedError(Exception):
    """No row is begun any more."""


def attempt_row(
    name: str, attempts: Any, worker: str, make: Callable[[Callable[[], None]], int]
) -> dict[str, Any]:
    """Makes one row's file, so that its fault costs no other row: {name, count, seconds, error, attempt, skipped}.

    Args:
        name: of the row.
        attempts: handle of the `Attempts` actor.
        worker: what this actor is, in messages, such as "sampler".
        make: is given `begin`, which it calls when the row's turn has come, writes the file and returns how many
            samples it holds. `begin` counts an attempt, the first time, and ends the row if it has had enough of them.
    """
    import ray

    started = time.monotonic()
    count, error = 0, ""
    attempt: Any = None

    def begin() -> None:
        nonlocal attempt
        if attempt is None:
            attempt = ray.get(attempts.begin.remote(name))
        if attempt == CLOSED:
            raise _ClosedError
        if attempt > MAX_ATTEMPTS:
            raise SiamdiffError(
                f"its {worker} died {MAX_ATTEMPTS} times; look for its last words in the log above"
            )

    try:
        count = make(begin)
    except _ClosedError:
        pass
    except (*SHARD_FAILURES, torch.OutOfMemoryError) as failure:
        error = one_line(failure)
    except RuntimeError:
        # After a fault of the GPU nothing more works in this process: Ray starts another one for the row.
        log.exception("%s: this %s ends itself", name, worker, extra={SHARD: name})
        logging.shutdown()
        os._exit(1)
    return _row(name, count, time.monotonic() - started, error, 1 if attempt is None else attempt)


def failed_row(row: dict[str, Any], error: str) -> dict[str, Any]:
    """The row of what went wrong before its file was begun."""
    return _row(row["name"], 0, 0.0, error, 1)


def _row(name: str, count: int, seconds: float, error: str, attempt: int) -> dict[str, Any]:
    skipped = attempt == CLOSED
    return {
        "name": name,
        "count": count,
        "seconds": seconds,
        "error": error,
        "attempt": attempt,
        "skipped": skipped,
    }


def each_row(dataset: Any) -> Iterator[dict[str, Any]]:
    """The rows of a Ray Data set, as they come."""
    for batch in dataset.iter_batches(batch_size=1, prefetch_batches=0, batch_format="pyarrow"):
        yield from batch.to_pylist()


def refuse_leftovers(
    noun: str, names: Sequence[str], done: Collection[str], failures: Mapping[str, str]
) -> None:
    """Looks whether everything is made.

    Args:
        noun: what is made, plural.
        names: of all that was planned.
        done: of what lies in the store.
        failures: {name: reason}; the job's own end under "".

    Raises:
        SiamdiffError: some are missing; says how many and why.
    """
    left = [name for name in names if name not in done]
    if not left:
        return
    reasons = [failures[name] for name in (*left, "") if name in failures]
    why = f": {reasons[0]}" if reasons else ""
    more = f" ({len(set(reasons)) - 1} other reasons in the log)" if len(set(reasons)) > 1 else ""
    raise SiamdiffError(
        f"{len(left)} of {len(names)} {noun} could not be made ({', '.join(left[:3])}{', ...' if left[3:] else ''})"
        f"{why}{more}; run the same command again to make just those"
    )
