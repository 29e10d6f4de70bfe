"""DeepSpeed ZeRO behind the training loop's engine protocol."""

from pathlib import Path
from typing import Any

import torch

from siamdiff.errors import SiamdiffError
from siamdiff.model.siamese import SiameseDiffusion, StepInputs
from siamdiff.training.losses import LossWeights


class DeepSpeedEngine:
    """A DeepSpeed engine behind the loop's protocol, fp32."""

    def __init__(
        self,
        model: SiameseDiffusion,
        *,
        zero_stage: int,
        learning_rate: float,
        weight_decay: float,
        micro_batch: int,
        accumulation: int,
    ) -> None:
        deepspeed = _import_deepspeed()
        self.model = model
        self.is_partitioned = zero_stage == 3
        self.ties_world_size = zero_stage > 0
        trainable = [p for p in model.parameters() if p.requires_grad]
        self.engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=torch.optim.AdamW(trainable, lr=learning_rate, weight_decay=weight_decay),
            config={
                "train_micro_batch_size_per_gpu": micro_batch,
                "gradient_accumulation_steps": accumulation,
                "zero_optimization": {"stage": zero_stage},
                "zero_allow_untested_optimizer": True,
                "gradient_clipping": 0.0,  # DeepSpeed's own default clips at 1.0; the method does not clip
                "steps_per_print": 10**9,
                "wall_clock_breakdown": False,
            },
        )

    def forward(
        self, inputs: StepInputs, weights: LossWeights
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """See siamdiff.training.engine.Engine."""
        return self.engine(inputs, weights)

    def backward(self, loss: torch.Tensor) -> None:
        """Scales by the accumulation and reduces over the workers."""
        self.engine.backward(loss)

    def step(self) -> None:
        """Acts at the last micro-batch of a step."""
        self.engine.step()

    def save(self, folder: Path) -> None:
        """This worker's files; frozen parameters are the base's and are left out."""
        self.engine.save_checkpoint(
            str(folder),
            tag="state",
            client_state={"trained": self._trained()},
            exclude_frozen_parameters=True,
        )

    def load(self, folder: Path) -> None:
        """Loads and checks that no trained parameter was missing (DeepSpeed is lenient about frozen ones)."""
        loaded, client_state = self.engine.load_checkpoint(str(folder), tag="state", load_module_strict=False)
        if loaded is None or client_state["trained"] != self._trained():
            raise SiamdiffError(
                "the checkpoint's trained parameters are not the model's; it was written by another version"
            )

    def _trained(self) -> list[str]:
        return sorted(name for name, p in self.model.named_parameters() if p.requires_grad)

    def full_weights(self) -> dict[str, torch.Tensor]:
        """Trained parameters on rank 0, gathered where ZeRO-3 spread them."""
        deepspeed = _import_deepspeed()
        weights = {}
        for name, p in self.model.named_parameters():
            if p.requires_grad:
                with deepspeed.zero.GatheredParameters([p], enabled=self.is_partitioned):
                    if torch.distributed.get_rank() == 0:
                        weights[name] = p.detach().cpu().clone()
        return weights


def _import_deepspeed() -> Any:
    """DeepSpeed, kept from compiling its shared-memory collectives for CPUs: they need a compiler on every node and
    half a minute, and gloo serves CPUs, where nobody trains in earnest."""
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
