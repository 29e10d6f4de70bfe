"""The frozen half of a base: from images and prompts to what the training step takes."""

import torch

from siamdiff.data.stream import Batch
from siamdiff.model.base import Base, encode_moments, encode_prompts, sample_latent
from siamdiff.model.siamese import StepInputs

# Moments kept in main memory, per process. Beyond it images are encoded again at each use.
MOMENT_BYTES = 1 << 30


class FrozenEncoders:
    """VAE and text encoder on a device, each input encoded once while the memory allows.

    Images are encoded one by one: the last bits of a convolution's result depend on the batch it ran in, and resuming
    or another number of workers must change nothing.
    """

    def __init__(self, base: Base, device: torch.device) -> None:
        self.base = base
        self.device = device
        networks: list[torch.nn.Module] = [base.vae, base.text_encoder]
        for network in networks:
            network.to(device).eval().requires_grad_(False)
        self._texts: dict[str, torch.Tensor] = {}
        self._moments: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self._bytes = 0

    def inputs(self, batch: Batch) -> StepInputs:
        """A batch as the training step takes it, on the device."""
        image = batch.image.to(self.device, non_blocking=True)
        pairs = [self._encode(key, image[i : i + 1]) for i, key in enumerate(batch.keys)]
        mean, logvar = (torch.cat(part).to(self.device) for part in zip(*pairs, strict=True))
        z_0 = sample_latent(
            mean, logvar, batch.posterior_noise.to(self.device), self.base.vae.config["scaling_factor"]
        )
        return StepInputs(
            z_0=z_0,
            noise=batch.noise.to(self.device, non_blocking=True),
            t=batch.t.to(self.device, non_blocking=True),
            text=torch.cat([self.text(prompt) for prompt in batch.prompts]),
            image=(image + 1) / 2,
            mask=batch.mask.to(self.device, non_blocking=True),
        )

    def text(self, prompt: str) -> torch.Tensor:
        """States of one prompt, (1, L, D)."""
        if prompt not in self._texts:
            self._texts[prompt] = encode_prompts(self.base.tokenizer, self.base.text_encoder, [prompt])
        return self._texts[prompt]

    def _encode(self, key: str, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if key in self._moments:
            return self._moments[key]
        mean, logvar = (moment.cpu() for moment in encode_moments(self.base.vae, image))
        size = 2 * mean.numel() * mean.element_size()
        if self._bytes + size <= MOMENT_BYTES:
            self._moments[key] = mean, logvar
            self._bytes += size
        return mean, logvar
