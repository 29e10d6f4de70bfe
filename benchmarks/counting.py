"""Operations of the training steps that are compared, counted on the meta device; nothing is computed."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import torch
from diffusers import ControlNetModel
from torch import nn

from benchmarks.naive import NaiveStep
from benchmarks.plain import PlainControlNet, unet_frozen
from benchmarks.reduced import make_base, make_batch, make_model
from siamdiff.data.stream import Batch
from siamdiff.estimate.meter import Meter
from siamdiff.model.base import Base
from siamdiff.model.siamese import SiameseDiffusion, StepInputs
from siamdiff.training.losses import weights_at

N = 3000  # steps of a run
PHASES = {"before N/3": N // 4, "after N/3": N // 2}  # k


@contextmanager
def recomputing(model: SiameseDiffusion, wanted: bool, *, hints: bool = True) -> Iterator[None]:
    """Activation checkpointing of UNet and ControlNet while the block runs.

    Args:
        model: holds both.
        wanted: whether there is any.
        hints: whether Dense Hint Input recomputes, too; the released code's does not.
    """
    networks: list[Any] = [model.unet, model.control]
    if wanted:
        for network in networks:
            network.enable_gradient_checkpointing()
        model.control.controlnet_cond_embedding.gradient_checkpointing = hints
    try:
        yield
    finally:
        if wanted:
            for network in networks:
                network.disable_gradient_checkpointing()


@dataclass(frozen=True)
class Count:
    """What a step takes."""

    flops: int
    peak: int  # bytes of tensors that it makes, gradients of weights among them, alive at once
    held: int  # bytes of weights, all of them, and of AdamW's moments of those that learn


@cache
def count(variant: str, divisor: int, resolution: int, batch: int, k: int, *, checkpointing: bool) -> Count:
    """Operations and memory of one optimizer step, in fp32.

    Args:
        variant: "siamdiff", with latents and text states known; "straightforward" or "controlnet", with VAE and text
            encoder in the step.
        divisor: of Stable Diffusion 1.5's widths.
        resolution: side of the images, pixels.
        batch: samples.
        k: optimizer steps finished, of N.
        checkpointing: whether activations are recomputed.
    """
    base, model, controlnet = _shapes(divisor)
    with torch.device("meta"):
        given = make_batch(batch, resolution)
        active = max(int((given.t <= 200).sum()), 1)
        given = on(given, torch.device("meta"))
        tokens = torch.empty(batch, 77, dtype=torch.long)
        inputs = _inputs(given, base)
        networks: list[nn.Module] = [base.unet, model.control, controlnet]
        for network in networks:
            network.zero_grad(set_to_none=True)
        frozen: list[nn.Module] = [base.vae, base.text_encoder]
        trained = controlnet if variant == "controlnet" else model
        module = nn.ModuleList([base.unet, controlnet] if variant == "controlnet" else [model])
        weights = [p for network in (module, *frozen) for p in network.parameters()]
        held = 4 * sum(p.numel() for p in weights)
        held += 8 * sum(p.numel() for p in trained.parameters() if p.requires_grad)
        with recomputing(model, checkpointing, hints=variant == "siamdiff"), Meter(weights) as meter:
            if variant == "siamdiff":
                loss, _ = model(inputs, weights_at(k, N), torch.empty(active, dtype=torch.long))
                loss.backward()
            elif variant == "straightforward":
                NaiveStep(base, model, N).loss(given, tokens, k).backward()
            else:
                with unet_frozen(base.unet):
                    PlainControlNet(base, controlnet, model.alphas_cumprod).loss(given, tokens).backward()
        for network in networks:
            network.zero_grad(set_to_none=True)
    return Count(meter.flops, meter.peak, held)


@dataclass(frozen=True)
class Largest:
    """The largest batch whose straightforward step is counted to fit a memory."""

    batch: int
    ours: int  # bytes that our step takes with it, recomputing activations as the other does
    theirs: int


def largest_batch(divisor: int, resolution: int, k: int, memory: float) -> Largest:
    """Counted at two batches so large that weights' gradients do not decide, and once more at what these lead to.

    Args:
        divisor, resolution, k: see `count`.
        memory: bytes.
    """

    def taken(variant: str, batch: int) -> int:
        step = count(variant, divisor, resolution, batch, k, checkpointing=True)
        return step.held + step.peak

    few, more = 64, 128
    low, high = (taken("straightforward", batch) for batch in (few, more))
    batch = max(1, math.floor(few + (memory - low) * (more - few) / (high - low)))
    while batch > 1 and taken("straightforward", batch) > memory:
        batch = max(1, math.floor(0.95 * batch))
    return Largest(batch, taken("siamdiff", batch), taken("straightforward", batch))


def on(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device."""
    tensors = {name: value.to(device) for name, value in vars(batch).items() if torch.is_tensor(value)}
    return Batch(batch.positions, batch.keys, batch.prompts, **tensors)


@lru_cache(maxsize=1)
def _shapes(divisor: int) -> tuple[Base, SiameseDiffusion, ControlNetModel]:
    """The networks without storage."""
    with torch.device("meta"):
        base = make_base(divisor)
        return base, make_model(base), ControlNetModel.from_unet(base.unet)


def _inputs(batch: Batch, base: Base) -> StepInputs:
    text = torch.empty(len(batch.keys), 77, base.text_encoder.config.hidden_size)
    hint = torch.empty(len(batch.keys), 3, *batch.mask.shape[1:])
    return StepInputs(z_0=batch.noise, noise=batch.noise, t=batch.t, text=text, image=hint, mask=hint)
