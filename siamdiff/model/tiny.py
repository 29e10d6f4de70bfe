"""The tiny base: a Stable Diffusion of the smallest size, made from a data set in minutes on two CPU cores.

It has the parts, the folder layout and the noise schedule of Stable Diffusion 1.5 (posterior-sampled 8x VAE with four
latent channels, text-conditional UNet pretrained without control), so that everything built on a base works with no
download. The text encoder keeps its random weights: a fixed embedding of the bytes is enough for a prompt or none.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from siamdiff.model.base import INFO, encode_moments, encode_prompts, sample_latent, write_model_index
from siamdiff.model.diffusion import q_sample
from siamdiff.model.sd1 import TOKENS, clip_tokenizer, make_scheduler

HINT_CHANNELS = (
    4,
    8,
    16,
    32,
    64,
)  # a quarter of the paper's: at full resolution those cost more than all the rest

VAE_CHANNELS = (16, 16, 64, 64)  # narrow where the image is large
VAE_BATCH = 8
VAE_RATE = 2e-3
VAE_CROP = 64  # larger images are learned from crops, so that the time does not grow with the resolution
KL_WEIGHT = 1e-6  # Stable Diffusion's

UNET_CHANNELS = (64, 128)
UNET_BATCH = 32
UNET_RATE = 2e-3
TEXT_WIDTH = 64

PROMPT_DROP = 0.05

PROGRESS_STEPS = 50

Progress = Callable[[str, int, int, float], None]


def make_tiny_base(
    images: np.ndarray,
    resolution: int,
    seed: int,
    folder: Path,
    *,
    vae_steps: int,
    unet_steps: int,
    prompt: str,
    progress: Progress | None = None,
) -> None:
    """Trains a tiny base and writes it in diffusers' layout; `siamdiff.json`, with its provenance, comes last.

    The result depends on the arguments, the number of threads and the machine only. PyTorch's global random state is
    left as it was.

    Args:
        images: uint8 (N, resolution, resolution, 3), RGB; a few hundred are enough.
        resolution: side in pixels, a multiple of 8.
        seed: of the weights and of both trainings.
        folder: local folder, created where it is missing.
        vae_steps, unet_steps: optimizer steps, at least 1.
        prompt: the text every image is paired with; left out for 5% of the samples.
        progress: called with part ("vae" or "unet"), step, steps and loss, every 50 steps and at the end.

    Raises:
        ValueError: `images` is not of the shape and type above.
    """
    if images.shape[1:] != (resolution, resolution, 3) or images.dtype != np.uint8 or resolution % 8:
        raise ValueError(
            f"images are {images.dtype} {images.shape}, need uint8 (N, {resolution}, {resolution}, 3)"
        )
    report = progress or (lambda part, step, steps, loss: None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = _train_vae(images, vae_steps, report)
        mean, logvar = _moments(vae, images)
        std = sample_latent(mean, logvar, torch.randn_like(mean), 1.0).std().item()
        vae.register_to_config(
            scaling_factor=1.0 / std
        )  # latents of unit variance, as the noise schedule expects
        tokenizer, text_encoder = make_tokenizer(), make_text_encoder()
        texts = encode_prompts(tokenizer, text_encoder, [prompt, ""])  # (2, 77, D)
        unet = _train_unet(mean / std, logvar - 2.0 * np.log(std), texts, resolution // 8, unet_steps, report)

    vae.save_pretrained(folder / "vae")
    unet.save_pretrained(folder / "unet")
    text_encoder.save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    make_scheduler().save_pretrained(folder / "scheduler")
    write_model_index(folder, "StableDiffusionPipeline")
    info = {
        "hint_channels": HINT_CHANNELS,
        "images_digest": hashlib.sha256(images.tobytes()).hexdigest(),
        "images": len(images),
        "resolution": resolution,
        "seed": seed,
        "vae_steps": vae_steps,
        "unet_steps": unet_steps,
        "prompt": prompt,
        "versions": {
            name: importlib.metadata.version(name) for name in ("torch", "diffusers", "transformers")
        },
    }
    (folder / INFO).write_text(json.dumps(info, indent=2) + "\n")


def make_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer with single bytes for its vocabulary and no merges: any text, no download."""
    return clip_tokenizer([])


def make_text_encoder() -> CLIPTextModel:
    """The frozen embedding of prompts, with random weights."""
    config = CLIPTextConfig(
        vocab_size=514,
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        bos_token_id=512,
        eos_token_id=513,
        pad_token_id=513,
    )
    return CLIPTextModel(config).eval().requires_grad_(False)


def make_vae(resolution: int) -> AutoencoderKL:
    """The autoencoder with random weights, for square images of `resolution` pixels."""
    widths: dict[str, Any] = {  # diffusers annotates these as tuples of one
        "down_block_types": ("DownEncoderBlock2D",) * len(VAE_CHANNELS),
        "up_block_types": ("UpDecoderBlock2D",) * len(VAE_CHANNELS),
        "block_out_channels": VAE_CHANNELS,
    }
    return AutoencoderKL(
        **widths,
        latent_channels=4,
        norm_num_groups=1,  # with few channels, more groups would normalise brightness and hue away
        sample_size=resolution,
        mid_block_add_attention=False,  # convolutions only: what crops teach holds for whole images
    )


