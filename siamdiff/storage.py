"""Objects at rest under a URI: `/local`, `file://` or `s3://`, the same calls for all of them.

An object appears whole or not at all. Endpoint, region and keys of S3 come from the standard AWS variables or the
pod's role of each process. Every call is retried for RETRY_SECONDS while the store does not answer. Errors:
FileNotFoundError where an object is missing (what that means is the caller's to say), UserError for credentials and
permissions, SiamdiffError for a store that stays unreachable or a disk that is full.
"""

import contextlib
import errno
import functools
import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import fsspec
from botocore.exceptions import (
    BotoCoreError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
)
from botocore.exceptions import ConnectionError as StoreConnectionError
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_exponential_jitter

from siamdiff.calls import watched
from siamdiff.credentials import refuse_in_uri
from siamdiff.errors import SiamdiffError, UserError

RETRY_SECONDS = 60.0
PROBE_SECONDS = 5.0
_PARTIAL = ".partial-"  # prefix of a local file that is still being written; never listed
# s3fs turns HTTP 500 into EREMOTEIO, 503 into EBUSY
_BUSY = {
    errno.EBUSY,
    errno.EIO,
    errno.EREMOTEIO,
    errno.ETIMEDOUT,
    errno.ECONNRESET,
    errno.ECONNREFUSED,
    errno.EAGAIN,
}

P = ParamSpec("P")
T = TypeVar("T")


def normalize(uri: str) -> str:
    """The canonical form of a URI: an absolute path for local ones ("~" expanded), no trailing slash.

    Raises:
        UserError: an empty URI, a scheme other than file and s3, or one that holds a credential.
    """
    refuse_in_uri(uri)
    scheme, sep, rest = uri.partition("://")
    if not sep:
        if not uri:
            raise UserError(
                "an empty path was given; give a folder such as /data/polyps or s3://bucket/polyps"
            )
        return os.path.abspath(os.path.expanduser(uri))
    if scheme == "file":
        return os.path.abspath(rest)
    if scheme != "s3" or not rest.strip("/"):
        raise UserError(f"cannot use {uri!r}; give a local path, file:///path or s3://bucket/path")
    return f"s3://{rest.rstrip('/')}"


def join(uri: str, *parts: str) -> str:
    """`uri` followed by relative names: join("s3://b/set", "shards", "a.tar") == "s3://b/set/shards/a.tar"."""
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


def name_of(uri: str) -> str:
    """The last part of a URI."""
    return uri.rstrip("/").rpartition("/")[2]


def local_path(uri: str) -> Path | None:
    """The path of a local URI; None for an object store."""
    normal = normalize(uri)
    return None if "://" in normal else Path(normal)


def filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The fsspec file system of `uri` and the path inside it (for libraries that take a file system)."""
    normal = normalize(uri)
    if "://" not in normal:
        return fsspec.filesystem("file"), normal
    client = {"connect_timeout": 5, "read_timeout": 60, "retries": {"max_attempts": 2, "mode": "standard"}}
    return fsspec.filesystem("s3", config_kwargs=client, use_listings_cache=False), normal.removeprefix(
        "s3://"
    )


def _is_passing(error: BaseException) -> bool:
    if isinstance(error, (StoreConnectionError, HTTPClientError, ConnectionError, TimeoutError)):
        return True
    return isinstance(error, OSError) and error.errno in _BUSY


@contextlib.contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Turns the errors of file systems into ours; FileNotFoundError and FileExistsError pass."""
    try:
        yield
    except (FileNotFoundError, FileExistsError, SiamdiffError):
        raise
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise UserError(
            f"no credentials for {uri}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the pod a role"
        ) from error
    except PermissionError as error:
        reason = str(error) or "permission denied"
        raise UserError(
            f"no access to {uri} ({reason}); check the credentials and their permissions"
        ) from error
    except BotoCoreError as error:
        raise SiamdiffError(
            f"the store of {uri} cannot be reached ({error}); check AWS_ENDPOINT_URL"
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.EISDIR):
            raise _no_folder(uri, error) from error
        if error.errno == errno.ENOSPC:
            raise SiamdiffError(
                f"no space left for {uri}; free some and run the same command again"
            ) from error
        raise SiamdiffError(f"the store failed at {uri} ({error})") from error


