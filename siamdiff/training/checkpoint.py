"""Checkpoints of a run in the store: one part per worker, counted when complete.

`checkpoints/step-00000100.1f3a9c02/`, the second half naming the attempt that writes it: what a worker of an attempt
before leaves behind, or still writes, mixes with nothing. Each worker writes its files, then `part-RANK.json` with
their hashes; `complete.json` follows when all parts are there, and a checkpoint without it never counts. All of it
happens in threads while training goes on, and needs no word between the workers.
"""

import hashlib
import logging
import math
import re
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siamdiff import storage
from siamdiff.data.cache import made_once
from siamdiff.errors import SiamdiffError
from siamdiff.run import Lease, now
from siamdiff.training.context import Context

log = logging.getLogger(__name__)

MARKER = "complete.json"
FOLDER = re.compile(r"step-(\d{8,})(?:\.\w+)?")
_POLL_SECONDS = 0.1, 2.0  # between two looks for the parts of other workers: first, at most
_UPLOADS = 4  # files of one part at a time


@dataclass(frozen=True, order=True)
class Checkpoint:
    """A complete checkpoint: the state after `step` optimizer steps."""

    step: int
    uri: str

    def marker(self) -> dict[str, Any]:
        """What `complete.json` says: step, world_size, files with sizes and hashes, and what the loop adds."""
        return storage.read_json(storage.join(self.uri, MARKER))


def complete_checkpoints(run_uri: str) -> list[Checkpoint]:
    """Checkpoints that count, by step."""
    return sorted(Checkpoint(step, uri) for step, uri, is_complete in _folders(run_uri) if is_complete)


def complete_steps(run_uri: str) -> list[int]:
    """Steps with a complete checkpoint, ascending."""
    return [checkpoint.step for checkpoint in complete_checkpoints(run_uri)]


def find(run_uri: str, step: int) -> Checkpoint:
    """The complete checkpoint of a step.

    Raises:
        SiamdiffError: there is none.
    """
    for checkpoint in complete_checkpoints(run_uri):
        if checkpoint.step == step:
            return checkpoint
    raise SiamdiffError(f"{run_uri} has no complete checkpoint of step {step}")


def _folders(run_uri: str) -> Iterator[tuple[int, str, bool]]:
    """(step, URI, whether it is complete) of every folder of the name."""
    uri = storage.join(run_uri, "checkpoints")
    names: dict[str, bool] = {}
    for name in storage.list_files(uri):
        folder, _, file = name.partition("/")
        names[folder] = names.get(folder, False) or file == MARKER
    for folder, is_complete in names.items():
        if match := FOLDER.fullmatch(folder):
            yield int(match[1]), storage.join(uri, folder), is_complete


def remove_incomplete(run_uri: str) -> None:
    """Removes what attempts before left unfinished; the caller holds the run's lease."""
    for _, uri, is_complete in list(_folders(run_uri)):
        if not is_complete:
            storage.delete_folder(uri)


