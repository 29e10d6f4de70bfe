"""What the training loop needs from the machine: two small protocols, and the plain versions of one process.

infra/train.py has the versions of a Ray worker with DeepSpeed; the loop is written once.
"""

from pathlib import Path
from typing import Any, Protocol

import torch

from siamdiff.errors import SiamdiffError
from siamdiff.model.siamese import SiameseDiffusion, StepInputs
from siamdiff.training.losses import LossWeights

STATE_FILE = "state.pt"


class Context(Protocol):
    """Where this worker stands among the others."""

    rank: int
    world_size: int
    device: torch.device

    def gather(self, value: Any) -> list[Any]:
        """The values of all workers in the order of their ranks, on every worker; also a barrier."""
        ...

    def report(self, line: dict[str, float]) -> None:
        """Makes one line of metrics visible to whoever watches the job."""
        ...


class Engine(Protocol):
    """A model with its optimizer. One `step` per `forward`/`backward` pair; it acts once the batch is whole."""

    model: SiameseDiffusion
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
        """Trained parameters of the model by name, whole, on the CPU; {} on ranks other than 0."""
        ...


class SingleProcess:
    """The context of one process without a cluster."""

    rank = 0
    world_size = 1

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def gather(self, value: Any) -> list[Any]:
        """The one value."""
        return [value]

    def report(self, line: dict[str, float]) -> None:
        """Nobody watches but the log."""


class TorchEngine:
    """AdamW in one process, fp32."""

    is_partitioned = False
    ties_world_size = False

    def __init__(
        self, model: SiameseDiffusion, *, learning_rate: float, weight_decay: float, accumulation: int
    ) -> None:
        self.model = model
        self.optimizer = torch.optim.AdamW(
            [p for p in model.parameters() if p.requires_grad], lr=learning_rate, weight_decay=weight_decay
        )
        self.accumulation = accumulation
        self._passes = 0

    def forward(
        self, inputs: StepInputs, weights: LossWeights
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """See `Engine`."""
        return self.model(inputs, weights)

    def backward(self, loss: torch.Tensor) -> None:
        """Adds the gradients of one micro-batch to the mean over the batch."""
        (loss / self.accumulation).backward()

    def step(self) -> None:
        """One optimizer step once `accumulation` micro-batches are in."""
        self._passes += 1
        if self._passes % self.accumulation == 0:
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)

    def save(self, folder: Path) -> None:
        """Writes trained weights and optimizer state."""
        torch.save(
            {"model": self.full_weights(), "optimizer": self.optimizer.state_dict()}, folder / STATE_FILE
        )

    def load(self, folder: Path) -> None:
        """Reads what `save` wrote."""
        state = torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True)
        load_trained(self.model, state["model"])
        self.optimizer.load_state_dict(state["optimizer"])

    def full_weights(self) -> dict[str, torch.Tensor]:
        """See `Engine`."""
        return {name: p.detach().cpu() for name, p in self.model.named_parameters() if p.requires_grad}


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