def _no_folder(uri: str, error: OSError) -> UserError:
    return UserError(f"cannot use {uri} ({error.strerror}); give a folder that can be made there")


def _retrying(seconds: float) -> Retrying:
    return Retrying(
        retry=retry_if_exception(_is_passing),
        stop=stop_after_delay(seconds),
        wait=wait_exponential_jitter(multiplier=0.2, max=5.0),
        reraise=True,
    )


def _store_call(function: Callable[P, T]) -> Callable[P, T]:
    """Retries and explains a function whose first argument is the URI it works on; tells whoever watches the store."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        def work(retrying: Retrying) -> T:
            with _explained(str(args[0])):
                return retrying(function, *args, **kwargs)

        return watched(work, function.__name__, args, _retrying(RETRY_SECONDS))

    return call


def probe(uri: str) -> None:
    """Checks, with little patience, that the store of `uri` answers and lets us in. Called when a job starts.

    Raises:
        UserError: wrong credentials, a bucket that does not exist, a local path that cannot be made or written.
        SiamdiffError: the store does not answer within about PROBE_SECONDS.
    """
    fs, path = filesystem(uri)
    with _explained(uri):
        if local_path(uri) is not None:
            _make_folder(Path(path))
            with tempfile.TemporaryFile(dir=path):
                return
        bucket = path.partition("/")[0]
        try:
            _retrying(PROBE_SECONDS)(fs.ls, bucket, detail=False)
        except FileNotFoundError as error:
            raise UserError(
                f"bucket {bucket!r} of {uri} does not exist; make it, or name another root"
            ) from error


@_store_call
def exists(uri: str) -> bool:
    """Whether an object (not a folder) lies at `uri`."""
    fs, path = filesystem(uri)
    try:
        # not fs.isfile, which answers False when the store does not answer
        return fs.info(path)["type"] == "file"
    except (FileNotFoundError, NotADirectoryError):
        return False


@_store_call
def read_bytes(uri: str) -> bytes:
    """The bytes of an object. Raises FileNotFoundError where there is none; a folder is none."""
    fs, path = filesystem(uri)
    try:
        content: Any = fs.cat_file(path)
    except IsADirectoryError as error:
        raise FileNotFoundError(errno.ENOENT, "a folder, not a file", uri) from error
    return content


@_store_call
def read_start(uri: str, size: int) -> bytes:
    """The first bytes of an object, at most `size`. Raises FileNotFoundError where there is none."""
    fs, path = filesystem(uri)
    content: Any = fs.cat_file(path, start=0, end=size)
    return content


@_store_call
def write_bytes(uri: str, data: bytes) -> None:
    """Writes an object, replacing what was there; a reader sees the old bytes or the new ones, never a part."""
    fs, path = filesystem(uri)
    if local_path(uri) is None:
        fs.pipe_file(path, data)
        return
    with _partial_file(Path(path)) as partial:
        partial.write_bytes(data)
        _sync(partial)
        os.replace(partial, path)


@_store_call
def put_if_absent(uri: str, data: bytes) -> bool:
    """Writes an object unless one lies there: of several writers at once exactly one gets True."""
    fs, path = filesystem(uri)
    if local_path(uri) is None:
        try:
            fs.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            # SeaweedFS and some others answer a failed If-None-Match with an error s3fs has no exact name for.
            if "PreconditionFailed" in repr(error.__cause__) or "pre-condition" in str(error):
                return False
            raise
        return True
    with _partial_file(Path(path)) as partial:
        partial.write_bytes(data)
        _sync(partial)
        try:
            os.link(partial, path)
        except FileExistsError:
            return False
        return True


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, FileNotFoundError) as error:  # a file, a link to nowhere; a place in /proc
        raise _no_folder(str(path), error) from error


@contextlib.contextmanager
def _partial_file(target: Path) -> Iterator[Path]:
    _make_folder(target.parent)
    partial = target.parent / f"{_PARTIAL}{uuid.uuid4().hex}"
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


@_store_call
def sweep_partials(uri: str, *, dry_run: bool = False) -> list[str]:
    """Removes what killed writers left unfinished below a local folder where nobody writes; returns their names."""
    folder = local_path(uri)
    left = sorted(folder.rglob(f"{_PARTIAL}*")) if folder else []
    for path in [] if dry_run else left:
        path.unlink(missing_ok=True)
    return [path.relative_to(normalize(uri)).as_posix() for path in left]


def _sync(path: Path) -> None:
    """Bytes reach the disk before the name does, so that a power cut leaves no empty object under a real name."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


