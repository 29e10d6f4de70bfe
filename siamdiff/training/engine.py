"""What the training loop needs of a model with its optimizer, and the plain PyTorch version of it.

infra/zero.py has the DeepSpeed version; the loop is written once.
"""

from pathlib import Path
from typing import Protocol, Self

import torch

from siamdiff.config import Config
from siamdiff.errors import SiamdiffError, UserError
from siamdiff.model.siamese import StepInputs
from siamdiff.sections import Precision
from siamdiff.training.losses import LossWeights

STATE_FILE = "state.pt"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Engine(Protocol):
    """A model with its optimizer. One `step` per `forward`/`backward` pair; it acts once the batch is whole."""

    is_partitioned: bool  # weights are spread over the workers: a forward pass needs every worker
    ties_world_size: bool  # a checkpoint can be read by as many workers only as wrote it

    def forward(
        self, inputs: StepInputs, weights: LossWeights
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The value to backpropagate (0-d), and the loss terms by name (detached, 0-d)."""
        ...

    def backward(self, loss: torch.Tensor) -> None:
        """Adds the gradients of one micro-batch."""
        ...

    def step(self) -> None:
        """Updates the weights if this was the last micro-batch of the batch."""
        ...

    def save(self, folder: Path) -> None:
        """Writes this worker's part of the complete state into a local folder."""
        ...

    def load(self, folder: Path) -> None:
        """Reads the complete state from a local folder with the files of all workers."""
        ...

    def full_weights(self) -> dict[str, torch.Tensor]:
        """Trained parameters of the model by name, whole, in fp32, on the CPU; {} on ranks other than 0."""
        ...

    def release(self) -> None:
        """Frees the optimizer's memory: no step comes any more."""
        ...


def check_precision(precision: Precision, device: torch.device) -> None:
    """Whether a device can train in a precision.

    Raises:
        UserError: fp16 on a CPU, bf16 on a GPU without it.
    """
    if precision == "fp16" and device.type != "cuda":
        raise UserError(
            "train.precision is fp16, which needs a GPU; give --train.precision bf16 or fp32 on a CPU"
        )
    if (
        precision == "bf16"
        and device.type == "cuda"
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        raise UserError(
            f"train.precision is bf16, which {torch.cuda.get_device_name(device)} has not; "
            "give --train.precision fp16 or fp32"
        )


class TorchEngine:
    """Plain PyTorch in one process: AdamW; gradients of micro-batches add up until the batch is whole.

    Weights, their updates and what is stored are fp32 in every precision; bf16 and fp16 are autocast's, fp16 with
    dynamic loss scaling. A step whose gradients overflow fp16 changes nothing but the scale.

    Args:
        model: its trainable parameters learn.
        learning_rate, weight_decay: AdamW's.
        accumulation: micro-batches per step.
        precision: of the networks' arithmetic.
    """

    is_partitioned = False
    ties_world_size = False

    def __init__(
        self,
        model: torch.nn.Module,
        *,
        learning_rate: float,
        weight_decay: float,
        accumulation: int,
        precision: Precision = "fp32",
    ) -> None:
        self.model = model
        trainable = [p for p in model.parameters() if p.requires_grad]
        self.device = trainable[0].device.type
        self.precision = precision
        self.optimizer = adamw(trainable, learning_rate, weight_decay)
        self.scaler = torch.amp.GradScaler(self.device, enabled=precision == "fp16")
        self.accumulation = accumulation
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
        """One optimizer step once `accumulation` micro-batches are in."""
        self._passes += 1
        if self._passes % self.accumulation == 0:
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad(set_to_none=True)

    def save(self, folder: Path) -> None:
        """Writes trained weights, the optimizer's state and the loss scale."""
        state = {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}
        torch.save({"model": self.full_weights()} | state, folder / STATE_FILE)

    def load(self, folder: Path) -> None:
        """Reads what `save` wrote."""
        state = torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True)
        load_trained(self.model, state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])

    def full_weights(self) -> dict[str, torch.Tensor]:
        """See `Engine`."""
        return {name: p.detach().cpu() for name, p in self.model.named_parameters() if p.requires_grad}

    def release(self) -> None:
        """See `Engine`."""
        del self.optimizer


def adamw(
    trainable: list[torch.nn.Parameter], learning_rate: float, weight_decay: float
) -> torch.optim.AdamW:
    """AdamW in one kernel: PyTorch's default on GPUs takes a second copy of all gradients for a moment."""
    return torch.optim.AdamW(trainable, lr=learning_rate, weight_decay=weight_decay, fused=True)


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
