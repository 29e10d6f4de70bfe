"""Between the authors' single file and our folders: the body of `python -m siamdiff convert`."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from siamdiff import storage
from siamdiff.errors import UserError
from siamdiff.model.base import load_base
from siamdiff.model.controlnet import SiameseControlNetModel
from siamdiff.model.folder import load_model, write_model
from siamdiff.model.siamese import SiameseDiffusion
from siamdiff.model.single_file import Checkpoint, authors_state, read_checkpoint
from siamdiff.model.sources import FILES, INFO, is_single_file, local_folder, normalize
from siamdiff.model.weights import SAFE, some
from siamdiff.terms import UNKNOWN

_TERMS = ("license", "permitted_use")


def import_file(source: str, target: str, supplied: str | None, about: dict[str, Any]) -> str:
    """Makes a folder of a single file: a model where the file holds a control network, else a base.

    Args:
        source: the file, of Stable Diffusion 1.x or the authors', local or s3://.
        target: URI of the folder.
        supplied: folder in diffusers' layout, or hub id, with the parts that the file lacks and, where they are not
            Stable Diffusion 1.x's, the configurations of all.
        about: resolution of a model, license and permitted_use of a model or base.

    Returns:
        One line on what lies at `target` now.

    Raises:
        UserError: the file is not one, or not whole; `target` holds something else.
    """
    if about["resolution"] % 8 or about["resolution"] < 16:
        raise UserError(f"--resolution is {about['resolution']}; must be a multiple of 8, at least 16")
    extra = local_folder(normalize(supplied)) if supplied else None
    with tempfile.TemporaryDirectory(prefix="siamdiff-convert-") as temporary:
        work = Path(temporary)
        file = storage.local_path(source) or work / storage.name_of(source)
        try:
            if storage.local_path(source) is None:
                storage.download_file(source, file)
            digest = storage.file_sha256(file)
        except FileNotFoundError:
            raise UserError(f"{source} does not exist; give a file ({', '.join(FILES)})") from None
        except (IsADirectoryError, PermissionError) as error:
            raise UserError(
                f"{source} cannot be read ({error.strerror}); give a file ({', '.join(FILES)})"
            ) from error
        checkpoint = read_checkpoint(file, extra)
        folder = work / "base"
        checkpoint.save(folder)
        kind = "base"
        if checkpoint.controlnet:
            kind = "model"
            origin = {"imported_from": {"file": storage.name_of(source), "sha256": digest}}
            _write_model(work / kind, folder, checkpoint, about | origin)
        else:
            load_base(str(folder), source)  # refuses what does not fit together
            if given := {name: about[name] for name in _TERMS if about[name] != UNKNOWN}:
                storage.write_json(str(folder / INFO), given)
        written = _publish(work / kind, target)
    return f"{kind} {target}: {f'{written} files written' if written else 'already there'}"


def export_model(source: str, target: str) -> str:
    """Writes a model as the authors' single file, with every name that their loader expects.

    Args:
        source: URI of a model folder.
        target: URI of the file; its suffix tells safetensors or PyTorch's pickle.

    Returns:
        One line on what lies at `target` now.

    Raises:
        UserError: no model, or one that the format has no place for; `target` is something else.
    """
    if not is_single_file(target):
        raise UserError(f"a model is exported to a file, {target} is none: end it in {' or '.join(FILES)}")
    model = load_model(source)
    if not isinstance(model.control, SiameseControlNetModel):
        raise UserError(
            f"the model at {source} has a T2I-Adapter; the authors' format has a place for ControlNet only"
        )
    networks = {
        "unet": model.unet,
        "controlnet": model.control,
        "vae": model.vae,
        "text_encoder": model.base.text_encoder,
    }
    state = authors_state(networks, model.base.scheduler)
    with tempfile.TemporaryDirectory(prefix="siamdiff-convert-") as temporary:
        file = Path(temporary) / storage.name_of(target)
        if file.suffix.lower() == SAFE:
            save_file(state, file, metadata={"format": "pt"})
        else:
            torch.save(state, file)
        if storage.exists(target):
            if _sha256(target) != storage.file_sha256(file):
                raise UserError(f"{target} exists and holds something else; delete it or give another TARGET")
            return f"file {target}: already there"
        storage.upload_file(target, file)
    return f"file {target}: {len(state)} tensors written"


def _write_model(folder: Path, base_folder: Path, checkpoint: Checkpoint, about: dict[str, Any]) -> None:
    """A model folder as training writes it; what only training knows is null."""
    base = load_base(str(base_folder), str(checkpoint.path))
    assert checkpoint.controlnet
    model = SiameseDiffusion(base.unet, checkpoint.controlnet, base.scheduler.alphas_cumprod)
    unknown = dict.fromkeys(("data_digest", "data_uri", "settings_digest", "train"))
    write_model(str(folder), base_folder, model, unknown | {"prompt": "", "demo": False} | about)


def _publish(folder: Path, target: str) -> int:
    """Copies a folder to a place that is empty or holds some of the same files; returns how many it lacked."""
    ours, theirs = storage.list_files(str(folder)), storage.list_files(target)
    foreign = [
        name
        for name, size in theirs.items()
        if ours.get(name) != size or _sha256(storage.join(target, name)) != storage.file_sha256(folder / name)
    ]
    if foreign:
        raise UserError(
            f"{target} exists and holds something else ({some(foreign)}); delete it or give another TARGET"
        )
    lacking = [name for name in ours if name not in theirs]
    for name in sorted(lacking, key=lambda name: name == INFO):  # last what declares a model complete
        storage.upload_file(storage.join(target, name), folder / name)
    return len(lacking)


def _sha256(uri: str) -> str:
    path = storage.local_path(uri)
    if path is not None:
        return storage.file_sha256(path)
    with tempfile.TemporaryDirectory(prefix="siamdiff-compare-") as temporary:
        storage.download_file(uri, Path(temporary) / "file")
        return storage.file_sha256(Path(temporary) / "file")
