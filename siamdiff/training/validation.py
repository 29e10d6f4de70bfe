"""The validation loss: L_m (Eq. 7) on the val split under noise and timesteps that stay the same during a run.

It compares steps of one run, and runs of one seed and one set, since they are all asked the same.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from siamdiff.config import Config
from siamdiff.data.shardset import ShardSet
from siamdiff.data.stream import Batch
from siamdiff.model.diffusion import q_sample
from siamdiff.sampling.predictor import predictor
from siamdiff.training.context import Context
from siamdiff.training.encoders import FrozenEncoders
from siamdiff.training.inference import Pass, TrainedModel, inference, passes
from siamdiff.training.losses import squared_error

_STREAM = 0x7A1  # of random numbers under the run's seed; siamdiff.data.stream has others


def timesteps(seed: int, count: int, num_timesteps: int) -> np.ndarray:
    """One timestep for each of `count` samples: one from each of as many equal parts of the schedule, in random order.

    Returns:
        integers (count,) in [0, num_timesteps), a function of the arguments alone.
    """
    rng = np.random.default_rng([seed, _STREAM])
    parts = (rng.permutation(count) + rng.random(count)) / count  # (count,) in [0, 1)
    return np.minimum(parts * num_timesteps, num_timesteps - 1).astype(np.int64)


@dataclass(frozen=True)
class _Encoded:
    """What is kept of the samples of one pass, on the CPU: about 0.2 MB a sample of 384 x 384 pixels."""

    turn: Pass
    prompts: list[str]
    mask: Tensor  # (B, H, W), bool
    z_0: Tensor  # (B, 4, h, w)
    noise: Tensor  # (B, 4, h, w)
    t: Tensor  # (B,)


class Validation:
    """The val split's first `train.validation_samples` samples, each with noise and timestep of its own.

    Args:
        config: resolved configuration; seed, precision and the number of samples are read.
        shard_set: the set that is trained on. Samples are read and encoded at the first loss, and kept.
        encoders: VAE and text encoder.
        context: this worker's place.
    """

    def __init__(
        self, config: Config, shard_set: ShardSet, encoders: FrozenEncoders, context: Context
    ) -> None:
        self.config, self.shard_set, self.encoders, self.context = config, shard_set, encoders, context
        self.keys = shard_set.keys("val")[: config.train.validation_samples]
        self._encoded: list[_Encoded] | None = None

    def loss(self, model: TrainedModel) -> float | None:
        """The mean of L_m over the samples, the same on every worker and for any number of them.

        Called on every worker; prompts are never dropped.

        Args:
            model: the trained module itself.

        Returns:
            None without val split, or with `train.validation_samples` 0.

        Raises:
            SiamdiffError: a shard is missing or damaged.
        """
        if not self.keys:
            return None
        if self._encoded is None:
            self._encoded = [self._encode(turn) for turn in passes(len(self.keys), self.context)]
        errors: dict[int, float] = {}
        for encoded in self._encoded:
            found = self._errors(model, encoded)
            if encoded.turn.counts:
                errors |= zip(encoded.turn.positions, found, strict=True)
        everyone = {i: error for part in self.context.gather(errors) for i, error in part.items()}
        return math.fsum(everyone.values()) / len(self.keys)

    def _errors(self, model: TrainedModel, encoded: _Encoded) -> list[float]:
        """|eps_m - eps|^2 of each sample of a pass."""
        device = self.context.device
        noise, t, z_0 = (part.to(device) for part in (encoded.noise, encoded.t, encoded.z_0))
        mask = encoded.mask.to(device)[:, None].expand(-1, 3, -1, -1).float()  # (B, 3, H, W)
        text = torch.cat([self.encoders.text(prompt) for prompt in encoded.prompts])
        z_t = q_sample(z_0, noise, t, model.alphas_cumprod)
        with inference(model, self.config):
            eps_mask = predictor(model.unet, model.control, mask, text)(z_t, t)  # (B, 4, h, w)
        return squared_error(eps_mask, noise).tolist()

    def _encode(self, turn: Pass) -> _Encoded:
        """The samples of a pass with their random numbers, which depend on (seed, place in the list) alone."""
        base, seed = self.encoders.base, self.config.train.seed
        samples = [self.shard_set.read(self.keys[i]) for i in turn.positions]
        height, width = (side // 8 for side in samples[0].mask.shape)
        shape = (2, base.vae.config["latent_channels"], height, width)
        noises = torch.from_numpy(
            np.stack(
                [
                    np.random.default_rng([seed, _STREAM, i]).standard_normal(shape, dtype=np.float32)
                    for i in turn.positions
                ]
            )
        )  # (B, 2, 4, h, w)
        t = timesteps(seed, len(self.keys), base.scheduler.config["num_train_timesteps"])
        batch = Batch(
            positions=list(turn.positions),
            keys=[sample.meta.key for sample in samples],
            prompts=[sample.meta.prompt for sample in samples],
            image=torch.from_numpy(np.stack([sample.image for sample in samples])),
            mask=torch.from_numpy(np.stack([sample.mask for sample in samples])),
            t=torch.from_numpy(t[list(turn.positions)]),
            noise=noises[:, 0].contiguous(),
            posterior_noise=noises[:, 1].contiguous(),
        )
        return _Encoded(
            turn, batch.prompts, batch.mask > 127, self.encoders.inputs(batch).z_0.cpu(), batch.noise, batch.t
        )
