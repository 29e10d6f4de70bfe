"""Checkpoints of a run in the store: `checkpoints/step-00000100/`, one part per worker, counted when complete.

The marker `complete.json` is written last and names every file with its hash; a checkpoint without it never counts.
"""

import logging
from pathlib import Path
from typing import Any

from siamdiff import storage
from siamdiff.errors import SiamdiffError

log = logging.getLogger(__name__)

MARKER = "complete.json"


def folder_uri(run_uri: str, step: int) -> str:
    """Where the checkpoint after `step` optimizer steps lies."""
    return storage.join(run_uri, "checkpoints", f"step-{step:08d}")


def complete_steps(run_uri: str) -> list[int]:
    """Steps with a complete checkpoint, ascending."""
    names = storage.list_files(storage.join(run_uri, "checkpoints"))
    return sorted(
        int(name.split("/")[0].removeprefix("step-")) for name in names if name.endswith(f"/{MARKER}")
    )


def upload_part(run_uri: str, step: int, part: Path) -> dict[str, Any]:
    """Copies one worker's files into the checkpoint.

    Returns:
        {relative name: {"size": bytes, "sha256": hex}} for `complete`.
    """
    files = {}
    for path in sorted(path for path in part.rglob("*") if path.is_file()):
        name = path.relative_to(part).as_posix()
        storage.upload_file(storage.join(folder_uri(run_uri, step), name), path)
        files[name] = {"size": path.stat().st_size, "sha256": storage.file_sha256(path)}
    return files


def complete(run_uri: str, step: int, files: dict[str, Any], world_size: int, kept: int) -> None:
    """Makes the checkpoint count, then removes all but the newest `kept`."""
    storage.write_json(
        storage.join(folder_uri(run_uri, step), MARKER),
        {"step": step, "world_size": world_size, "files": files},
    )
    for old in complete_steps(run_uri)[:-kept]:
        # the marker goes first: a checkpoint that is half removed must not count
        storage.delete(storage.join(folder_uri(run_uri, old), MARKER))
        storage.delete_folder(folder_uri(run_uri, old))


def fetch(run_uri: str, step: int, target: Path) -> dict[str, Any]:
    """Brings a complete checkpoint into a local folder and checks every hash.

    Returns:
        The marker.

    Raises:
        SiamdiffError: a file is missing or differs from what was written.
    """
    uri = folder_uri(run_uri, step)
    marker = storage.read_json(storage.join(uri, MARKER))
    for name, expected in marker["files"].items():
        try:
            storage.download_file(storage.join(uri, name), target / name)
        except FileNotFoundError:
            raise SiamdiffError(f"checkpoint {uri} is damaged: {name} is missing; {_remedy(uri)}") from None
        if storage.file_sha256(target / name) != expected["sha256"]:
            raise SiamdiffError(f"checkpoint {uri} is damaged: {name} has another hash; {_remedy(uri)}")
    return marker


def _remedy(uri: str) -> str:
    return f"delete {uri} to go on from the checkpoint before it"
