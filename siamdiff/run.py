"""A run's folder (`runs/ID/`): what it is pinned to, its state for people, and the lease of its one writer."""

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from siamdiff import storage
from siamdiff.config import Config
from siamdiff.errors import SiamdiffError, UserError

log = logging.getLogger(__name__)

RENEW_SECONDS = 10.0
TAKEOVER_SECONDS = 30.0


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
        }
        storage.write_json(storage.join(self.uri, "status.json"), state)

    @contextmanager
    def reporting(self) -> Iterator["Status"]:
        """Writes how the block ended: finished (0), or failed with its exit code and message.

        A mistake in calling a finished job again leaves its status as it was.
        """
        uri = storage.join(self.uri, "status.json")
        earlier = _read(uri)
        try:
            yield self
        except BaseException as error:
            if isinstance(error, UserError) and earlier.get("phase") == "finished":
                storage.write_json(uri, earlier)
                raise
            code = error.exit_code if isinstance(error, SiamdiffError) else 1
            message = str(error) or type(error).__name__
            self.write(phase="failed", error=message, exit_code=code)
            raise
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


@contextmanager
def lease(
    folder_uri: str, *, renew_seconds: float = RENEW_SECONDS, takeover_seconds: float = TAKEOVER_SECONDS
) -> Iterator[Callable[[], None]]:
    """Holds `lease.json` in a folder while the block runs, so that it has one writer.

    A lease that is renewed is respected; one that is not renewed for `takeover_seconds` (watched here, so clocks of
    different machines do not matter), or whose process is known to be dead, is taken over.

    Yields:
        A check to call before a write that counts; it raises SiamdiffError once the lease was lost to another.

    Raises:
        UserError: another writer renews the lease.
    """
    uri = storage.join(folder_uri, "lease.json")
    _wait_until_free(uri, folder_uri, takeover_seconds)
    token = uuid.uuid4().hex
    stop, lost = threading.Event(), threading.Event()

    def write(count: int) -> None:
        storage.write_json(uri, {"token": token, "count": count, "renewed": now()} | _identity())

    def keep() -> None:
        count = 0
        while not stop.wait(renew_seconds):
            try:
                if _read(uri).get("token") != token:
                    lost.set()
                    return
                count += 1
                write(count)
            except SiamdiffError:  # a store out of reach for so long: another may hold the lease by now
                log.exception("the lease of %s could not be renewed", folder_uri)
                lost.set()
                return

    def check() -> None:
        if lost.is_set():
            raise SiamdiffError(f"another job took over {folder_uri}; this one stops without writing further")

    write(0)
    # Two newcomers may both have found the lease free: the last to write holds it, the other sees that and leaves.
    time.sleep(min(0.2, renew_seconds / 4))
    if _read(uri).get("token") != token:
        raise _in_use(folder_uri, _read(uri))
    thread = threading.Thread(target=keep, name="lease", daemon=True)
    thread.start()
    try:
        yield check
    finally:
        stop.set()
        thread.join()
        if not lost.is_set():
            storage.delete(uri)


def _read(uri: str) -> dict[str, Any]:
    try:
        return storage.read_json(uri)
    except FileNotFoundError:
        return {}


def _in_use(folder_uri: str, holder: dict[str, Any]) -> UserError:
    return UserError(
        f"{folder_uri} is in use by process {holder.get('pid')} on {holder.get('host')} (last sign of life "
        f"{holder.get('renewed')}); wait for it or stop it, or give another name with --train.run"
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
