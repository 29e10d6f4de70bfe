"""The forward process and its inversions: equations of the paper as pure functions.

Shapes: z_0, z_t, noise, eps (B, 4, h, w); t (B,) integers in [0, 999]; alphas_cumprod (1000,), "abar" in the paper.
"""

import torch
from torch import Tensor

# Stable Diffusion 1.5's schedule, in the names of diffusers' schedulers.
SD15_SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
}


def abar(alphas_cumprod: Tensor, t: Tensor, like: Tensor) -> Tensor:
    """abar_t of each sample, shaped (B, 1, 1, 1), on the device and in the dtype of `like`."""
    return alphas_cumprod.to(like.device)[t].to(like.dtype)[:, None, None, None]


def q_sample(z_0: Tensor, noise: Tensor, t: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """Eq. 1: z_t = sqrt(abar_t) z_0 + sqrt(1 - abar_t) noise."""
    abar_t = abar(alphas_cumprod, t, z_0)
    return abar_t.sqrt() * z_0 + (1 - abar_t).sqrt() * noise  # (B, 4, h, w)


def predict_z_0(z_t: Tensor, eps: Tensor, t: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """Eq. 11: z_0' = (z_t - sqrt(1 - abar_t) eps) / sqrt(abar_t), the clean latent that `eps` implies."""
    abar_t = abar(alphas_cumprod, t, z_t)
    return (z_t - (1 - abar_t).sqrt() * eps) / abar_t.sqrt()  # (B, 4, h, w)


@torch.no_grad()
def renoise(z_t: Tensor, noise: Tensor, eps: Tensor, t: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """z_t' of Eq. 12: z_0' of Eq. 11 noised again with the same t and noise; it carries no gradient.

    The two steps collapse to z_t' = z_t + sqrt(1 - abar_t) (noise - eps), without the division by sqrt(abar_t).
    """
    abar_t = abar(alphas_cumprod, t, z_t)
    return z_t + (1 - abar_t).sqrt() * (noise - eps)  # (B, 4, h, w)
