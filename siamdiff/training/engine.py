"""What the training loop needs of a model with its optimizer, and the plain PyTorch version of it.

infra/zero.py has the DeepSpeed version; the loop is written once.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, Self

import torch

from siamdiff.config import Config
from siamdiff.errors import SiamdiffError
from siamdiff.model.siamese import StepInputs
from siamdiff.sections import Precision
from siamdiff.training.ema import Averages, Fragments, share
from siamdiff.training.losses import LossWeights
from siamdiff.training.snapshot import copied, save

STATE_FILE = "state.pt"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class DivergedError(SiamdiffError):
    """The gradient is not finite or larger than allowed. Raised on every worker at the same step, before it changed
    a weight or the optimizer's state."""


class Engine(Protocol):
    """A model with its optimizer. One `step` per `forward`/`backward` pair; it acts once the batch is whole."""

    is_partitioned: bool  # weights are spread over the workers: a forward pass needs every worker
    # L2 norm of the last step's mean gradient over the whole batch, before clipping, the same on every worker, also
    # where `step` refused it; nan before the first step, inf after one that fp16's loss scaling skipped
    gradient_norm: float

    def forward(
        self, inputs: StepInputs, weights: LossWeights
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The value to backpropagate (0-d), and the loss terms by name (detached, 0-d)."""
        ...

    def backward(self, loss: torch.Tensor) -> None:
        """Adds the gradients of one micro-batch."""
        ...

    def step(self) -> None:
        """Updates the weights if this was the last micro-batch of the batch.

        Raises:
            DivergedError: the gradient's norm is not finite, or above the limit. Nothing was changed.
        """
        ...

    def set_learning_rate(self, lr: float) -> None:
        """What the steps from now on take."""
        ...

    def snapshot(self, folder: Path) -> Callable[[], None]:
        """Copies this worker's part of the complete state as it is now; called on every worker.

        Args:
            folder: local, there, and empty.

        Returns:
            Writes what was copied into `folder`; may run in another thread while training goes on.
        """
        ...

    def load(self, folder: Path, world_size: int) -> None:
        """Reads the complete state from a local folder with the files of all `world_size` workers that wrote it."""
        ...

    def full_weights(self, averaged: bool = False) -> dict[str, torch.Tensor]:
        """Trained parameters of the model by name, whole, in fp32, on the CPU; {} on ranks other than 0.

        Called on every worker.

        Args:
            averaged: their moving averages instead, where the configuration asks for averages.
        """
        ...

    def release(self) -> None:
        """Frees the optimizer's memory: no step comes any more."""
        ...


class TorchEngine:
    """Plain PyTorch in one process: AdamW; gradients of micro-batches add up until the batch is whole.

    Weights, their updates and what is stored are fp32 in every precision; bf16 and fp16 are autocast's, fp16 with
    dynamic loss scaling. A step whose gradients overflow fp16 changes nothing but the scale.

    Args:
        model: its trainable parameters learn.
        learning_rate, weight_decay: AdamW's.
        accumulation: micro-batches per step.
        precision: of the networks' arithmetic.
        gradient_limit: norm of the gradient above which `step` raises.
        clip_norm: gradients of a larger norm are scaled down to it.
        ema_decay: of the weights' moving averages; None keeps none.
    """

    is_partitioned = False

    def __init__(
        self,
        model: torch.nn.Module,
        *,
        learning_rate: float,
        weight_decay: float,
        accumulation: int,
        precision: Precision = "fp32",
        gradient_limit: float = math.inf,
        clip_norm: float | None = None,
        ema_decay: float | None = None,
    ) -> None:
        self.model = model
        trainable = list(self._trained().values())
        self.device = trainable[0].device.type
        self.precision = precision
        self.optimizer = adamw(trainable, learning_rate, weight_decay)
        self.scaler = torch.amp.GradScaler(self.device, enabled=precision == "fp16")
        self.accumulation = accumulation
        self.gradient_limit, self.clip_norm = gradient_limit, clip_norm
        self.gradient_norm = math.nan
        self.averages = Averages(ema_decay, self._fragments) if ema_decay else None
        self._passes = 0

    @classmethod
    def of(cls, model: torch.nn.Module, config: Config, accumulation: int) -> Self:
        """The engine of a configuration, with `accumulation` micro-batches per step."""
        return cls(
            model,
            learning_rate=config.train.learning_rate,
            weight_decay=config.train.weight_decay,
            accumulation=accumulation,
            precision=config.train.precision,
            gradient_limit=config.train.gradient_limit,
            clip_norm=config.train.clip_norm,
            ema_decay=config.train.ema_decay,
        )

    def forward(
        self, inputs: StepInputs, weights: LossWeights
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """See `Engine`."""
        with torch.autocast(self.device, DTYPES[self.precision], enabled=self.precision != "fp32"):
            return self.model(inputs, weights)

    def backward(self, loss: torch.Tensor) -> None:
        """Adds the gradients of one micro-batch to the mean over the batch."""
        self.scaler.scale(loss / self.accumulation).backward()

    def step(self) -> None:
        """One optimizer step once `accumulation` micro-batches are in; see `Engine`."""
        self._passes += 1
        if self._passes % self.accumulation == 0:
            self.scaler.unscale_(self.optimizer)
            trainable = list(self._trained().values())
            total = total_norm(trainable)
            self.gradient_norm = total.item()
            if self.precision == "fp16" and not math.isfinite(self.gradient_norm):
                self.gradient_norm = math.inf  # the scaler skips the step
            else:
                check_norm(self.gradient_norm, self.gradient_limit)
                clip(trainable, self.clip_norm, total)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad(set_to_none=True)
            if math.isinf(self.gradient_norm):
                check_scale(self.scaler.get_scale())
            elif self.averages:
                self.averages.update()

    def set_learning_rate(self, lr: float) -> None:
        """See `Engine`."""
        set_learning_rate(self.optimizer, lr)

    def snapshot(self, folder: Path) -> Callable[[], None]:
        """Trained weights, the optimizer's state and the loss scale; see `Engine`."""
        state = copied(
            {
                "model": self._trained(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
            }
        )
        write_averages = self.averages.snapshot(folder) if self.averages else None

        def write() -> None:
            save(state, folder / STATE_FILE)
            if write_averages:
                write_averages()

        return write

    def load(self, folder: Path, world_size: int) -> None:
        """Reads what `snapshot` wrote; see `Engine`."""
        state = torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True)
        load_trained(self.model, state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.averages:
            self.averages.load(folder, world_size)

    def full_weights(self, averaged: bool = False) -> dict[str, torch.Tensor]:
        """See `Engine`."""
        weights = {name: p.detach() for name, p in self._trained().items()}
        if averaged and self.averages:
            weights = {
                name: self.averages.placed(name, p.numel(), self.device).reshape(p.shape)
                for name, p in weights.items()
            }
        return {name: p.cpu() for name, p in weights.items()}

    def _trained(self) -> dict[str, torch.nn.Parameter]:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def _fragments(self) -> Fragments:
        return {name: share(p) for name, p in self._trained().items()}

    def release(self) -> None:
        """See `Engine`."""
        del self.optimizer


def adamw(
    trainable: list[torch.nn.Parameter], learning_rate: float, weight_decay: float
) -> torch.optim.AdamW:
    """AdamW in one kernel: PyTorch's default on GPUs takes a second copy of all gradients for a moment."""
    return torch.optim.AdamW(trainable, lr=learning_rate, weight_decay=weight_decay, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """What an optimizer's steps from now on take."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def total_norm(trainable: list[torch.nn.Parameter]) -> torch.Tensor:
    """The L2 norm of the whole gradient, ()."""
    return torch.nn.utils.get_total_norm([p.grad for p in trainable if p.grad is not None])


def clip(trainable: list[torch.nn.Parameter], clip_norm: float | None, total: torch.Tensor) -> None:
    """Scales a gradient of the norm `total` down to `clip_norm` where it is larger."""
    if clip_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(trainable, clip_norm, total)


def check_norm(norm: float, limit: float) -> None:
    """Whether a step may be made with a gradient of this norm.

    Raises:
        DivergedError: it is not finite, or above `limit`.
    """
    if not math.isfinite(norm):
        raise DivergedError(f"the gradient is not finite (norm {norm}): training has diverged")
    if norm > limit:
        raise DivergedError(
            f"the gradient's norm is {norm:.4g}, above train.gradient_limit {limit:g}: training has diverged"
        )


def check_scale(scale: float) -> None:
    """Whether fp16 can go on after a step that overflowed and lowered the loss scale.

    Raises:
        DivergedError: the scale is down to 1, where it does no more than fp16 alone.
    """
    if scale <= 1:
        raise DivergedError(
            f"gradients overflow fp16 down to a loss scale of {scale:g}: training has diverged"
        )


def load_trained(model: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Copies trained parameters into a model by name.

    Raises:
        SiamdiffError: the names are not exactly those of the model's trainable parameters.
    """
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if wrong := sorted(trainable.keys() ^ weights.keys()):
        raise SiamdiffError(
            f"the checkpoint does not fit the model: {len(wrong)} names differ, first {wrong[0]!r}"
        )
    with torch.no_grad():
        for name, p in trainable.items():
            p.copy_(weights[name])
