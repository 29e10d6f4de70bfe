"""The samples of one planned shard: images for its conditions, in batches that the plan fixes.

What comes out is a function of the plan; `ShardSampler.made_by` tells what the last bits depend on beside it.
"""

import importlib.metadata
import logging
import platform
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from siamdiff import __version__
from siamdiff.data.sample import EncodedSample, Synthetic, content_key, decode_image, make_sample
from siamdiff.data.stream import image_tensor
from siamdiff.errors import SiamdiffError
from siamdiff.model.base import decode_levels, encode_prompts
from siamdiff.model.folder import LoadedModel
from siamdiff.sampling.conditions import Condition
from siamdiff.sampling.gates import Gatekeeper, Scores
from siamdiff.sampling.overlap import overlapped
from siamdiff.sampling.plan import Plan, child_seed
from siamdiff.sampling.protocols import Made, Turn
from siamdiff.sampling.sampler import initial_noise, sample
from siamdiff.sampling.schedulers import ddim_scheduler, scheduler_of
from siamdiff.sections.schedulers import DDIM

log = logging.getLogger(__name__)

# Not `to(dtype)`: diffusers' own warns there of modules to keep in fp32, though Stable Diffusion 1.x has none.
CASTS = {"fp32": nn.Module.float, "bf16": nn.Module.bfloat16, "fp16": nn.Module.half}


@dataclass(frozen=True)
class _Batch:
    """A batch that was drawn."""

    conditions: Sequence[Condition]
    images: Tensor  # uint8 (B, H, W, 3), on the device
    scores: list[Scores]


@dataclass
class _Drawn:
    """One draw of a shard."""

    samples: list[EncodedSample] = field(default_factory=list)
    halved: int = 0  # batches that memory did not do for
    largest: int = 0  # images that were drawn at once
    encode_seconds: float = 0.0


