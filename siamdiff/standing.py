"""How a job stands, told from what it left in the store: no cluster is asked, and none need be there."""

from datetime import UTC, datetime, timedelta
from typing import Literal

from pydantic import AwareDatetime, BaseModel

from siamdiff import storage
from siamdiff.errors import UserError
from siamdiff.records import read_record
from siamdiff.run import readable_seconds

LEASE_SILENCE = timedelta(seconds=60)  # it is renewed every 10 s
STATUS_SILENCE = timedelta(minutes=15)  # written at every line of progress, and between phases


class _Status(BaseModel):
    phase: str
    heartbeat: AwareDatetime
    done: int
    left: int
    error: str | None
    exit_code: Literal[0, 1, 2] | None
    cost: float | None = None  # sets and runs of earlier versions have neither
    log: str | None = None


class _Lease(BaseModel):
    renewed: AwareDatetime
    host: str = "another machine"
    pid: int = 0


def standing(uri: str, now: datetime) -> dict[str, str]:
    """What there is to tell of a job, by name, in the order in which one asks.

    Args:
        uri: folder of a run, of a stage (ROOT/synthetic), or of what it makes.
        now: with its time zone.

    Raises:
        UserError: there is no status.json.
        SiamdiffError: it is damaged.
    """
    place = storage.join(storage.normalize(uri), "status.json")
    try:
        status = read_record(_Status, place)
    except FileNotFoundError:
        raise UserError(f"{place} does not exist; give the folder of a run or of a set being made") from None
    try:
        lease = read_record(_Lease, storage.join(storage.normalize(uri), "lease.json"))
    except FileNotFoundError:
        lease = None
    last = max(status.heartbeat, lease.renewed) if lease else status.heartbeat
    silent = now - last
    return {
        "phase": status.phase,
        "done": str(status.done),
        "left": str(status.left),
        "heartbeat": f"{last.astimezone(UTC).isoformat(timespec='seconds')} ({_ago(silent)})",
        "cost": "-" if status.cost is None else f"{status.cost:.2f} dollars",
        "exit_code": "-" if status.exit_code is None else str(status.exit_code),
        "error": status.error or "-",
        "log": status.log or "-",
        "next": _next(status, lease, silent),
    }


def _ago(silent: timedelta) -> str:
    return f"{readable_seconds(max(silent.total_seconds(), 0.0))} ago"


def _next(status: _Status, lease: _Lease | None, silent: timedelta) -> str:
    """What to do about it."""
    if status.phase == "finished":
        return "nothing: it is done"
    if status.exit_code == 2:
        return "correct what the error names, then run the command again; nothing was lost"
    if status.phase == "stopped":
        return "run the same command again: it goes on from there"
    if status.phase == "failed":
        return "look at the end of the log, then run the same command again: what is done stays done"
    if lease and silent <= LEASE_SILENCE:
        return f"wait: process {lease.pid} on {lease.host} is at work"
    if not lease and silent <= STATUS_SILENCE:
        return "wait: it is at work"
    return "its process is gone, or cannot reach the store: look at the end of the log, then run the same command again"
