"""Previews of a training run: the same masks from the same noise each time, so that progress is what differs.

Some are shown; all of them are compared with real images of other samples, in the feature space of a network.
"""

import io
import logging
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from siamdiff import storage
from siamdiff.config import Config
from siamdiff.data.sample import Sample
from siamdiff.data.shardset import ShardSet
from siamdiff.data.stream import image_tensor
from siamdiff.evaluation.distances import mmd_linear
from siamdiff.evaluation.features import EfficientNetLite0
from siamdiff.sampling.sampler import initial_noise, sample
from siamdiff.sampling.schedulers import ddim_scheduler
from siamdiff.training.context import Context
from siamdiff.training.encoders import FrozenEncoders
from siamdiff.training.inference import BATCH, Pass, TrainedModel, inference, passes
from siamdiff.training.strip import Strip, sheet_uri

log = logging.getLogger(__name__)

COUNT = BATCH  # masks that are shown: those of rank 0's first pass
MAX_STEPS = 20  # a preview shows whether a run learns; fewer steps than the final images take do for that
DISTANCE = f"preview_mmd_linear_{EfficientNetLite0.spec.label}"  # siamdiff.evaluation.distances.MMD
FLOOR = f"{DISTANCE}_floor"


def distance_sets(keys: list[str], count: int) -> tuple[list[str], list[str]]:
    """Samples whose masks are sampled for the distance, and the others, of equal count, whose images are the real set.

    Args:
        keys: of the samples to take them from, in the order of preference.
        count: wanted in each of the two; fewer where there are fewer than twice as many keys.

    Returns:
        two lists without a common key; empty where they would have fewer than the two that the distance needs.
    """
    count = min(count, len(keys) // 2)
    return (keys[:count], keys[count : 2 * count]) if count >= 2 else ([], [])


@dataclass(frozen=True)
class _Masks:
    """The samples of one pass."""

    turn: Pass
    samples: list[Sample]


class Previews:
    """Masks of the val split, then of train: what the model makes of them, and how far that is from real images.

    Args:
        config: resolved configuration; `train.preview_samples` and the steps and guidance of `generate` are read.
        shard_set: the set that is trained on. Samples are read at the first preview, and kept.
        encoders: text encoder and VAE.
        context: this worker's place.
    """

    def __init__(
        self, config: Config, shard_set: ShardSet, encoders: FrozenEncoders, context: Context
    ) -> None:
        self.config, self.shard_set, self.encoders, self.context = config, shard_set, encoders, context
        keys = shard_set.keys("val") + shard_set.keys("train")
        sampled, self.reference = distance_sets(keys, config.train.preview_samples)
        self.keys = keys[: max(len(sampled), COUNT)]
        self.scheduler = ddim_scheduler(encoders.base.scheduler.config)
        self._masks: list[_Masks] = []
        self._network: EfficientNetLite0 | None = None
        self._real: np.ndarray | None = None  # features (n, D) of the reference
        self._floor: dict[str, float] = {}
        self._strip: Strip | None = None

    def draw(self, model: TrainedModel, step: int) -> dict[str, float]:
        """Samples all masks; rank 0 writes `previews/step-N.png` and `previews/strip.png`.

        Called on every worker.

        Args:
            model: the trained module itself.
            step: optimizer steps finished.

        Returns:
            The same on every worker: DISTANCE, the unbiased squared MMD between the samples and as many real images of
            others, at times slightly below 0; FLOOR, the same for the real images of the sampled masks, hence what a
            perfect model would give. Nothing with `train.preview_samples` 0, or in a set of fewer than four samples.

        Raises:
            SiamdiffError: a shard is missing or damaged.
        """
        if not self._masks:
            self._read()
        latents = [self._latents(model, masks) for masks in self._masks]
        images = [self._decode(z_0) for z_0 in latents]
        if self.context.rank == 0:
            self._show(images[0], step)
        if self._real is None:
            return {}
        features = self._gathered([masks.turn for masks in self._masks], images)
        return {DISTANCE: mmd_linear(features[: len(self._real)], self._real)} | self._floor

    def _read(self) -> None:
        """Reads this worker's share of everything, and takes the features of what is real."""
        turns = passes(len(self.keys), self.context)
        self._masks = [
            _Masks(turn, [self.shard_set.read(self.keys[i]) for i in turn.positions]) for turn in turns
        ]
        if not self.reference:
            return
        self._network = EfficientNetLite0(str(self.context.device))
        own = self._gathered(turns, [np.stack([s.image for s in masks.samples]) for masks in self._masks])
        others = passes(len(self.reference), self.context)
        self._real = self._gathered(others, [self._images(self.reference, turn) for turn in others])
        floor = mmd_linear(own[: len(self._real)], self._real)
        self._floor = {FLOOR: floor}
        if self.context.rank == 0:
            log.info(
                "previews: real against real images, %d of each, gives %s %.4f",
                len(self._real),
                DISTANCE,
                floor,
            )

    def _images(self, keys: list[str], turn: Pass) -> np.ndarray:
        return np.stack([self.shard_set.read(keys[i]).image for i in turn.positions])

    def _gathered(self, turns: list[Pass], images: list[np.ndarray]) -> np.ndarray:
        """Features (n, D) of the images of all workers' passes, in the order of their positions."""
        assert self._network
        mine = {
            i: row
            for turn, batch in zip(turns, images, strict=True)
            if turn.counts
            for i, row in zip(turn.positions, self._network(batch), strict=True)
        }
        everyone = {i: row for part in self.context.gather(mine) for i, row in part.items()}
        return np.stack([everyone[i] for i in sorted(everyone)])

    def _latents(self, model: TrainedModel, masks: _Masks) -> Tensor:
        """z_0 (B, 4, h, w) for the masks of a pass."""
        base, device, settings = self.encoders.base, self.context.device, self.config.generate
        pixels = [image_tensor(_rgb(s.mask)) for s in masks.samples]
        mask = (torch.stack(pixels) > 0.5).float().to(device)  # (B, 3, H, W)
        shape = (base.vae.config["latent_channels"], mask.shape[2] // 8, mask.shape[3] // 8)
        x_T = torch.stack([initial_noise(i, shape) for i in masks.turn.positions]).to(device)
        text = torch.cat([self.encoders.text(s.meta.prompt) for s in masks.samples])
        uncond = self.encoders.text("")
        with inference(model, self.config):
            return sample(
                model.unet,
                model.control,
                self.scheduler,
                mask,
                text,
                uncond,
                x_T,
                min(settings.steps, MAX_STEPS),
                settings.guidance,
            )

    def _decode(self, z_0: Tensor) -> np.ndarray:
        """Images uint8 (B, H, W, 3), one at a time: the decoder's activations are larger than the UNet's."""
        return np.concatenate([self.encoders.decode(z_0[i : i + 1]) for i in range(len(z_0))])

    def _show(self, images: np.ndarray, step: int) -> None:
        samples = self._masks[0].samples
        real, masks = np.stack([s.image for s in samples]), np.stack([_rgb(s.mask) for s in samples])
        run_uri = self.config.run_uri()
        self._strip = self._strip or Strip(run_uri, real, masks)
        storage.write_bytes(sheet_uri(run_uri, step), sheet(real, masks, images))
        self._strip.add(step, images)


def sheet(real: np.ndarray, masks: np.ndarray, samples: np.ndarray) -> bytes:
    """A PNG with a column per mask: real image, mask, sample; each uint8 (count, H, H, 3)."""
    rows = [np.concatenate(list(images), axis=1) for images in (real, masks, samples)]
    stream = io.BytesIO()
    Image.fromarray(np.concatenate(rows)).save(stream, "PNG")
    return stream.getvalue()


def _rgb(mask: np.ndarray) -> np.ndarray:
    return mask[..., None].repeat(3, axis=2)
