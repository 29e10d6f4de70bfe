"""What a model's folder says of itself, read without the libraries that its networks need."""

import hashlib
from pathlib import Path
from typing import Any

from siamdiff import storage
from siamdiff.errors import UserError
from siamdiff.model.sources import INFO

SCHEDULER = "scheduler_config.json"  # diffusers' name for it


def folder_digest(folder: Path) -> str:
    """sha256 (hex) over names and bytes of all files below `folder` in the order of their names, but `siamdiff.json`.

    That file is left out since it may name the digest itself; hidden files (download caches) do not count either.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix()):
        relative = path.relative_to(folder)
        if (
            not path.is_file()
            or relative.as_posix() == INFO
            or any(p.startswith(".") for p in relative.parts)
        ):
            continue
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{relative.as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


def read_info(uri: str) -> dict[str, Any]:
    """`siamdiff.json` of a model folder.

    Raises:
        UserError: there is no complete model under `uri`.
    """
    try:
        return storage.read_json(storage.join(uri, INFO))
    except FileNotFoundError:
        raise UserError(
            f"no model at {uri} ({INFO} is missing); train one first with jobs/train.py, "
            "or name another with --generate.model"
        ) from None


def read_schedule(uri: str) -> dict[str, Any]:
    """The configuration of a model folder's scheduler, which has the noise schedule that the model was trained with.

    Raises:
        UserError: the folder is not whole.
    """
    place = storage.join(uri, "scheduler", SCHEDULER)
    try:
        return storage.read_json(place)
    except FileNotFoundError:
        raise UserError(
            f"no model at {uri} (scheduler/{SCHEDULER} is missing); fetch the folder again, or name "
            "another with --generate.model"
        ) from None
