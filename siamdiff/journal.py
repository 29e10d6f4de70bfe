"""What a process logs, kept in the store as JSON lines: it tells what happened after the cluster is gone.

An object of a store cannot be appended to, so lines are gathered and written in parts, `FOLDER/PROCESS-NNN.jsonl`; the
last part is written anew as it grows. A process that is killed loses what it logged in the last FLUSH_SECONDS.
"""

import json
import logging
import os
import socket
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from siamdiff import __version__, storage
from siamdiff.errors import AlreadyRunningError, SiamdiffError

FLUSH_SECONDS = 10.0
PART_LINES = 1000
MAX_LINES = 20_000  # that wait for a store which does not answer; then the oldest are given up
SHARD = "shard"  # the name of a shard that a record is about, in the `extra` of a logging call


class Journal(logging.Handler):
    """Keeps log records of level INFO and above. A store that does not answer never hinders the process.

    Args:
        folder: URI under which the parts lie.
        process: what the process is, such as "job" or "worker-3": the beginning of the objects' names.
        fields: what every line says of the process, such as its run and rank.
    """

    def __init__(self, folder: str, process: str, fields: dict[str, str | int]) -> None:
        super().__init__(logging.INFO)
        node, started = socket.gethostname(), datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        self._place = storage.join(folder, f"{process}-{started}-{node}-{os.getpid()}")
        self._fields = fields | {"node": node, "pid": os.getpid()}
        self._waiting: deque[bytes] = deque(maxlen=MAX_LINES)
        self._part = 0
        self._lines: list[bytes] = []  # of the last part
        self._is_behind = False  # whether the store has not all of them
        self._is_answered = True  # by the store, the last time
        self._is_closed = False
        self._writing = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._flush_often, name="journal", daemon=True)
        self._thread.start()

    def createLock(self) -> None:  # noqa: N802, logging's own name
        """None: a deque needs none, and one that is held while a thread of the store's client logs would stop both."""
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        """Takes one record."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": when, "level": record.levelname, "logger": record.name}
        line |= {"message": record.getMessage()} | self._fields
        if shard := getattr(record, SHARD, None):
            line[SHARD] = shard
        if record.exc_info:
            line["traceback"] = logging.Formatter().formatException(record.exc_info)
        self._waiting.append(json.dumps(line, ensure_ascii=False).encode())

    def flush(self) -> None:
        """Writes what is new; what cannot be written now waits for the next time."""
        with self._writing:
            while not self._is_closed and (self._waiting or self._is_behind):
                while self._waiting and len(self._lines) < PART_LINES:
                    self._lines.append(self._waiting.popleft())
                self._is_behind = True
                try:
                    storage.write_bytes(
                        f"{self._place}-{self._part:03d}.jsonl", b"\n".join(self._lines) + b"\n"
                    )
                except SiamdiffError:
                    self._is_answered = False
                    return
                self._is_behind, self._is_answered = False, True
                if len(self._lines) == PART_LINES:
                    self._part, self._lines = self._part + 1, []

    def close(self) -> None:
        """Writes the last lines and ends the thread; where the store does not answer it is not waited for again."""
        self._stop.set()
        self._thread.join()
        if self._is_answered:
            self.flush()
        self._is_closed = True  # logging itself closes it once more, at the end of the process
        super().close()

    def _flush_often(self) -> None:
        while not self._stop.wait(FLUSH_SECONDS):
            self.flush()


@contextmanager
def journal(folder: str, process: str, **fields: str | int) -> Iterator[None]:
    """Keeps what this process logs while the block runs: first that it started, last what ended it, with the traceback.

    Args:
        folder: see Journal.
        process: see Journal.
        fields: see Journal.
    """
    handler = Journal(folder, process, fields)
    root = logging.getLogger()
    root.addHandler(handler)

    def tell(level: int, message: str, argument: str, error: BaseException | None = None) -> None:
        """To the journal alone."""
        traceback = (type(error), error, error.__traceback__) if error else None
        handler.handle(logging.LogRecord(__name__, level, __file__, 0, message, (argument,), traceback))

    tell(logging.INFO, "started, siamdiff %s", __version__)
    try:
        yield
    except BaseException as error:
        level = logging.INFO if isinstance(error, AlreadyRunningError) else logging.ERROR
        tell(level, "ended by: %s", str(error) or type(error).__name__, error)
        raise
    finally:
        root.removeHandler(handler)
        handler.close()
