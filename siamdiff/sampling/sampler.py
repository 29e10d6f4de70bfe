"""Sampling of Mask-Diffusion, or guided by image and mask, with classifier-free guidance: DDIM or another scheduler.

Shapes: x_T, z_0 (B, 4, h, w); mask (B, 3, H, W) in {0, 1} with H = 8h; text, uncond (B, L, D).
"""

import inspect
from typing import Any

import numpy as np
import torch
from diffusers import SchedulerMixin, UNet2DConditionModel
from torch import Generator, Tensor

from siamdiff.sampling.predictor import Control, predictor
from siamdiff.sampling.text import projected_once


def initial_noise(seed: int, shape: tuple[int, ...]) -> Tensor:
    """x_T of one sample: standard normal, fp32, on the CPU, a function of `seed` alone (any integer from 0 up).

    One generator per sample keeps a sample the same in any batch, on any worker. PCG64, since PyTorch's CPU
    generator looks at 32 bits of the seed only.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    return torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))


@torch.no_grad()
def sample(
    unet: UNet2DConditionModel,
    control: Control,
    scheduler: SchedulerMixin,
    mask: Tensor,
    text: Tensor,
    uncond: Tensor,
    x_T: Tensor,
    num_steps: int = 50,
    guidance: float = 9.0,
    image: Tensor | None = None,
    image_weight: float = 1.0,
    generators: list[Generator] | None = None,
) -> Tensor:
    """Latents z_0 for masks.

    Hints are encoded, and texts projected to keys and values, once for all steps. The unconditional branch has the
    empty prompt and the same hints; it shares a batch of 2B with the conditional one, and is left out at guidance 1.

    Args:
        unet, control: the trained pair; their device is the tensors' device, their dtype may be lower.
        scheduler: see siamdiff.sampling.schedulers; its timesteps are set here, which also clears what it remembers.
        mask: (B, 3, H, W) in {0, 1}.
        text, uncond: (B, L, D), states of the prompt and of the empty prompt; uncond may also be (1, L, D).
        x_T: (B, 4, h, w), initial noise; its dtype is that of the trajectory.
        num_steps: of the scheduler; those of second order (Heun, KDPM2) pass the networks twice in most.
        guidance: scale of classifier-free guidance.
        image, image_weight: see `predictor`; by default the masks alone guide, as in the paper.
        generators: one per sample, of the noise that stochastic schedulers add in each step; others draw none.

    Returns:
        z_0 (B, 4, h, w), still multiplied by the VAE's scaling factor.
    """
    guided = guidance != 1.0
    if guided:
        text = torch.cat([uncond.expand_as(text), text])  # (2B, L, D)
    predict = predictor(unet, control, mask, text, image, image_weight)
    steps: Any = scheduler  # what its kinds have in common is no class of diffusers
    steps.set_timesteps(num_steps)
    options = {"generator": generators} if "generator" in inspect.signature(steps.step).parameters else {}
    on_device = steps.timesteps.to(x_T.device)  # at once: one by one each would wait for the device
    z_t = x_T * steps.init_noise_sigma
    with projected_once(unet, control):
        for t, network_t in zip(steps.timesteps, on_device, strict=True):
            z_in = steps.scale_model_input(z_t, t)
            z_in = torch.cat([z_in, z_in]) if guided else z_in  # (2B, 4, h, w)
            eps = predict(z_in, network_t.expand(len(z_in)))
            if guided:
                eps_uncond, eps_text = eps.chunk(2)
                eps = eps_uncond + guidance * (eps_text - eps_uncond)  # (B, 4, h, w)
            z_t = steps.step(eps, t, z_t, **options, return_dict=False)[0]  # (B, 4, h, w)
    return z_t
