"""Stable Diffusion 1.5 with its widths divided: every ratio between its parts kept, small enough for a CPU."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from siamdiff.data.stream import Batch
from siamdiff.model.base import INFO, Base, write_model_index
from siamdiff.model.controlnet import SiameseControlNetModel
from siamdiff.model.dhi import HINT_CHANNELS
from siamdiff.model.sd1 import TOKENS, make_scheduler, make_tokenizer, network_config
from siamdiff.model.siamese import SiameseDiffusion

TIMESTEPS = 1000
PROMPT = "an endoscopy image with a polyp"


def make_base(divisor: int) -> Base:
    """Untrained networks with the layers of Stable Diffusion 1.5, 1 / `divisor` as wide, on the default device."""
    vae, unet, text = (network_config(part) for part in ("vae", "unet", "text_encoder"))
    for config in (vae, unet):
        config["block_out_channels"] = [width // divisor for width in config["block_out_channels"]]
    unet["cross_attention_dim"] //= divisor
    # groups of as many channels as in the original
    vae["norm_num_groups"] = unet["norm_num_groups"] = 32 // divisor
    for size in ("hidden_size", "intermediate_size", "projection_dim"):
        text[size] //= divisor
    return Base(
        vae=AutoencoderKL(**vae).eval().requires_grad_(False),
        unet=UNet2DConditionModel(**unet),
        text_encoder=CLIPTextModel(CLIPTextConfig(**text)).eval().requires_grad_(False),
        tokenizer=make_tokenizer(),
        scheduler=make_scheduler(),
        folder=Path(),
        hint_channels=tuple(width // divisor for width in HINT_CHANNELS),
    )


def make_model(base: Base) -> SiameseDiffusion:
    """The trained networks of a base; the zero convolutions are not zero, so that every product is a real one."""
    controlnet = SiameseControlNetModel.from_unet(base.unet, hint_channels=base.hint_channels)
    with torch.no_grad():
        for p in controlnet.parameters():
            if not p.is_meta and not p.any():
                p.normal_(std=0.02)
    return SiameseDiffusion(base.unet, controlnet, base.scheduler.alphas_cumprod).train()


def make_batch(size: int, resolution: int, seed: int = 0) -> Batch:
    """`size` random samples on the CPU, their timesteps spread evenly: a fifth of them at most 200."""
    generator = torch.Generator(device="cpu").manual_seed(seed)
    side = resolution // 8

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(size, *shape, generator=generator, device="cpu")

    def pixels(*shape: int) -> torch.Tensor:
        return torch.randint(256, (size, *shape), generator=generator, dtype=torch.uint8, device="cpu")

    return Batch(
        positions=list(range(size)),
        keys=[str(i) for i in range(size)],
        prompts=[PROMPT] * size,
        image=pixels(resolution, resolution, 3),
        mask=(pixels(resolution, resolution) > 127).to(torch.uint8) * 255,
        t=((torch.arange(size, device="cpu") + 0.5) * TIMESTEPS / size).long(),
        noise=normal(4, side, side),
        posterior_noise=normal(4, side, side),
    )


def tokens_of(base: Base, prompts: list[str]) -> torch.Tensor:
    """(B, 77) tokens of prompts, padded."""
    made: Any = base.tokenizer(
        prompts, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
    )
    return made["input_ids"]


def save_base(base: Base, folder: Path) -> None:
    """Writes a base as `model.base` takes it, in diffusers' layout."""
    for part in ("vae", "unet", "text_encoder", "tokenizer", "scheduler"):
        getattr(base, part).save_pretrained(folder / part)
    write_model_index(folder, "StableDiffusionPipeline")
    (folder / INFO).write_text(json.dumps({"hint_channels": base.hint_channels}))
