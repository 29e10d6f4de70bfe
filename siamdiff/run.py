"""A run's folder (`runs/ID/`): what it is pinned to, its state for people, and the lease of its one writer."""

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from siamdiff import storage
from siamdiff.config import Config
from siamdiff.errors import SiamdiffError, StoppedError, UserError

log = logging.getLogger(__name__)

RENEW_SECONDS = 10.0
TAKEOVER_SECONDS = 30.0
SETTLE_SECONDS = 2.0


def readable_seconds(seconds: float) -> str:
    """3725.0 -> "1:02:05"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def pin(run_uri: str, config: Config, inputs: dict[str, Any]) -> None:
    """Ties a new run to its configuration and inputs, or checks that an old one is continued with the same.

    Writes `pinned.json` (fields that the result depends on) and `config.yaml` (everything, of the newest attempt).

    Args:
        run_uri: the run's folder.
        config: resolved configuration.
        inputs: digests of data and base, by name.

    Raises:
        UserError: the run exists with another configuration or other inputs; names the fields.
    """
    pinned = config.pinned() | {f"digest of {name}": value for name, value in inputs.items()}
    uri = storage.join(run_uri, "pinned.json")
    try:
        earlier = storage.read_json(uri)
    except FileNotFoundError:
        storage.write_json(uri, pinned)
    else:
        changed = [
            f"{name} was {earlier.get(name)!r}, is now {pinned.get(name)!r}"
            for name in sorted(earlier.keys() | pinned.keys())
            if earlier.get(name) != pinned.get(name)
        ]
        if changed:
            raise UserError(
                f"run {storage.name_of(run_uri)!r} was started with another configuration: {'; '.join(changed[:4])}; "
                "give the same values, or another name with --train.run"
            )
    storage.write_bytes(storage.join(run_uri, "config.yaml"), config.to_yaml().encode())


@dataclass
class Status:
    """`status.json`: what a person or a scheduler asks about a job. Written whole at each change."""

    uri: str
    phase: str = "starting"
    done: int = 0
    total: int = 0
    error: str | None = None
    exit_code: int | None = None
    cost: float | None = None  # dollars so far; None where no price or no GPU is given
    log: str | None = None  # URI of the folder with what the job's processes logged
    before: str = ""  # phase in which the command before this one ended, once `reporting` looked

    def write(self, **changes: Any) -> None:
        """Sets fields and writes the file with a fresh heartbeat."""
        for name, value in changes.items():
            setattr(self, name, value)
        state = {
            "phase": self.phase,
            "heartbeat": now(),
            "done": self.done,
            "left": self.total - self.done,
            "error": self.error,
            "exit_code": self.exit_code,
            "cost": self.cost,
            "log": self.log,
        }
        storage.write_json(storage.join(self.uri, "status.json"), state)

    @contextmanager
    def reporting(self) -> Iterator[Self]:
        """Writes how the block ended: finished (0), or failed or stopped, with its exit code and message.

        A mistake in calling a finished job again leaves its status as it was.
        """
        uri = storage.join(self.uri, "status.json")
        earlier = _read(uri)
        if earlier:
            self.done, self.before = earlier["done"], earlier["phase"]
        try:
            yield self
        except BaseException as error:
            if isinstance(error, UserError) and earlier.get("phase") == "finished":
                storage.write_json(uri, earlier)
                raise
            written = _read(uri)  # workers write it too
            self.done, self.cost = written.get("done", self.done), written.get("cost", self.cost)
            code = error.exit_code if isinstance(error, SiamdiffError) else 1
            message = str(error) or type(error).__name__
            was_asked = isinstance(error, StoppedError | KeyboardInterrupt)
            self.write(phase="stopped" if was_asked else "failed", error=message, exit_code=code)
            raise
        self.cost = _read(uri).get("cost", self.cost)
        self.write(phase="finished", error=None, exit_code=0)


def _identity() -> dict[str, Any]:
    """Who holds a lease. Host, boot and process namespace tell whether a look at the process table means anything."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    namespace = Path("/proc/self/ns/pid")
    return {
        "host": socket.gethostname(),
        "boot": boot.read_text().strip() if boot.exists() else "",
        "namespace": os.readlink(namespace) if namespace.exists() else "",
        "pid": os.getpid(),
    }


