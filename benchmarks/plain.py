"""One training step of a plain ControlNet, as diffusers' example trains it: what a user would run instead.

VAE and text encoder at each step, diffusers' own ControlNet with its own hint encoder, a UNet that is frozen, one loss.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor

from benchmarks.naive import encode_frozen, predict
from siamdiff.data.stream import Batch
from siamdiff.model.base import Base


class PlainControlNet:
    """The loss of a ControlNet on a base.

    Args:
        base: its VAE, text encoder and UNet, none of which learns.
        controlnet: what learns.
        alphas_cumprod: (1000,), on the networks' device.
    """

    def __init__(self, base: Base, controlnet: ControlNetModel, alphas_cumprod: Tensor) -> None:
        self.base, self.controlnet, self.alphas_cumprod = base, controlnet, alphas_cumprod

    def loss(self, batch: Batch, tokens: Tensor) -> Tensor:
        """The mean squared error of the noise.

        Args:
            batch: B samples.
            tokens: (B, 77), the prompts' tokens.
        """
        controlnet: Any = self.controlnet
        image = batch.image.permute(0, 3, 1, 2).float() / 255  # (B, 3, H, W) in [0, 1]
        mask = (batch.mask > 127).float()[:, None].repeat(1, 3, 1, 1)  # (B, 3, H, W)
        text, z_0 = encode_frozen(self.base, image, batch.posterior_noise, tokens)
        t, eps = batch.t, batch.noise
        abar = self.alphas_cumprod.to(z_0.device)[t].reshape(-1, 1, 1, 1)
        z_t = abar.sqrt() * z_0 + (1 - abar).sqrt() * eps
        down, middle = controlnet(z_t, t, text, mask, return_dict=False)
        return ((predict(self.base.unet, z_t, t, text, down, middle) - eps) ** 2).mean()


@contextmanager
def unet_frozen(unet: UNet2DConditionModel) -> Iterator[None]:
    """While the block runs, nothing of the UNet learns; then again what did."""
    learning = [p for p in unet.parameters() if p.requires_grad]
    unet.requires_grad_(False)
    try:
        yield
    finally:
        for p in learning:
            p.requires_grad_(True)
