"""Where a base comes from: a model hub, a folder in diffusers' layout or a single file, on a disk or in an S3 store.

Whatever it is, `opened` gives a local folder in diffusers' layout with fp32 safetensors, made or fetched once per node.
diffusers and transformers map such files into memory: the processes of a node share the pages.
"""

import hashlib
import logging
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError, safe_open

from siamdiff import storage, transfer
from siamdiff.data.cache import made_once
from siamdiff.errors import SiamdiffError, UserError

log = logging.getLogger(__name__)

TINY = "tiny"
INFO = "siamdiff.json"
PARTS = ("vae", "unet", "text_encoder", "tokenizer", "scheduler")
FILES = (".safetensors", ".ckpt", ".pth", ".pt")  # single files
KINDS = (
    "a hub id such as stable-diffusion-v1-5/stable-diffusion-v1-5, a folder in diffusers' layout (local or s3://), "
    "a Stable Diffusion 1.x file (.safetensors, .ckpt, .pth, .pt), or 'tiny'"
)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LISTING = ".listing.json"  # hidden, so no part of a folder's digest


def normalize(base: str) -> str:
    """The canonical form of a base: 'tiny', a hub id as it is, else an absolute path or URI.

    What lies at a local path goes before a hub id of the same spelling.

    Raises:
        UserError: neither a path nor a URI that can be used.
    """
    if base == TINY:
        return base
    if is_hub_id(base) and not Path(base).expanduser().exists():
        return base
    return storage.normalize(base)


def is_single_file(base: str) -> bool:
    """Whether a normalized base is a file of weights, by its suffix."""
    return base.lower().endswith(FILES) and not is_hub_id(base)


def resolved(base: str) -> str:
    """A normalized base that names its content: a hub id with the commit that it stands for now.

    Raises:
        UserError: the hub has no such model, or cannot be reached and the model is not in this machine's cache.
    """
    if not is_hub_id(base):
        return base
    repository, _, revision = base.partition("@")
    if _COMMIT.fullmatch(revision):
        return base
    from huggingface_hub import hf_hub_download

    with _hub_explained(base):
        index = hf_hub_download(repository, "model_index.json", revision=revision or None)
    return f"{repository}@{Path(index).parent.name}"


def identity(base: str) -> str:
    """What a normalized, resolved base holds: commit, or hash of the content (in a store: of names, sizes, versions).

    Raises:
        UserError: nothing lies there.
    """
    if is_hub_id(base):
        return base
    path = storage.local_path(base)
    if path is None:
        return f"versions {_digest(_versions(base))}"
    with _readable(base):
        if path.is_file():
            return f"sha256 {storage.file_sha256(path)}"
        files = [file for part in PARTS for file in files_of(path / part)]
        _require(base, bool(files))
        hashes = [[str(file.relative_to(path)), storage.file_sha256(file)] for file in files]
    return f"sha256 {_digest(hashes)}"


@contextmanager
def opened(base: str, supplied: str | None = None) -> Iterator[Path]:
    """A local folder with the five parts of a base, in diffusers' layout, fp32 safetensors, while the block runs.

    Args:
        base: normalized; a hub id best resolved, so that every node takes the same commit.
        supplied: normalized folder or hub id that supplies whole parts which the base lacks.

    Raises:
        UserError: nothing lies there, it is not whole, it is a pickle with code, the hub cannot be reached.
    """
    extra = local_folder(supplied) if supplied else None
    if is_single_file(base):
        yield _unpacked(base, extra)
        return
    folder = local_folder(base)
    places = {}
    for part in PARTS:
        place = folder / part
        if not place.is_dir() and extra and (extra / part).is_dir():
            place = extra / part
        if place.is_dir():
            places[part] = safe_part(place)
    if all(place.parent == folder for place in places.values()):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="siamdiff-base-") as temporary:
        joined = Path(temporary)
        for part, place in places.items():
            (joined / part).symlink_to(place)
        if (folder / INFO).is_file():
            (joined / INFO).symlink_to(folder / INFO)
        yield joined


