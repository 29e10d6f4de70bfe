"""The samples of one planned shard: masks read and transformed, then images sampled for them in fixed batches.

Two steps, so that a cluster can put them on different machines: `read_conditions` needs the mask set and a processor,
`ShardSampler` the model and, better, a GPU. What comes out is a function of the plan; see `made_by` for what the last
bits depend on beside it.
"""

import importlib.metadata
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from siamdiff.data.sample import EncodedSample, Synthetic, content_key, decode_mask, make_sample
from siamdiff.data.shardset import ShardSet
from siamdiff.data.transforms import transform_mask
from siamdiff.errors import SiamdiffError
from siamdiff.model.base import decode_latents, encode_prompts
from siamdiff.model.folder import LoadedModel
from siamdiff.sampling.ddim import ddim_scheduler, initial_noise, sample
from siamdiff.sampling.plan import Plan, ShardPlan, child_seed, sample_seed


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What one synthetic sample is made from."""

    parent: str  # key of the sample whose mask is used
    fold: int
    prompt: str
    split: str
    group: str
    seed: int
    transform: dict[str, Any]
    mask: np.ndarray  # uint8 (H, W) in {0, 255}, transformed


def read_conditions(masks: ShardSet, plan: Plan, shard: ShardPlan) -> list[Condition]:
    """The masks of a planned shard, read from the mask set and transformed where the fold asks for it, in order."""
    conditions = []
    for key in shard.mask_keys:
        parent = masks.read_encoded(key)
        mask, transform = decode_mask(parent.mask), {}
        seed = sample_seed(plan.settings.seed, shard.fold, key)
        if shard.mask_kind == "random":
            generator = np.random.Generator(np.random.PCG64(child_seed(seed, "transform")))
            mask, transform = transform_mask(mask, plan.settings.transforms, generator)
        conditions.append(
            Condition(
                parent=key,
                fold=shard.fold,
                prompt=parent.meta.prompt,
                split=parent.meta.split,  # a test mask stays one, so that a leak can be seen
                group=parent.meta.group,
                seed=seed,
                transform=transform,
                mask=mask,
            )
        )
    return conditions


class ShardSampler:
    """A model on a device, and the plan it samples for.

    Args:
        model: trained networks; their device is where sampling runs.
        plan: settings of sampling.

    Raises:
        SiamdiffError: the plan is for another model.
    """

    def __init__(self, model: LoadedModel, plan: Plan) -> None:
        if model.info["model_digest"] != plan.model:
            raise SiamdiffError(
                "the model was replaced while the job ran; run the same command again for a new set"
            )
        self.model = model
        self.plan = plan
        self.device = model.unet.device
        self.scheduler = ddim_scheduler(model.base.scheduler.config)
        self._texts: dict[str, Tensor] = {}

    def samples(self, conditions: Sequence[Condition]) -> Iterator[EncodedSample]:
        """Synthetic samples for the conditions of one shard, in order; batches are formed by position in it."""
        size = self.plan.settings.batch_size
        for start in range(0, len(conditions), size):
            batch = conditions[start : start + size]
            for condition, image in zip(batch, self._images(batch), strict=True):
                yield self._encode(condition, image)

    def made_by(self) -> dict[str, Any]:
        """What the bytes depend on beside the plan: device, precision, batch shape, threads, versions."""
        settings = self.plan.settings
        on_gpu = self.device.type == "cuda"
        return {
            "device": torch.cuda.get_device_name(self.device) if on_gpu else platform.machine(),
            "instructions": None if on_gpu else torch.backends.cpu.get_cpu_capability(),
            "precision": str(self.model.unet.dtype).removeprefix("torch."),
            "batch": [settings.batch_size, 3, settings.resolution, settings.resolution],
            "threads": None if on_gpu else torch.get_num_threads(),
            "versions": {
                name: importlib.metadata.version(name) for name in ("siamdiff", "torch", "diffusers")
            },
        }

    def _images(self, batch: Sequence[Condition]) -> np.ndarray:
        """Images for a batch, uint8 (B, H, W, 3)."""
        settings, model = self.plan.settings, self.model
        masks = torch.from_numpy(np.stack([condition.mask for condition in batch])).to(self.device)
        hint = (masks > 127).float()[:, None].expand(-1, 3, -1, -1)  # (B, 3, H, W), y0
        side = settings.resolution // 8
        shape = (int(model.unet.config["in_channels"]), side, side)
        noise = [initial_noise(child_seed(condition.seed, "noise"), shape) for condition in batch]
        z_0 = sample(
            model.unet,
            model.controlnet,
            self.scheduler,
            hint,
            torch.cat([self._text(condition.prompt) for condition in batch]),  # (B, L, D)
            self._text(""),
            torch.stack(noise).to(self.device),  # (B, 4, h, w)
            num_steps=settings.steps,
            guidance=settings.guidance,
        )
        return decode_latents(model.vae, z_0)  # (B, H, W, 3)

    def _text(self, prompt: str) -> Tensor:
        """States of one prompt, (1, L, D); encoded alone, so that they are the same in any batch."""
        if prompt not in self._texts:
            self._texts[prompt] = encode_prompts(
                self.model.base.tokenizer, self.model.base.text_encoder, [prompt]
            )
        return self._texts[prompt]

    def _encode(self, condition: Condition, image: np.ndarray) -> EncodedSample:
        settings = self.plan.settings
        mask = condition.mask
        identity = (condition.parent.encode(), str(condition.fold).encode())
        return make_sample(
            image,
            mask,
            prompt=condition.prompt,
            split=condition.split,
            group=condition.group,
            source_size=(mask.shape[1], mask.shape[0]),
            image_format=settings.image_format,
            key=content_key(image.tobytes(), mask.tobytes(), *identity),
            synthetic=Synthetic(
                parent=condition.parent,
                fold=condition.fold,
                transform=condition.transform,
                seed=condition.seed,
                model_digest=self.plan.model,
                sampler={
                    "name": settings.sampler,
                    "steps": settings.steps,
                    "guidance": settings.guidance,
                    "eta": 0.0,
                },
            ),
        )
