"""One training step written straightforwardly: what `siamdiff` is measured against, never what it runs.

Every pass that the formulas write is made in full, in the order in which the authors' code makes them: VAE and text
encoder at each step, two passes of the whole UNet, the mask's controls computed again for the mix by a deep copy of
the ControlNet, a deep copy of the UNet for the image branch, and Online-Augmentation on the whole batch. The optimizer
is the one that `siamdiff` has, so that only the step differs. Equation numbers are the paper's.
"""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from siamdiff.data.stream import Batch
from siamdiff.model.base import Base
from siamdiff.model.siamese import SiameseDiffusion


class NaiveStep:
    """The straightforward loss of the networks of `model`, on a base's VAE and text encoder.

    Args:
        base: its VAE and text encoder are run at every step.
        model: UNet and ControlNet, which learn.
        n_steps: N.
    """

    def __init__(self, base: Base, model: SiameseDiffusion, n_steps: int) -> None:
        self.base, self.model, self.n_steps = base, model, n_steps

    def loss(self, batch: Batch, tokens: Tensor, k: int) -> Tensor:
        """L of optimizer step `k` (Eq. 6).

        Args:
            batch: B samples.
            tokens: (B, 77), the prompts' tokens.
            k: optimizer steps finished, from 0.
        """
        image = batch.image.permute(0, 3, 1, 2).float() / 255  # (B, 3, H, W) in [0, 1]
        mask = (batch.mask > 127).float()[:, None].repeat(1, 3, 1, 1)  # (B, 3, H, W)
        text, z_0 = encode_frozen(self.base, image, batch.posterior_noise, tokens)
        t, eps = batch.t, batch.noise
        unet, controlnet = self.model.unet, self.model.controlnet
        abar = self.model.alphas_cumprod.to(z_0.device)[t].reshape(-1, 1, 1, 1)
        z_t = abar.sqrt() * z_0 + (1 - abar).sqrt() * eps  # Eq. 1

        down_m, middle_m = controlnet(z_t, t, text, mask, return_dict=False)
        eps_m = predict(unet, z_t, t, text, down_m, middle_m)
        down_i, middle_i = controlnet(z_t, t, text, image, return_dict=False)
        with torch.no_grad():
            down_sg, middle_sg = deepcopy(controlnet)(z_t, t, text, mask, return_dict=False)
        w_i = k / self.n_steps
        down_mix = [w_i * c_i + c_m for c_i, c_m in zip(down_i, down_sg, strict=True)]  # Eq. 5
        eps_mix = predict(deepcopy(unet), z_t, t, text, down_mix, w_i * middle_i + middle_sg)

        L = _error(eps_m, eps).mean() + _error(eps_mix, eps).mean()  # Eq. 7, 8
        L = L + _error(eps_m, eps_mix.detach()).mean()  # Eq. 9
        if k > self.n_steps / 3:
            z_0_prime = (z_t - (1 - abar).sqrt() * eps_mix.detach()) / abar.sqrt()  # Eq. 11
            z_t_prime = abar.sqrt() * z_0_prime + (1 - abar).sqrt() * eps
            down, middle = controlnet(z_t_prime, t, text, mask, return_dict=False)
            eps_prime = predict(unet, z_t_prime, t, text, down, middle)
            L = L + ((t <= 200).float() * _error(eps_prime, eps)).mean()  # Eq. 12, 13
        return L


@torch.no_grad()
def encode_frozen(
    base: Base, image: Tensor, posterior_noise: Tensor, tokens: Tensor
) -> tuple[Tensor, Tensor]:
    """Text states (B, 77, D), and latents (B, 4, h, w) sampled from the posterior of images (B, 3, H, W) in [0, 1]."""
    vae: Any = base.vae
    posterior = vae.encode(image * 2 - 1).latent_dist
    z_0 = (posterior.mean + posterior.std * posterior_noise) * vae.config["scaling_factor"]
    return base.text_encoder(tokens).last_hidden_state, z_0


def predict(unet: Any, z: Tensor, t: Tensor, text: Tensor, down: Any, middle: Tensor) -> Tensor:
    """The noise (B, 4, h, w) that the whole UNet predicts under a ControlNet's maps."""
    return unet(
        z,
        t,
        text,
        down_block_additional_residuals=tuple(down),
        mid_block_additional_residual=middle,
        return_dict=False,
    )[0]


def _error(a: Tensor, b: Tensor) -> Tensor:
    return ((a - b) ** 2).mean(dim=(1, 2, 3))
