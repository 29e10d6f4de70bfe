"""Previews of a training run: the same masks from the same noise each time, so that progress is what differs."""

import io

import numpy as np
import torch
from PIL import Image

from siamdiff.config import Config
from siamdiff.data.shardset import ShardSet
from siamdiff.data.stream import image_tensor
from siamdiff.model.adapter import AdapterDiffusion
from siamdiff.model.base import decode_latents
from siamdiff.model.siamese import SiameseDiffusion
from siamdiff.sampling.ddim import ddim_scheduler, initial_noise, sample
from siamdiff.training.encoders import FrozenEncoders

COUNT = 4
MAX_STEPS = 20  # a preview shows whether a run learns; fewer steps than the final images take do for that


class Previews:
    """Masks of the val split (of train where there is none), above them what the model makes of them."""

    def __init__(self, config: Config, shard_set: ShardSet, encoders: FrozenEncoders) -> None:
        keys = (shard_set.keys("val") or shard_set.keys("train"))[:COUNT]
        self.samples = [shard_set.read(key) for key in keys]
        self.encoders = encoders
        self.steps = min(config.generate.steps, MAX_STEPS)
        self.guidance = config.generate.guidance

    def draw(self, model: SiameseDiffusion | AdapterDiffusion) -> bytes:
        """A PNG with one column per mask: real image, mask, sample."""
        base, device = self.encoders.base, self.encoders.device
        masks = torch.stack([image_tensor(s.mask[..., None].repeat(3, axis=2)) for s in self.samples]).to(
            device
        )
        text = torch.cat([self.encoders.text(s.meta.prompt) for s in self.samples])
        shape = (base.vae.config["latent_channels"], masks.shape[2] // 8, masks.shape[3] // 8)
        x_T = torch.stack([initial_noise(i, shape) for i in range(len(self.samples))]).to(device)
        model.eval()
        z_0 = sample(
            model.unet,
            model.control,
            ddim_scheduler(base.scheduler.config),
            masks,
            text,
            self.encoders.text(""),
            x_T,
            self.steps,
            self.guidance,
        )
        model.train()
        images = decode_latents(base.vae, z_0)  # (B, H, W, 3) uint8
        columns = [
            np.concatenate([s.image, s.mask[..., None].repeat(3, axis=2), image])
            for s, image in zip(self.samples, images, strict=True)
        ]
        buffer = io.BytesIO()
        Image.fromarray(np.concatenate(columns, axis=1)).save(buffer, "PNG")
        return buffer.getvalue()
