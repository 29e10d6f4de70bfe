"""DDIM sampling (eta = 0) of Mask-Diffusion, or guided by image and mask, with classifier-free guidance.

Shapes: x_T, z_0 (B, 4, h, w); mask (B, 3, H, W) in {0, 1} with H = 8h; text, uncond (B, L, D).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor

from siamdiff.model.diffusion import SD15_SCHEDULE
from siamdiff.sampling.predictor import Control, predictor

# Timesteps 981, 961, ..., 1 for 50 steps, the last one stepping to abar_0: the released code's DDIM.
RELEASED_DDIM = {
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
}


def ddim_scheduler(config: Mapping[str, Any] = SD15_SCHEDULE) -> DDIMScheduler:
    """The sampler's scheduler for a base's noise schedule, given as the configuration of any diffusers scheduler."""
    return DDIMScheduler.from_config(dict(config), **RELEASED_DDIM)  # pyright: ignore[reportReturnType]


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
    scheduler: DDIMScheduler,
    mask: Tensor,
    text: Tensor,
    uncond: Tensor,
    x_T: Tensor,
    num_steps: int = 50,
    guidance: float = 9.0,
    image: Tensor | None = None,
    image_weight: float = 1.0,
) -> Tensor:
    """Latents z_0 for masks.

    Hints are encoded once for all steps and both branches. The unconditional branch has the empty prompt and the same
    hints; it shares a batch of 2B with the conditional one, and is left out at guidance 1.

    Args:
        unet, control: the trained pair; their device is the tensors' device, their dtype may be lower.
        scheduler: from `ddim_scheduler`; its timesteps are set here.
        mask: (B, 3, H, W) in {0, 1}.
        text, uncond: (B, L, D), states of the prompt and of the empty prompt; uncond may also be (1, L, D).
        x_T: (B, 4, h, w), initial noise; its dtype is that of the trajectory.
        num_steps: number of DDIM steps.
        guidance: scale of classifier-free guidance.
        image, image_weight: see `predictor`; by default the masks alone guide, as in the paper.

    Returns:
        z_0 (B, 4, h, w), still multiplied by the VAE's scaling factor.
    """
    guided = guidance != 1.0
    predict = predictor(unet, control, mask, 2 if guided else 1, image, image_weight)
    if guided:
        text = torch.cat([uncond.expand_as(text), text])  # (2B, L, D)
    scheduler.set_timesteps(num_steps)
    z_t = x_T
    for t in scheduler.timesteps.tolist():
        z_in = torch.cat([z_t, z_t]) if guided else z_t  # (2B, 4, h, w)
        eps = predict(z_in, torch.full((len(z_in),), t, device=z_t.device), text)
        if guided:
            eps_uncond, eps_text = eps.chunk(2)
            eps = eps_uncond + guidance * (eps_text - eps_uncond)  # (B, 4, h, w)
        z_t = scheduler.step(eps, t, z_t, eta=0.0, return_dict=False)[0]  # (B, 4, h, w)
    return z_t