def local_folder(base: str) -> Path:
    """The local folder of a normalized base that is not a single file, as it is, fetched once per node.

    Raises:
        UserError: nothing lies there, or the hub cannot be reached.
    """
    if is_hub_id(base):
        return _from_hub(base)
    if is_single_file(base):
        raise UserError(
            f"{base} is a single file; whole parts come from a folder in diffusers' layout, or from a hub id"
        )
    path = storage.local_path(base)
    if path is None:
        return _from_store(base)
    with _readable(base):
        _require(base, path.exists())
    if not path.is_dir():
        raise UserError(f"base {base} is a file of another kind than {', '.join(FILES)}; give {KINDS}")
    return path


def safe_part(part: Path) -> Path:
    """A part of a base itself; where its weights are pickles or not fp32, the node's copy that can be mapped as it is.

    Raises:
        UserError: code in a pickle.
    """
    files = files_of(part)
    if all(_is_mappable(file) for file in files if file.suffix in (".bin", ".safetensors")):
        return part
    from siamdiff.model.base import convert_part

    name = _digest([_stamp(file) for file in files])[:32]

    def make(folder: Path) -> None:
        convert_part(part, folder / part.name)
        _listed(folder)

    return made_once(f"bases/{name}", make, _is_whole) / part.name


def _is_mappable(weights: Path) -> bool:
    if weights.suffix == ".bin":
        return False
    try:
        with safe_open(weights, framework="numpy") as tensors:
            return {tensors.get_slice(name).get_dtype() for name in tensors.keys()} <= {"F32", "I64"}  # noqa: SIM118
    except SafetensorError:
        return True  # damaged: loading it will say so


def is_hub_id(base: str) -> bool:
    """Whether a text has the form OWNER/NAME or OWNER/NAME@REVISION, and is no file by its suffix."""
    return bool(_HUB_ID.fullmatch(base)) and not base.lower().endswith(FILES)


def _require(base: str, there: bool) -> None:
    if not there:
        raise UserError(f"no base at {base}; give {KINDS}, with --model.base")


@contextmanager
def _readable(base: str) -> Iterator[None]:
    """Tells in one line what this user may not read: folders of another's home, files of a mode too strict."""
    try:
        yield
    except PermissionError as error:
        raise UserError(
            f"base {base}: no permission to read {error.filename}; have it made readable, or give {KINDS}"
        ) from error


def _from_hub(base: str) -> Path:
    """The snapshot in the hub's cache, downloaded by diffusers where it is not there (locked: once per node)."""
    from huggingface_hub import is_offline_mode

    repository, _, revision = resolved(base).partition("@")
    with _hub_explained(base):
        folder = _pipeline().download(
            repository,
            revision=revision,
            local_files_only=is_offline_mode(),
            safety_checker=None,
            feature_extractor=None,
            image_encoder=None,
        )
    return Path(folder)


def _pipeline() -> Any:
    """diffusers' class, imported without transformers' advice to install torchvision, which nothing here needs."""
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        from diffusers import StableDiffusionPipeline
    finally:
        transformers_logging.set_verbosity(level)
    return StableDiffusionPipeline