def _is_dead(holder: dict[str, Any]) -> bool:
    """Whether the holder certainly ended: a process of this machine that is no longer there."""
    mine = _identity()
    if not mine["boot"] or any(holder.get(name) != mine[name] for name in ("host", "boot", "namespace")):
        return False
    return not Path(f"/proc/{holder['pid']}").exists()


class InUseError(UserError):
    """Another writer renews the lease."""


@dataclass(frozen=True)
class Lease:
    """The right to write in a folder; may be sent to other processes."""

    uri: str  # of lease.json
    token: str

    def check(self) -> None:
        """Called before every write that counts.

        Raises:
            SiamdiffError: another job holds the folder by now.
        """
        if not self._is_held():
            folder = self.uri.rpartition("/")[0]
            raise SiamdiffError(f"another job took over {folder}; this one stops without writing further")

    def _is_held(self) -> bool:
        return _read(self.uri).get("token") == self.token

    def _content(self, count: int) -> dict[str, Any]:
        return {"token": self.token, "count": count, "renewed": now()} | _identity()

    def _renew(self, every: float, stop: threading.Event) -> None:
        count = 0
        while not stop.wait(every):
            try:
                if not self._is_held():
                    return
                count += 1
                storage.write_json(self.uri, self._content(count))
            except SiamdiffError as error:  # `check` will tell whether another used the gap
                log.warning("the lease could not be renewed: %s", error)


@contextmanager
def lease(
    folder_uri: str, *, renew_seconds: float = RENEW_SECONDS, takeover_seconds: float = TAKEOVER_SECONDS
) -> Iterator[Lease]:
    """Holds `lease.json` in a folder while the block runs, so that it has one writer.

    A lease that is renewed is respected; one that is not renewed for `takeover_seconds` (watched here, so clocks of
    different machines do not matter), or whose process is known to be dead, is taken over.

    Raises:
        InUseError: another writer renews the lease.
    """
    held = Lease(storage.join(folder_uri, "lease.json"), uuid.uuid4().hex)
    content = held._content(0)
    if not storage.put_if_absent(held.uri, storage.canonical_json(content)):
        _wait_until_free(held.uri, folder_uri, takeover_seconds)
        storage.write_json(held.uri, content)
        # Of two that take over at once the last to write holds it; the other sees that after a moment and leaves.
        time.sleep(min(SETTLE_SECONDS, renew_seconds))
        if not held._is_held():
            raise _in_use(folder_uri, _read(held.uri))
    stop = threading.Event()
    thread = threading.Thread(target=held._renew, args=(renew_seconds, stop), name="lease", daemon=True)
    thread.start()
    try:
        yield held
    finally:
        stop.set()
        thread.join()
        if held._is_held():
            storage.delete(held.uri)


def _read(uri: str) -> dict[str, Any]:
    try:
        return storage.read_json(uri)
    except FileNotFoundError:
        return {}


def _in_use(folder_uri: str, holder: dict[str, Any]) -> InUseError:
    return InUseError(
        f"{folder_uri} is in use by process {holder.get('pid')} on {holder.get('host')} (last sign of life "
        f"{holder.get('renewed')}); wait for it or stop it, or name another one"
    )


def _wait_until_free(uri: str, folder_uri: str, takeover_seconds: float) -> None:
    holder = _read(uri)
    if not holder or _is_dead(holder):
        return
    log.info("%s has a lease; watching for %.0f s whether it is renewed", folder_uri, takeover_seconds)
    deadline = time.monotonic() + takeover_seconds
    while time.monotonic() < deadline:
        time.sleep(min(1.0, takeover_seconds / 10))
        current = _read(uri)
        if not current:
            return
        if current.get("count") != holder.get("count") or current.get("token") != holder.get("token"):
            raise _in_use(folder_uri, current)
    log.info("the lease of %s was not renewed; taking over", folder_uri)
