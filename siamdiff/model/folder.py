"""A trained model at rest: diffusers' folder layout with `siamdiff.json`, written last, which names its digest."""

import hashlib
import importlib.metadata
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, T2IAdapter, UNet2DConditionModel

from siamdiff import storage, transfer
from siamdiff.config import Config
from siamdiff.data.shardset import ShardSet
from siamdiff.errors import SiamdiffError
from siamdiff.model.about import SCHEDULER, folder_digest, read_info
from siamdiff.model.adapter import AdapterDiffusion
from siamdiff.model.base import Base, load_base, write_model_index
from siamdiff.model.controlnet import SiameseControlNetModel
from siamdiff.model.licences import base_terms
from siamdiff.model.siamese import SiameseDiffusion
from siamdiff.model.sources import INFO, files_of
from siamdiff.sampling.predictor import Control
from siamdiff.sampling.schedulers import ddim_scheduler
from siamdiff.terms import Terms, combine

FROZEN_PARTS = ("vae", "text_encoder", "tokenizer")


@dataclass(frozen=True)
class LoadedModel:
    """A trained model on a device, ready to sample."""

    unet: UNet2DConditionModel
    control: Control
    base: Base  # its VAE, text encoder, tokenizer and scheduler
    info: dict[str, Any]  # siamdiff.json

    @property
    def vae(self) -> AutoencoderKL:
        """The VAE of the base."""
        return self.base.vae


def save_model(
    uri: str,
    base_folder: Path,
    model: SiameseDiffusion | AdapterDiffusion,
    config: Config,
    shard_set: ShardSet,
) -> None:
    """Writes a trained model under `uri`; it counts once its `siamdiff.json` is there.

    Args:
        uri: the model's folder.
        base_folder: local folder of the base, whose frozen parts are taken along.
        model: trained networks on the CPU.
        config: resolved configuration of the run.
        shard_set: what it was trained on.
    """
    manifest = shard_set.manifest
    sources = {"data": Terms(manifest.license, manifest.permitted_use)}
    if of_base := base_terms(config, base_folder):
        sources["base"] = of_base
    info = {
        "data_digest": shard_set.digest,
        "data_uri": shard_set.uri,
        "resolution": manifest.resolution,
        "prompt": config.data.prompt,
        "demo": manifest.demo,
        **combine(sources.values()).as_dict(),
        "terms": {name: terms.as_dict() for name, terms in sources.items()},
        "settings_digest": hashlib.sha256(storage.canonical_json(config.pinned())).hexdigest(),
        "train": config.train.model_dump(mode="json"),
    }
    write_model(uri, base_folder, model, info)


def write_model(
    uri: str, base_folder: Path, model: SiameseDiffusion | AdapterDiffusion, info: dict[str, Any]
) -> None:
    """Writes networks and the frozen parts of their base under `uri`, `siamdiff.json` last.

    Args:
        uri: the model's folder.
        base_folder: local folder with vae, text_encoder, tokenizer and scheduler.
        model: networks on the CPU.
        info: content of `siamdiff.json`; the model's digest, its kind of control and the versions are added.
    """
    with tempfile.TemporaryDirectory(prefix="siamdiff-model-") as temporary:
        folder = Path(temporary)
        for part in FROZEN_PARTS:
            for file in files_of(base_folder / part):
                copy = folder / file.relative_to(base_folder)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
        # DDIM as we sample, whichever sampler the base came with: what a diffusers pipeline takes unasked.
        schedule = json.loads((base_folder / "scheduler" / SCHEDULER).read_text())
        ddim_scheduler(schedule).save_pretrained(folder / "scheduler")
        model.unet.save_pretrained(folder / "unet")
        kind = _write_control(folder, model.control)
        versions = {name: importlib.metadata.version(name) for name in ("siamdiff", "torch", "diffusers")}
        info = {"model_digest": folder_digest(folder), "control": kind} | info | {"versions": versions}
        transfer.upload_folder(uri, folder)
    storage.write_json(storage.join(uri, INFO), info)


def _write_control(folder: Path, control: Control) -> str:
    """Writes the control network and the index of the pipeline that it belongs to; returns its `model.control`."""
    if isinstance(control, T2IAdapter):
        control.save_pretrained(folder / "adapter")
        write_model_index(
            folder, "StableDiffusionAdapterPipeline", adapter=("diffusers", T2IAdapter.__name__)
        )
        return "t2i-adapter"
    control.save_pretrained(folder / "controlnet")
    component = (SiameseControlNetModel.__module__, SiameseControlNetModel.__name__)
    write_model_index(folder, "StableDiffusionControlNetPipeline", controlnet=component)
    return "plain" if control.config["hint_channels"] is None else "dhi"


def load_model(uri: str, device: torch.device | str = "cpu") -> LoadedModel:
    """Loads a trained model for sampling and checks that it is the one its `siamdiff.json` names.

    Raises:
        UserError: no complete model lies under `uri`.
        SiamdiffError: its files are not those that were written.
    """
    info = read_info(uri)
    with transfer.local_copy(uri) as folder:
        if folder_digest(folder) != info["model_digest"]:
            raise SiamdiffError(
                f"the model at {uri} is damaged: its files differ from the digest in {INFO}; train again"
            )
        base = load_base(str(folder))
        adapted = (folder / "adapter").is_dir()
        kind, part = (T2IAdapter, "adapter") if adapted else (SiameseControlNetModel, "controlnet")
        control = kind.from_pretrained(folder / part, local_files_only=True)
    assert isinstance(control, SiameseControlNetModel | T2IAdapter)
    networks: list[torch.nn.Module] = [base.unet, control, base.vae, base.text_encoder]
    for network in networks:
        network.to(device).eval().requires_grad_(False)
    return LoadedModel(base.unet, control, base, info)