def make_unet(sample_size: int) -> UNet2DConditionModel:
    """The UNet with random weights, for latents of `sample_size` cells a side."""
    return UNet2DConditionModel(
        sample_size=sample_size,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=UNET_CHANNELS,
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=8,
    )


def _train_vae(images: np.ndarray, steps: int, report: Progress) -> AutoencoderKL:
    """Fits the autoencoder to the images and their mirror images; returns it in eval mode."""
    vae = make_vae(images.shape[1])
    _start_near_linear(vae)
    vae.to(memory_format=torch.channels_last)
    fit = _Fit(vae, VAE_RATE, steps)
    for step in range(steps):
        x = _crops(images, VAE_BATCH)  # (B, 3, h, w)
        with _autocast():
            posterior = vae.encode(x).latent_dist
            reconstruction = vae.decode(posterior.sample()).sample
        error = reconstruction.float() - x
        loss = error.abs().mean() + error.square().mean() + KL_WEIGHT * posterior.kl().mean()
        fit.step(loss)
        _tell(report, "vae", step, steps, loss)
    return vae.to(memory_format=torch.contiguous_format).eval()


def _start_near_linear(vae: AutoencoderKL) -> None:
    """Starts with faint residual branches and a posterior of small variance: it then learns faster.

    With the usual start at variance 1 the decoder first has to learn from noise.
    """
    with torch.no_grad():
        for name, parameter in vae.named_parameters():
            if ".conv2." in name:
                parameter *= 0.1
        assert vae.quant_conv is not None and vae.quant_conv.bias is not None
        vae.quant_conv.weight[4:] *= 0.1
        vae.quant_conv.bias[4:] = -6.0


def _crops(images: np.ndarray, batch: int) -> Tensor:
    """Random images, (batch, 3, side, side) in [-1, 1], cropped to VAE_CROP pixels and mirrored at random."""
    side = min(VAE_CROP, images.shape[1])
    room = images.shape[1] - side + 1
    crops = []
    for index, top, left in torch.stack(
        [torch.randint(high, (batch,)) for high in (len(images), room, room)], 1
    ).tolist():
        crops.append(images[index, top : top + side, left : left + side])
    x = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    for axis in (2, 3):
        flipped = torch.rand(batch) < 0.5
        x = torch.where(flipped[:, None, None, None], x.flip(axis), x)
    return x.contiguous(memory_format=torch.channels_last)


def _moments(vae: AutoencoderKL, images: np.ndarray) -> tuple[Tensor, Tensor]:
    """Posterior mean and log variance of all images and their mirror images, each (2N, 4, h, w)."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2)
    parts = [
        encode_moments(vae, (batch if direction == 1 else batch.flip(3)).float() / 127.5 - 1.0)
        for direction in (1, -1)
        for batch in x.split(32)
    ]
    mean, logvar = zip(*parts, strict=True)
    return torch.cat(mean), torch.cat(logvar)


def _train_unet(
    mean: Tensor, logvar: Tensor, texts: Tensor, sample_size: int, steps: int, report: Progress
) -> UNet2DConditionModel:
    """Fits the UNet without control to latents of unit variance; returns it in eval mode.

    Args:
        mean, logvar: (N, 4, h, w), posterior moments of the scaled latents.
        texts: (2, 77, D), states of the prompt and of the empty prompt.
        sample_size: h, for the configuration.
        steps: optimizer steps.
        report: told of progress.
    """
    unet = make_unet(sample_size)
    alphas_cumprod = make_scheduler().alphas_cumprod
    fit = _Fit(unet, UNET_RATE, steps)
    for step in range(steps):
        index = torch.randint(len(mean), (UNET_BATCH,))
        z_0 = sample_latent(mean[index], logvar[index], torch.randn(UNET_BATCH, *mean.shape[1:]), 1.0)
        noise = torch.randn_like(z_0)
        t = torch.randint(len(alphas_cumprod), (UNET_BATCH,))
        text = texts[(torch.rand(UNET_BATCH) < PROMPT_DROP).long()]  # (B, 77, D)
        z_t = q_sample(z_0, noise, t, alphas_cumprod)
        loss = F.mse_loss(unet(z_t, t, text).sample, noise)  # in fp32: on latents this small bf16 is slower
        fit.step(loss)
        _tell(report, "unet", step, steps, loss)
    return unet.eval()


class _Fit:
    """AdamW under a one-cycle learning rate, with clipped gradients."""

    def __init__(self, network: nn.Module, rate: float, steps: int) -> None:
        self.parameters = list(network.parameters())
        network.train()
        self.optimizer = torch.optim.AdamW(self.parameters, lr=rate, betas=(0.9, 0.99), fused=True)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, rate, total_steps=steps + 1, pct_start=0.15, final_div_factor=100.0
        )

    def step(self, loss: Tensor) -> None:
        """One update against `loss`."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.schedule.step()


def _autocast() -> torch.autocast:
    """For the VAE, bf16 where the processor computes in it (1.4 times as fast); elsewhere it would be emulated."""
    abilities = torch.cpu.get_capabilities()
    return torch.autocast("cpu", torch.bfloat16, enabled=bool(abilities.get("avx512_bf16")))


def _tell(report: Progress, part: str, step: int, steps: int, loss: Tensor) -> None:
    if (step + 1) % PROGRESS_STEPS == 0 or step + 1 == steps:
        report(part, step + 1, steps, loss.item())