@contextmanager
def fetched(checkpoint: Checkpoint, context: Context) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A local folder with all files of a checkpoint, and its marker, while the block runs.

    Fetched and checked against the hashes once per node. Called by all workers, which leave the block together.

    Raises:
        SiamdiffError: a file is missing or differs from what was written.
    """
    marker = checkpoint.marker()
    name = f"checkpoints/{hashlib.sha256(checkpoint.uri.encode()).hexdigest()[:16]}"
    folder = made_once(
        name,
        lambda target: _fetch(checkpoint.uri, marker["files"], target),
        lambda folder: _has_sizes(folder, marker["files"]),
    )
    yield folder, marker
    context.gather(None)  # the others of this node may still be reading
    shutil.rmtree(folder, ignore_errors=True)


def _fetch(uri: str, files: dict[str, Any], target: Path) -> None:
    for name, expected in files.items():
        try:
            storage.download_file(storage.join(uri, name), target / name)
        except FileNotFoundError:
            raise SiamdiffError(f"checkpoint {uri} is damaged: {name} is missing; {_remedy(uri)}") from None
        if storage.file_sha256(target / name) != expected["sha256"]:
            raise SiamdiffError(f"checkpoint {uri} is damaged: {name} has another hash; {_remedy(uri)}")


def _has_sizes(folder: Path, files: dict[str, Any]) -> bool:
    return folder.is_dir() and all(
        (folder / name).is_file() and (folder / name).stat().st_size == expected["size"]
        for name, expected in files.items()
    )


def _remedy(uri: str) -> str:
    return f"delete {uri} to go on from the checkpoint before it"


class Writer:
    """Writes this worker's parts in a thread, one checkpoint at a time; on rank 0 also makes them count.

    Args:
        run_uri: the run's folder.
        context: this worker's place; all workers make their writers at the same time.
        lease: checked before a checkpoint counts.
        kept: the newest so many are kept, and the one with the lowest `validation` in its marker.
    """

    def __init__(self, run_uri: str, context: Context, lease: Lease, kept: int) -> None:
        self.run_uri, self.lease, self.kept = run_uri, lease, kept
        self.rank, self.world_size = context.rank, context.world_size
        self.attempt: str = context.gather(uuid.uuid4().hex[:8])[0]
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None
        self._closed = threading.Event()
        self.counted: float | None = None  # Unix time at which the newest one counted; on rank 0

    def begin(
        self,
        step: int,
        snapshot: Callable[[Path], Callable[[], None]],
        before: Callable[[], None],
        about: dict[str, Any],
    ) -> None:
        """Takes the state of now and starts to write it; waits first for the checkpoint before to be whole.

        Args:
            step: optimizer steps finished.
            snapshot: of the engine, see siamdiff.training.engine.Engine.
            before: done by rank 0 before the checkpoint counts.
            about: what else the marker says.

        Raises:
            SiamdiffError: the checkpoint before could not be written.
        """
        self.wait()
        place = Path(tempfile.gettempdir())
        with _explained(step, place):
            folder = Path(tempfile.mkdtemp(prefix="siamdiff-checkpoint-"))
            write = snapshot(folder)
        self._writing = self._pool.submit(self._write, step, folder, write, before, about)

    def check(self) -> None:
        """Raises what went wrong, as soon as it did, and waits for nothing."""
        if self._writing and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Until this worker's part is whole; on rank 0 until the checkpoint counts.

        Raises:
            SiamdiffError: it could not be written.
        """
        if self._writing:
            writing, self._writing = self._writing, None
            writing.result()

    def close(self, seconds: float) -> None:
        """Gives a checkpoint that is being written `seconds` to become whole; its failure is logged."""
        if self._writing:
            done, _ = futures.wait([self._writing], seconds)
            if error := self._writing.exception() if done else None:
                log.warning("the last checkpoint could not be written: %s", error)
        self._closed.set()
        self._pool.shutdown(wait=False)

    def _write(
        self,
        step: int,
        folder: Path,
        write: Callable[[], None],
        before: Callable[[], None],
        about: dict[str, Any],
    ) -> None:
        started = time.monotonic()
        uri = storage.join(self.run_uri, "checkpoints", f"step-{step:08d}.{self.attempt}")
        try:
            with _explained(step, folder.parent):
                write()
            files = _upload(uri, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        storage.write_json(_part(uri, self.rank), {"files": files})
        if self.rank:
            return
        self.lease.check()
        before()
        for rank in range(1, self.world_size):
            files |= self._awaited(_part(uri, rank))["files"]
        self.lease.check()
        marker = {"step": step, "world_size": self.world_size, "files": files, "written": now()}
        storage.write_json(storage.join(uri, MARKER), marker | about)
        self.counted = time.time()
        size = sum(info["size"] for info in files.values()) / 1e6
        log.info("checkpoint of step %d: %.1f MB in %.1f s", step, size, time.monotonic() - started)
        self._prune()

    def _awaited(self, uri: str) -> Any:
        """A part's marker, once it is there. If its worker dies, this one is ended by whoever watches the group."""
        pause, longest = _POLL_SECONDS
        while not self._closed.wait(pause):
            try:
                return storage.read_json(uri)
            except FileNotFoundError:
                pause = min(2 * pause, longest)
        raise SiamdiffError(f"{uri} did not come in time; the checkpoint before counts")

    def _prune(self) -> None:
        checkpoints = complete_checkpoints(self.run_uri)
        old = checkpoints[: -self.kept]
        if not old:
            return
        losses = [(checkpoint.marker().get("validation"), checkpoint) for checkpoint in checkpoints]
        known = [
            (loss, checkpoint) for loss, checkpoint in losses if loss is not None and math.isfinite(loss)
        ]
        best = min(known)[1] if known else None
        for checkpoint in old:
            if checkpoint != best:
                # the marker goes first: a checkpoint that is half removed must not count
                storage.delete(storage.join(checkpoint.uri, MARKER))
                storage.delete_folder(checkpoint.uri)


@contextmanager
def _explained(step: int, place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SiamdiffError(
            f"the checkpoint of step {step} cannot be written to {place} "
            f"({str(error).splitlines()[0]}); free some space there or set TMPDIR to another folder"
        ) from error


def _part(uri: str, rank: int) -> str:
    return storage.join(uri, f"part-{rank:05d}.json")


def _upload(uri: str, folder: Path) -> dict[str, Any]:
    """Copies a worker's files into the checkpoint: {relative name: {"size": bytes, "sha256": hex}}."""

    def one(path: Path) -> tuple[str, dict[str, Any]]:
        name = path.relative_to(folder).as_posix()
        storage.upload_file(storage.join(uri, name), path)
        return name, {"size": path.stat().st_size, "sha256": storage.file_sha256(path)}

    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    with ThreadPoolExecutor(_UPLOADS) as pool:
        return dict(pool.map(one, paths))
