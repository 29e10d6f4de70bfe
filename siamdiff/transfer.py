"""Whole folders between the disk and where a URI points: every file whole or not at all, several at once."""

import contextlib
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from siamdiff import storage
from siamdiff.errors import UserError

_THREADS = 8


def upload_folder(uri: str, source: Path) -> None:
    """Copies every file below the local folder `source` under `uri`."""
    files = [path for path in sorted(source.rglob("*")) if path.is_file()]
    names = [storage.join(uri, path.relative_to(source).as_posix()) for path in files]
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(storage.upload_file, names, files))


def download_folder(uri: str, target: Path) -> None:
    """Copies every object under `uri` below the local folder `target`.

    Raises:
        FileNotFoundError: nothing lies under `uri`.
        UserError: a name leads out of it; in a store any is possible.
    """
    names = list(storage.list_files(uri))
    if not names:
        raise FileNotFoundError(uri)
    if any(".." in name.split("/") for name in names):
        raise UserError(f"{uri} holds names that lead out of it (..); remove them, or give another folder")
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(lambda name: storage.download_file(storage.join(uri, name), target / name), names))


@contextlib.contextmanager
def local_copy(uri: str) -> Iterator[Path]:
    """A local folder with the files under `uri`: the folder itself where it is local, else a temporary copy.

    Raises:
        FileNotFoundError: nothing lies under `uri`.
    """
    path = storage.local_path(uri)
    if path is not None:
        if not path.is_dir():
            raise FileNotFoundError(uri)
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="siamdiff-") as folder:
        download_folder(uri, Path(folder))
        yield Path(folder)
