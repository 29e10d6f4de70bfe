"""A tiny Stable Diffusion 1.x of random weights, made by plain diffusers, as folder and as the authors' single file."""

import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from siamdiff.model.controlnet import SiameseControlNetModel
from siamdiff.model.diffusion import SD15_SCHEDULE
from siamdiff.model.sd1 import clip_tokenizer, make_scheduler
from siamdiff.model.single_file import authors_state
from siamdiff.storage import file_sha256

UNET: dict[str, Any] = {
    "sample_size": 4,
    "block_out_channels": (16, 32),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 16,
    "attention_head_dim": 4,
}
VAE: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (4, 4, 8, 8),
    "norm_num_groups": 2,
    "latent_channels": 4,
}
TEXT: dict[str, Any] = {
    "vocab_size": 514,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 77,
    "bos_token_id": 512,
    "eos_token_id": 513,
    "pad_token_id": 513,
}
DHI = (4, 4, 8, 8, 16)


def networks(text: dict[str, Any] | None = None, **unet: Any) -> dict[str, Any]:
    """unet, vae and text_encoder, random throughout; options of the text encoder and the UNet may be given."""
    torch.manual_seed(0)
    found = {
        "unet": UNet2DConditionModel(**(UNET | unet)),
        "vae": AutoencoderKL(**VAE),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**(TEXT | (text or {})))),
    }
    return {part: randomised(network) for part, network in found.items()}


def control(
    unet: UNet2DConditionModel, hint_channels: tuple[int, ...] | None = DHI
) -> SiameseControlNetModel:
    """A ControlNet whose zero convolutions are not zero."""
    return randomised(SiameseControlNetModel.from_unet(unet, hint_channels=hint_channels))


def randomised(network: Any) -> Any:
    """The network with every parameter drawn anew, so that no two are equal."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    return network.eval()


def save_folder(folder: Path, parts: dict[str, Any], **options: Any) -> Path:
    """What a user of plain diffusers has: a pipeline's save_pretrained, with Stable Diffusion's own PNDM scheduler."""
    scheduler = PNDMScheduler(**SD15_SCHEDULE, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1)
    others: Any = {
        "tokenizer": clip_tokenizer([]),
        "scheduler": scheduler,
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }
    pipeline = StableDiffusionPipeline(**parts, **others)
    pipeline.save_pretrained(folder, **options)
    return folder


def ldm_state(parts: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Every tensor of the networks in the authors' format."""
    return authors_state(parts, make_scheduler())


def fill_hub_cache(cache: Path, saved: Path, hub_id: str, commit: str) -> Path:
    """What a download of a folder from a model hub leaves in the hub's cache; returns the snapshot."""
    model = cache / f"models--{hub_id.replace('/', '--')}"
    snapshot = model / "snapshots" / commit
    for file in sorted(file for file in saved.rglob("*") if file.is_file()):
        blob = model / "blobs" / file_sha256(file)
        blob.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, blob)
        link = snapshot / file.relative_to(saved)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    (model / "refs").mkdir(exist_ok=True)
    (model / "refs" / "main").write_text(commit)
    return snapshot
