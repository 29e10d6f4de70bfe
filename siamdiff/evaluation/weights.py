"""Where the weights of feature extractors come from: a file or folder, here or in a store; a download; the model hub.

What is found is named by its content before anything is computed with it, so that every node takes the same.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import torch
from huggingface_hub import errors, is_offline_mode, snapshot_download

from siamdiff import storage
from siamdiff.data.cache import cached, checked_copy, made_once
from siamdiff.errors import SiamdiffError, UserError
from siamdiff.model.sources import is_hub_id

HTTPS = "https://"
CLIP_FILES = ("config.json", "preprocessor_config.json", "model.safetensors", "pytorch_model.bin")
_CACHE = "weights"  # folder in the node's cache


@dataclass(frozen=True)
class Weights:
    """A file of weights, or a folder in transformers' layout, and what it holds."""

    uri: str  # local, s3://, https://, or a hub id with the commit
    sha256: str  # of the file; of a folder: of its weights file
    settings: str = ""  # sha256 of a folder's other files
    copy: str = ""  # of a store's file, its name in the node's cache

    @property
    def name(self) -> str:
        """For people: file name and the hash's beginning."""
        return f"{storage.name_of(self.uri)} (sha256 {self.sha256[:16]})"


def find_file(given: str, wanted: str) -> Weights:
    """A file at a local path or in a store.

    Args:
        given: path or URI.
        wanted: what to give instead, for the message.

    Raises:
        UserError: nothing lies there.
    """
    uri = storage.normalize(given)
    local = storage.local_path(uri)
    if local is not None:
        if not local.is_file():
            raise UserError(f"{uri} is missing; give {wanted}")
        return Weights(uri, storage.file_sha256(local))
    if not storage.exists(uri):
        raise UserError(f"{uri} is missing; give {wanted}")
    fs, path = storage.filesystem(uri)
    version = fs.info(path)
    digest = hashlib.sha256(f"{uri} {version['size']} {version.get('ETag')}".encode()).hexdigest()
    name = f"{_CACHE}/{digest[:32]}{Path(uri).suffix}"
    with cached(name) as copy:
        if not copy.is_file():
            storage.download_file(uri, copy)
        return Weights(uri, storage.file_sha256(copy), copy=name)


def download(url: str, sha256: str, wanted: str) -> Weights:
    """A file of the network, kept on this node.

    Args:
        url: https://.
        sha256: the beginning of its hash, in hex.
        wanted: what to give where there is no network, for the message.

    Raises:
        UserError: it cannot be had.
    """
    return Weights(url, storage.file_sha256(_downloaded(url, sha256, wanted)))


def find_folder(given: str, wanted: str) -> Weights:
    """A model in transformers' layout: a folder, here or in a store, or a hub id (with @REVISION, if wanted).

    Raises:
        UserError: nothing lies there, or the hub cannot be reached.
    """
    uri = given
    if is_hub_id(given) and not Path(given).expanduser().exists():
        folder = _from_hub(given, wanted)
        uri = f"{given.partition('@')[0]}@{folder.name}"  # a snapshot's folder is named after its commit
    else:
        uri = storage.normalize(given)
        folder = _local_folder(uri, wanted)
    files = [folder / name for name in CLIP_FILES if (folder / name).is_file()]
    weights = [file for file in files if file.suffix != ".json"]
    if not weights or len(files) - len(weights) < 2:
        raise UserError(f"{uri} lacks one of {', '.join(CLIP_FILES[:3])}; give {wanted}")
    others = "".join(storage.file_sha256(file) for file in files if file.suffix == ".json")
    return Weights(uri, storage.file_sha256(weights[0]), hashlib.sha256(others.encode()).hexdigest())


def local_file(weights: Weights) -> Path:
    """A file on this node with those bytes; fetched once.

    Raises:
        SiamdiffError: it is gone, or its bytes are others.
    """
    if weights.uri.startswith(HTTPS):
        return _downloaded(weights.uri, weights.sha256, "its file")
    return checked_copy(weights.uri, weights.sha256, weights.copy, "run the same command again")


def local_folder(weights: Weights) -> Path:
    """A folder on this node with those files; fetched once."""
    if is_hub_id(weights.uri) and not Path(weights.uri).exists():
        return _from_hub(weights.uri, "its folder")
    return _local_folder(weights.uri, "its folder")


def _downloaded(url: str, sha256: str, wanted: str) -> Path:
    name = storage.name_of(url)

    def make(folder: Path) -> None:
        if is_offline_mode():
            raise UserError(f"downloads are switched off (HF_HUB_OFFLINE); give {wanted}, to be had at {url}")
        folder.mkdir(parents=True)
        try:
            torch.hub.download_url_to_file(url, str(folder / name), hash_prefix=sha256, progress=False)
        except (URLError, TimeoutError, ConnectionError) as error:
            raise UserError(f"{url} cannot be reached ({error}); give {wanted}") from error
        except RuntimeError as error:  # another hash
            raise SiamdiffError(f"{url} is not what it was ({error}); give {wanted}") from error

    def is_whole(folder: Path) -> bool:
        file = folder / name
        return file.is_file() and storage.file_sha256(file).startswith(sha256)

    return made_once(f"{_CACHE}/{sha256[:8]}-{name}", make, is_whole) / name


def _from_hub(given: str, wanted: str) -> Path:
    repository, _, revision = given.partition("@")
    with _hub_explained(given, wanted):
        return Path(
            snapshot_download(
                repository,
                revision=revision or None,
                allow_patterns=list(CLIP_FILES),
                local_files_only=is_offline_mode(),
            )
        )


@contextmanager
def _hub_explained(given: str, wanted: str) -> Iterator[None]:
    try:
        yield
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise UserError(
            f"no folder {given} here, and the model hub, where that may be a model, cannot be reached; give {wanted}"
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        raise UserError(f"neither a folder nor a model of the hub: {given}; give {wanted}") from error
    except errors.HfHubHTTPError as error:
        reason = " ".join(str(error).split())[:200]
        raise SiamdiffError(
            f"the model hub failed for {given} ({reason}); try again, or give {wanted}"
        ) from error


def _local_folder(uri: str, wanted: str) -> Path:
    local = storage.local_path(uri)
    if local is not None:
        if not local.is_dir():
            raise UserError(f"no folder {uri}; give {wanted}")
        return local
    files = {name: size for name, size in storage.list_files(uri).items() if name in CLIP_FILES}
    if not files:
        raise UserError(f"no model at {uri}; give {wanted}")
    fs, path = storage.filesystem(uri)
    versions = [[name, size, fs.info(f"{path}/{name}").get("ETag")] for name, size in files.items()]
    name = hashlib.sha256(storage.canonical_json([uri, versions])).hexdigest()

    def make(folder: Path) -> None:
        folder.mkdir(parents=True)
        for file in files:
            storage.download_file(storage.join(uri, file), folder / file)

    def is_whole(folder: Path) -> bool:
        return all(
            (folder / file).is_file() and (folder / file).stat().st_size == size
            for file, size in files.items()
        )

    return made_once(f"{_CACHE}/{name[:32]}", make, is_whole)
