"""The frozen half of a base: from images and prompts to what the training step takes."""

from functools import lru_cache

import numpy as np
import torch

from siamdiff.data.latents import LatentCache
from siamdiff.data.stream import Batch
from siamdiff.model.base import Base, decode_latents, encode_moments, encode_prompts, sample_latent
from siamdiff.model.siamese import StepInputs

# Moments kept in main memory, per process. Beyond it images are encoded again at each use.
MOMENT_BYTES = 1 << 30
# Prompts whose states are kept on the device, the last used ones: 120 MB at Stable Diffusion 1.5's size.
TEXT_STATES = 512


class FrozenEncoders:
    """VAE and text encoder on a device, or the cache of what they give; then they stay on the CPU and do not run.

    Without a cache each input is encoded once while the memory allows. Images are encoded one by one: the last bits of
    a convolution's result depend on the batch it ran in, and resuming or another number of workers must change nothing.

    Args:
        base: its VAE and text encoder are taken over.
        device: of what comes out.
        cache: of this base's VAE and text encoder, and of the set that batches are of (siamdiff.training.caching).
    """

    def __init__(self, base: Base, device: torch.device, cache: LatentCache | None = None) -> None:
        self.base = base
        self.device = device
        self.cache = cache
        networks: list[torch.nn.Module] = [base.vae, base.text_encoder]
        for network in networks:
            network.eval().requires_grad_(False)
            if cache is None:
                network.to(device)
        self._states = lru_cache(maxsize=TEXT_STATES)(self._read_text if cache else self._encode_text)
        self._moments: dict[str, torch.Tensor] = {}
        self._bytes = 0

    def inputs(self, batch: Batch) -> StepInputs:
        """A batch as the training step takes it, on the device.

        Raises:
            SiamdiffError: the cache holds not all of it.
        """
        image = signed_images(batch.image.to(self.device, non_blocking=True))  # (B, 3, H, W)
        mask = batch.mask.to(self.device, non_blocking=True)[:, None].expand(-1, 3, -1, -1) > 127
        moments = torch.stack([self._moments_of(key, image[i]) for i, key in enumerate(batch.keys)])
        mean, logvar = moments.to(self.device).unbind(dim=1)  # each (B, 4, h, w)
        z_0 = sample_latent(
            mean, logvar, batch.posterior_noise.to(self.device), self.base.vae.config["scaling_factor"]
        )
        return StepInputs(
            z_0=z_0,
            noise=batch.noise.to(self.device, non_blocking=True),
            t=batch.t.to(self.device, non_blocking=True),
            text=torch.cat([self.text(prompt) for prompt in batch.prompts]),
            image=(image + 1) / 2,
            mask=mask.float(),
            weight=None if batch.weight is None else batch.weight.to(self.device, non_blocking=True),
        )

    def text(self, prompt: str) -> torch.Tensor:
        """States of one prompt, (1, L, D), on the device.

        Raises:
            SiamdiffError: the cache does not hold it.
        """
        return self._states(prompt)

    def decode(self, z_0: torch.Tensor) -> np.ndarray:
        """Images, uint8 (B, H, W, 3), of latents (B, 4, H/8, W/8); brings the VAE's decoder to the device."""
        vae = self.base.vae
        for part in (vae.post_quant_conv, vae.decoder):
            if part is not None:
                part.to(self.device)
        return decode_latents(vae, z_0)

    def _read_text(self, prompt: str) -> torch.Tensor:
        assert self.cache
        return torch.from_numpy(self.cache.text(prompt))[None].to(self.device)

    def _encode_text(self, prompt: str) -> torch.Tensor:
        return encode_prompts(self.base.tokenizer, self.base.text_encoder, [prompt])

    def _moments_of(self, key: str, image: torch.Tensor) -> torch.Tensor:
        """Mean and log-variance of one image (3, H, W), (2, 4, h, w), on the CPU."""
        if self.cache:
            return torch.from_numpy(self.cache.moments(key))
        if key in self._moments:
            return self._moments[key]
        moments = image_moments(self.base, image)
        size = moments.numel() * moments.element_size()
        if self._bytes + size <= MOMENT_BYTES:
            self._moments[key] = moments
            self._bytes += size
        return moments


def image_moments(base: Base, image: torch.Tensor) -> torch.Tensor:
    """Mean and log-variance of the posterior, (2, 4, H/8, W/8) on the CPU, of one image (3, H, W) in [-1, 1]."""
    return torch.cat(encode_moments(base.vae, image[None])).cpu()


def signed_images(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W) in [-1, 1], on the pixels' device, whose division has its own bits."""
    return pixels.permute(0, 3, 1, 2).contiguous().float() / 255 * 2 - 1
