"""How fast a run is: samples, model arithmetic and its share of what the device could do at most."""

from functools import cached_property

import torch

from siamdiff.config import Config
from siamdiff.estimate.architecture import Architecture, architecture
from siamdiff.estimate.counting import train_step
from siamdiff.estimate.devices import device_by_cuda_name
from siamdiff.estimate.report import TERA, steps_before
from siamdiff.model.base import Base
from siamdiff.training.context import Context
from siamdiff.training.losses import LossWeights


class Throughput:
    """Model arithmetic of a run: what a training step's forward and backward passes take, however they are computed.

    Recomputation (activation checkpointing) does not count, nor do VAE, text encoder, optimizer, validation and
    previews, so that less time spent on these shows as more. Counted on the meta device when it is first asked for,
    once in a process: a few seconds each before and after Online-Augmentation begins, at Stable Diffusion 1.5's size.

    Args:
        config: resolved configuration.
        base: the base in use; its folder must be there for as long as this object is used.
        context: the number of workers, and the device whose share is told.
    """

    def __init__(self, config: Config, base: Base, context: Context) -> None:
        self.config, self.context = config, context
        self.folder = base.folder
        device = None
        if context.device.type == "cuda":
            device = device_by_cuda_name(torch.cuda.get_device_name(context.device))
        self.peak = device.peak(config.train.precision) if device else None  # TFLOP/s

    def row(self, step: int, samples: int, seconds: float) -> dict[str, float]:
        """Figures for the line of metrics after `step` steps.

        Args:
            step: optimizer steps finished.
            samples: seen by all workers since the line before.
            seconds: since then, more than 0.

        Returns:
            samples_per_second over all workers; tflops, 10^12 model floating-point operations a second and worker;
            share_of_peak, of the device's peak in the run's precision (siamdiff.estimate.devices), where it is known.
        """
        train = self.config.train
        augmented = min(samples, train.batch_size * max(0, step - steps_before(train)))
        flops = samples * self.before + (augmented * (self.after - self.before) if augmented else 0)
        rate = flops / seconds / self.context.world_size / TERA
        share = {"share_of_peak": rate / self.peak} if self.peak else {}
        return {"samples_per_second": samples / seconds, "tflops": rate} | share

    @cached_property
    def before(self) -> float:
        """Floating-point operations a sample before Online-Augmentation begins."""
        return self._counted(augment=False)

    @cached_property
    def after(self) -> float:
        """The same from then on: the mean over t, of which only t <= train.augment_timesteps are augmented."""
        share = (self.config.train.augment_timesteps + 1) / 1000
        return self.before + share * (self._counted(augment=True) - self.before)

    @cached_property
    def _networks(self) -> Architecture:
        model = self.config.model.model_copy(update={"base": str(self.folder)})
        return architecture(self.config.model_copy(update={"model": model}))

    def _counted(self, *, augment: bool) -> int:
        train = self.config.train
        weights = LossWeights(
            w_i=0.5 if train.image_branch else None,
            w_c=train.consistency_weight,
            augment=augment if train.online_augmentation else None,
            t_tau=train.augment_timesteps,
        )
        return train_step(self._networks, weights, self.config.data.resolution, batch=1).flops