class ShardSampler:
    """A model on a device, and the plan it samples for.

    Args:
        model: trained networks in fp32, taken over: sampling runs on their device, and UNet and control are cast to the
            plan's precision.
        plan: settings of sampling.
        keeper: judges every image for the gates of the plan; None keeps all of them.

    Raises:
        SiamdiffError: the plan is for another model.
    """

    def __init__(self, model: LoadedModel, plan: Plan, keeper: Gatekeeper | None = None) -> None:
        if model.info["model_digest"] != plan.model:
            raise SiamdiffError(
                "the model was replaced while the job ran; put it back to go on with this set"
            )
        for network in (model.unet, model.control):
            CASTS[plan.settings.precision](network)
        self.model = model
        self.plan = plan
        self.keeper = keeper
        self.device = model.unet.device
        settings = plan.settings
        self.scheduler = (
            ddim_scheduler(model.base.scheduler.config)
            if settings.sampler == DDIM
            else scheduler_of(settings.scheduler)
        )
        self._texts: dict[str, Tensor] = {}
        self._fits = settings.batch_size  # the largest batch that there is memory for, as far as is known

    def make(self, conditions: Sequence[Condition], turn: Turn = nullcontext) -> Made:
        """Synthetic samples for the conditions of one shard, in order; batches are formed by position in it.

        What the gates reject is drawn again when the shard is through, in batches of its own, and so on up to their
        limit.

        Images are judged where they are drawn; they are encoded in a thread while the next batch is sampled. A batch
        that the device has no memory for is sampled in halves.

        Args:
            conditions: what to draw.
            turn: entered while the device is needed.

        Raises:
            SiamdiffError: there is no memory for a single image.
        """
        drawn = self._once(conditions, turn)
        made, halved, largest, encoding = drawn.samples, drawn.halved, drawn.largest, drawn.encode_seconds
        gates = self.plan.settings.gates
        for draw in range(1, gates.redraws + 1 if gates else 1):
            places = [place for place, one in enumerate(made) if _is_rejected(one)]
            if not places:
                break
            again = self._once([replace(conditions[place], draw=draw) for place in places], turn)
            halved, largest = halved + again.halved, max(largest, again.largest)
            encoding += again.encode_seconds
            for place, sample_again in zip(places, again.samples, strict=True):
                made[place] = sample_again
        return Made(made, self.made_by() | {"halved": halved, "largest_batch": largest}, encoding)

    def _once(self, conditions: Sequence[Condition], turn: Turn) -> _Drawn:
        """One draw for each condition."""
        drawn = _Drawn()

        def batches() -> Generator[_Batch, None, None]:
            size = self.plan.settings.batch_size
            with turn():  # left with the last batch drawn, which is encoded while another shard has its turn
                for start in range(0, len(conditions), size):
                    for number, part in enumerate(self._drawn(conditions[start : start + size])):
                        drawn.halved += number == 1
                        drawn.largest = max(drawn.largest, len(part.conditions))
                        yield part

        with closing(batches()) as given:
            for encoded, seconds in overlapped(given, self._encode_batch):
                drawn.samples += encoded
                drawn.encode_seconds += seconds
        return drawn

    def made_by(self) -> dict[str, Any]:
        """What the bytes depend on beside the plan: device, precision, batch shape, threads, versions.

        For a shard that was made there are also `halved`, the number of batches that memory did not do for, and
        `largest_batch`, what it did for.
        """
        settings = self.plan.settings
        on_gpu = self.device.type == "cuda"
        return {
            "device": torch.cuda.get_device_name(self.device) if on_gpu else platform.machine(),
            "instructions": None if on_gpu else torch.backends.cpu.get_cpu_capability(),
            "precision": str(self.model.unet.dtype).removeprefix("torch."),
            "batch": [settings.batch_size, 3, settings.resolution, settings.resolution],
            "threads": None if on_gpu else torch.get_num_threads(),
            "versions": {
                "siamdiff": __version__,  # also of a checkout that is not installed
                **{name: importlib.metadata.version(name) for name in ("torch", "diffusers")},
            },
        }

    def _drawn(self, batch: Sequence[Condition]) -> Iterator[_Batch]:
        """A planned batch with its images, in the parts that memory does for: halves of halves, the same each time."""
        parts = [batch]
        while parts:
            part = parts.pop(0)
            drawn = self._tried(part) if len(part) <= self._fits else None
            if drawn is not None:
                yield drawn
                continue
            half = -(-len(part) // 2)
            parts[:0] = [part[:half], part[half:]]

    def _tried(self, batch: Sequence[Condition]) -> _Batch | None:
        """A batch drawn, or None where it takes more memory than there is; from then on smaller ones are tried.

        Raises:
            SiamdiffError: it takes too much for a single image.
        """
        try:
            images = self._images(batch)
            return _Batch(batch, images, self._judged(batch, images))
        except torch.OutOfMemoryError as error:
            settings, self._fits = self.plan.settings, -(-len(batch) // 2)
            if len(batch) == 1:
                raise SiamdiffError(
                    f"out of memory with one image of {settings.resolution} pixels a side in {settings.precision}; "
                    "give --generate.precision bf16, or GPUs with more memory"
                ) from error
        torch.cuda.empty_cache()  # only here, where the error no longer holds what the batch had taken
        log.warning("out of memory with a batch of %d: going on with %d", len(batch), self._fits)
        return None

    def _judged(self, batch: Sequence[Condition], images: Tensor) -> list[Scores]:
        """While nothing else has the device: what is judged there takes memory that sampling would miss."""
        if self.keeper is None:
            return [{} for _ in batch]
        return self.keeper(images.cpu().numpy(), np.stack([condition.mask for condition in batch]))

    def _images(self, batch: Sequence[Condition]) -> Tensor:
        """Images for a batch, uint8 (B, H, W, 3), on the device."""
        settings, model = self.plan.settings, self.model
        masks = torch.from_numpy(np.stack([condition.mask for condition in batch])).to(self.device)
        hint = (masks > 127).float()[:, None].expand(-1, 3, -1, -1)  # (B, 3, H, W), y0
        side = settings.resolution // 8
        shape = (int(model.unet.config["in_channels"]), side, side)
        noise = [initial_noise(_seed(condition, "noise"), shape) for condition in batch]
        z_0 = sample(
            model.unet,
            model.control,
            self.scheduler,
            hint,
            torch.cat([self._text(condition.prompt) for condition in batch]),  # (B, L, D)
            self._text(""),
            torch.stack(noise).to(self.device),  # (B, 4, h, w)
            num_steps=settings.steps,
            guidance=settings.guidance,
            image=self._real_images(batch) if settings.guide == "mask+image" else None,
            image_weight=settings.image_weight,
            generators=[_generator(_seed(condition, "steps")) for condition in batch],
        )
        return decode_levels(model.vae, z_0)  # (B, H, W, 3)

    def _real_images(self, batch: Sequence[Condition]) -> Tensor:
        """The real images of the masks, (B, 3, H, W) in [0, 1]."""
        images = []
        for condition in batch:
            assert condition.real is not None, "a plan with this guide reads the real pairs"
            images.append(image_tensor(decode_image(condition.real.image)))
        return torch.stack(images).to(self.device)

    def _text(self, prompt: str) -> Tensor:
        """States of one prompt, (1, L, D); encoded alone, so that they are the same in any batch."""
        if prompt not in self._texts:
            self._texts[prompt] = encode_prompts(
                self.model.base.tokenizer, self.model.base.text_encoder, [prompt]
            )
        return self._texts[prompt]

    def _encode_batch(self, batch: _Batch) -> tuple[list[EncodedSample], float]:
        """The samples of a batch, and the seconds that took once its images were there."""
        judged = zip(batch.conditions, batch.images.cpu().numpy(), batch.scores, strict=True)
        began = time.monotonic()
        encoded = [self._encode(condition, image, scores) for condition, image, scores in judged]
        return encoded, time.monotonic() - began

    def _encode(self, condition: Condition, image: np.ndarray, scores: Scores) -> EncodedSample:
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
                sampler=self._sampler(),
                draw=condition.draw,
                scores=scores,
            ),
        )

    def _sampler(self) -> dict[str, Any]:
        settings = self.plan.settings
        weight = {"image_weight": settings.image_weight} if settings.guide == "mask+image" else {}
        own = {"eta": 0.0} if settings.sampler == DDIM else {"scheduler": settings.scheduler}
        return {
            "name": settings.sampler,
            "steps": settings.steps,
            "guidance": settings.guidance,
            **own,
            "precision": settings.precision,
            "guide": settings.guide,
            **weight,
        }


def _seed(condition: Condition, stream: Literal["noise", "steps"]) -> int:
    return child_seed(condition.seed, stream, condition.draw)


def _is_rejected(sample: EncodedSample) -> bool:
    origin = sample.meta.synthetic
    return isinstance(origin, Synthetic) and bool(origin.rejected)


def _generator(seed: int) -> torch.Generator:
    """A sample's own generator on the CPU, so that what it draws is the same in any batch, on any device."""
    return torch.Generator().manual_seed(seed)