@_store_call
def delete(uri: str) -> None:
    """Removes an object; nothing happens where there is none."""
    fs, path = filesystem(uri)
    with contextlib.suppress(FileNotFoundError):
        fs.rm_file(path)


@_store_call
def delete_folder(uri: str) -> None:
    """Removes every object under `uri`."""
    fs, path = filesystem(uri)
    with contextlib.suppress(FileNotFoundError):
        fs.rm(path, recursive=True)


@_store_call
def list_files(uri: str) -> dict[str, int]:
    """Objects under `uri`, in any depth: {name relative to `uri`: bytes}, sorted by name; {} where there are none.

    Folder markers (zero bytes, name ending in "/") and files still being written are left out.
    """
    fs, path = filesystem(uri)
    found: Any = fs.find(path, detail=True) if local_path(uri) is None else _walk(fs, path)
    files = {}
    for name, info in found.items():
        relative = name.removeprefix(path).lstrip("/")
        if info["type"] == "file" and relative and not name.endswith("/") and _PARTIAL not in name:
            files[relative] = int(info["size"])
    return dict(sorted(files.items()))


def _walk(fs: fsspec.AbstractFileSystem, path: str) -> dict[str, Any]:
    """Files below a local folder. fsspec's `find` would take an unreadable folder for an empty one."""
    files: dict[str, Any] = {}
    walk: Any = fs.walk  # its annotation knows no callable for on_error
    for _, _, infos in walk(path, detail=True, on_error=_unless_missing):
        files |= {info["name"]: info for info in infos.values()}
    return files


@_store_call
def list_links(uri: str) -> list[str]:
    """Symbolic links below a local folder, in any depth, relative to it, sorted: `list_files` leaves them out."""
    fs, path = filesystem(uri)
    if local_path(uri) is None:
        return []
    return sorted(
        name.removeprefix(path).lstrip("/") for name, info in _walk(fs, path).items() if info["islink"]
    )


def _unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def read_json(uri: str) -> Any:
    """A JSON object. Raises FileNotFoundError where there is none, SiamdiffError where it is not JSON."""
    try:
        return json.loads(read_bytes(uri))
    except (ValueError, RecursionError) as error:
        raise SiamdiffError(f"{uri} is damaged: not valid JSON ({error})") from error


def canonical_json(value: Any) -> bytes:
    """The one JSON form of a value, for hashing: sorted names, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def write_json(uri: str, value: Any) -> None:
    """Writes a value as indented JSON with sorted names."""
    write_bytes(uri, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n")


@_store_call
def upload_file(uri: str, source: Path) -> None:
    """Copies a local file to `uri`, whole or not at all, without holding it in memory."""
    fs, path = filesystem(uri)
    if local_path(uri) is None:
        fs.put_file(str(source), path)
        return
    with _partial_file(Path(path)) as partial:
        shutil.copyfile(source, partial)
        _sync(partial)
        os.replace(partial, path)


@_store_call
def download_file(uri: str, target: Path) -> None:
    """Copies an object to a local file, whole or not at all."""
    fs, path = filesystem(uri)
    with _partial_file(target) as partial:
        fs.get_file(path, str(partial))
        os.replace(partial, target)


def file_sha256(path: Path) -> str:
    """SHA-256 of a local file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
