"""Arithmetic and memory of one training step and of sampling, counted on the meta device."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from siamdiff.estimate.architecture import Architecture
from siamdiff.estimate.meter import Meter
from siamdiff.model.siamese import StepInputs
from siamdiff.sampling.sampler import sample
from siamdiff.sampling.schedulers import ddim_scheduler
from siamdiff.training.losses import LossWeights


@dataclass(frozen=True)
class Count:
    """What a pass takes."""

    flops: int
    peak: int  # bytes of activations, and of the gradients of weights that are on their way


_COUNTED: dict[tuple[object, ...], Count] = {}  # by this process


def train_step(
    architecture: Architecture,
    weights: LossWeights,
    resolution: int,
    batch: int,
    *,
    checkpointing: bool = False,
) -> Count:
    """Forward and backward pass of `batch` samples. Online-Augmentation, where it is on, takes all of them.

    Counted once in a process: it takes seconds, and its runs and reckonings are often of the same networks.

    Gradients of weights are dropped as soon as they are complete, so that `peak` holds what is there beside them.

    Args:
        architecture: of the trained module, whose precision it has.
        weights: which losses are on.
        resolution: side of the images in pixels.
        batch: samples in one pass.
        checkpointing: whether activations are recomputed in the backward pass.
    """
    dtype = next(architecture.model.parameters()).dtype
    key = architecture.description, dtype, weights, resolution, batch, checkpointing
    if key not in _COUNTED or not architecture.description:
        _COUNTED[key] = _train_step(architecture, weights, resolution, batch, checkpointing)
    return _COUNTED[key]


def _train_step(
    architecture: Architecture, weights: LossWeights, resolution: int, batch: int, checkpointing: bool
) -> Count:
    model = architecture.model.train()
    for network in (model.unet, model.control):
        if checkpointing and getattr(network, "_supports_gradient_checkpointing", False):
            network.enable_gradient_checkpointing()
    inputs = StepInputs(**_shapes(architecture, resolution, batch), **_empty(t=(batch,), dtype=torch.long))
    active = {"active": torch.empty(batch, dtype=torch.long, device="meta")} if weights.augment else {}
    tensors = [value for value in vars(inputs).values() if value is not None]
    given = [*model.parameters(), *model.buffers(), *tensors, *active.values()]
    with _gradients_dropped(model), Meter(given) as meter:
        loss, _ = model(inputs, weights, **active)
        loss.backward()
    return Count(meter.flops, meter.peak)


@torch.no_grad()
def sample_latents(
    architecture: Architecture,
    resolution: int,
    batch: int,
    steps: int,
    guidance: float,
    *,
    with_image: bool = False,
) -> Count:
    """Sampling of `batch` latents, from masks or from masks and images.

    All steps cost the same, so that two counts tell of any number of them.
    """
    model = architecture.model.eval()
    shapes = _shapes(architecture, resolution, batch)
    mask, text, x_T = shapes["mask"], shapes["text"], shapes["z_0"]
    image = shapes["image"] if with_image else None
    given = [*model.parameters(), *model.buffers(), *shapes.values()]

    def counted(num_steps: int) -> Count:
        with Meter(given) as meter:
            sample(
                *(model.unet, model.control, ddim_scheduler(), mask, text, text, x_T, num_steps, guidance),
                image=image,
            )
        return Count(meter.flops, meter.peak)

    one, two = counted(1), counted(2)
    return Count(one.flops + (steps - 1) * (two.flops - one.flops), two.peak)


@torch.no_grad()
def decode(architecture: Architecture, resolution: int, batch: int) -> Count:
    """The VAE's way from `batch` latents to images."""
    vae = architecture.base.vae
    z_0 = _shapes(architecture, resolution, batch)["z_0"]
    with Meter([*vae.parameters(), z_0]) as meter:
        vae.decode(z_0)
    return Count(meter.flops, meter.peak)


@torch.no_grad()
def encode(architecture: Architecture, resolution: int) -> Count:
    """The VAE's way from one image to its moments."""
    vae = architecture.base.vae
    image = _shapes(architecture, resolution, 1)["image"]
    with Meter([*vae.parameters(), image]) as meter:
        vae.encode(image)
    return Count(meter.flops, meter.peak)


def _shapes(architecture: Architecture, resolution: int, batch: int) -> dict[str, Tensor]:
    base, side = architecture.base, resolution // 8
    channels, text = base.vae.config["latent_channels"], base.text_encoder.config
    return _empty(
        z_0=(batch, channels, side, side),
        noise=(batch, channels, side, side),
        text=(batch, text.max_position_embeddings, text.hidden_size),
        image=(batch, 3, resolution, resolution),
        mask=(batch, 3, resolution, resolution),
    )


def _empty(dtype: torch.dtype = torch.float32, **shapes: tuple[int, ...]) -> dict[str, Any]:
    return {name: torch.empty(shape, dtype=dtype, device="meta") for name, shape in shapes.items()}


@contextmanager
def _gradients_dropped(model: nn.Module) -> Iterator[None]:
    def drop(parameter: Tensor) -> None:
        parameter.grad = None

    hooks = [p.register_post_accumulate_grad_hook(drop) for p in model.parameters() if p.requires_grad]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