@contextmanager
def _hub_explained(base: str) -> Iterator[None]:
    """Turns what the hub's client raises into one line that says what to do."""
    from huggingface_hub import errors

    unreachable = (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)
    try:
        yield
    except errors.GatedRepoError as error:
        raise UserError(
            f"base {base}: the hub wants its licence accepted, on the model's page, and a token; set HF_TOKEN to yours"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"base {base}: the hub has no such model, or only for others' tokens; give {KINDS}"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(
            f"base {base}: the model has no such revision; give a branch, a tag or a commit"
        ) from error
    except unreachable as error:
        raise _offline(base) from error
    except errors.EntryNotFoundError as error:
        raise UserError(
            f"base {base} is not in diffusers' layout (no model_index.json); download its single file and give that"
        ) from error
    except errors.HFValidationError as error:
        raise UserError(f"base {base} is no hub id; give {KINDS}") from error
    except errors.HfHubHTTPError as error:
        raise SiamdiffError(
            f"base {base}: the hub failed ({' '.join(str(error).split())[:200]}); try again"
        ) from error
    except (OSError, ValueError) as error:
        if isinstance(error.__cause__, unreachable):  # diffusers wraps them
            raise _offline(base) from error
        raise UserError(
            f"base {base} cannot be fetched ({' '.join(str(error).split())[:200]}); free some space for HF_HOME, or "
            "give a folder"
        ) from error


def _offline(base: str) -> UserError:
    from huggingface_hub import constants

    repository = base.partition("@")[0]
    in_cache = f"models--{repository.replace('/', '--')}"
    return UserError(
        f"no folder {base} here, and as a hub id it is not whole in this machine's cache ({constants.HF_HUB_CACHE}) "
        'while the hub cannot be reached; where there is a network run python -c "from diffusers import '
        f"DiffusionPipeline as P; print(P.download('{repository}'))\", then copy {in_cache} from its "
        "cache into this one, or the folder it prints to any place for --model.base"
    )


def _from_store(uri: str) -> Path:
    name = f"bases/{_digest([uri, _versions(uri)])[:32]}"
    return made_once(name, lambda folder: _listed(folder, transfer.download_folder(uri, folder)), _is_whole)


def _unpacked(base: str, extra: Path | None) -> Path:
    """The node's folder made of a single file; fp32, so that its processes share it whatever the file's precision."""
    from siamdiff.model.single_file import read_checkpoint

    path = storage.local_path(base)
    versions: Any = _versions(base) if path is None else _stamp(path)
    parts = [_stamp(file) for part in PARTS for file in files_of(extra / part)] if extra else None

    def make(folder: Path) -> None:
        folder.mkdir()
        download = folder / f".download{Path(base).suffix}"
        if path is None:
            storage.download_file(base, download)
        checkpoint = read_checkpoint(path or download, extra)
        if checkpoint.controlnet:
            log.info("base %s: its control network is left out, training starts a new one", base)
        checkpoint.save(folder)
        download.unlink(missing_ok=True)
        _listed(folder)

    return made_once(f"bases/{_digest([base, versions, parts])[:32]}", make, _is_whole)


def files_of(part: Path) -> list[Path]:
    """The files of a part that count: not variants (`x.fp16.safetensors`), nor pickles beside safetensors.

    Raises:
        UserError: a link to a text outside, which would go on into every model.
    """
    files = sorted(file for file in part.rglob("*") if file.is_file() and not file.name.startswith("."))
    _check_links(part, files)
    weights = [file for file in files if re.fullmatch(r"[^.]+\.safetensors", file.name)]
    weights = weights or [file for file in files if re.fullmatch(r"[^.]+\.bin", file.name)]
    return [file for file in files if file.suffix in (".json", ".txt") or file in weights]


def _check_links(part: Path, files: list[Path]) -> None:
    """Refuses links that lead out of the base, but for those of the hub's cache to its blobs."""
    links = [file for file in files if file.is_symlink() and file.suffix in (".json", ".txt")]
    if not links:
        return
    base = part.resolve().parent
    places = [base] + ([base.parents[1] / "blobs"] if base.parent.name == "snapshots" else [])
    for link in links:
        if not any(link.resolve().is_relative_to(place) for place in places):
            raise UserError(f"{link} is a link that leads out of its base; put the file itself there")


def _versions(uri: str) -> dict[str, str]:
    """Size and ETag of each object under (or at) the URI of a store."""
    fs, path = storage.filesystem(uri)
    if is_single_file(uri):
        _require(uri, storage.exists(uri))
        found: Any = {path: fs.info(path)}
    else:
        _require(uri, bool(storage.list_files(uri)))
        found = cast(Any, fs.find(path, detail=True))  # a dictionary, with detail
    return {name.removeprefix(path): f"{info['size']} {info.get('ETag')}" for name, info in found.items()}


def _stamp(path: Path) -> list[Any]:
    """What changes when a local file does."""
    with _readable(str(path)):
        _require(str(path), path.is_file())
        path.open("rb").close()
    status = path.resolve().stat()
    return [str(path.resolve()), status.st_size, status.st_mtime_ns]


def _listed(folder: Path, _: None = None) -> None:
    """Notes what a finished folder holds, so that a damaged copy is noticed."""
    storage.write_json(str(folder / _LISTING), storage.list_files(str(folder)))


def _is_whole(folder: Path) -> bool:
    try:
        expected = storage.read_json(str(folder / _LISTING))
    except (FileNotFoundError, SiamdiffError):
        return False
    found = storage.list_files(str(folder))
    return all(found.get(name) == size for name, size in expected.items())


def _digest(value: Any) -> str:
    return hashlib.sha256(storage.canonical_json(value)).hexdigest()
