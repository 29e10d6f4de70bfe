"""DeepSpeed ZeRO behind the training loop's engine protocol."""

from pathlib import Path
from typing import Any

import torch

from siamdiff.errors import SiamdiffError
from siamdiff.model.siamese import StepInputs
from siamdiff.sections import Precision
from siamdiff.training.engine import adamw
from siamdiff.training.losses import LossWeights

# How DeepSpeed computes in each precision; the weights that are updated are fp32 in all of them.
# bf16: PyTorch's autocast, with weights and gradients kept and sent in fp32 (no module's are sent in bf16), so that it
# rounds where the plain engine rounds, and nowhere else.
# fp16: DeepSpeed's own, with fp16 networks: under autocast its loss scale is neither shared by the workers nor stored.
PRECISIONS: dict[Precision, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"torch_autocast": {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}},
    "fp16": {"fp16": {"enabled": True}},
}


class DeepSpeedEngine:
    """A DeepSpeed engine behind the loop's protocol."""

    def __init__(
        self,
        model: torch.nn.Module,
        *,
        zero_stage: int,
        learning_rate: float,
        weight_decay: float,
        micro_batch: int,
        accumulation: int,
        precision: Precision = "fp32",
    ) -> None:
        deepspeed = _import_deepspeed()
        self.model = model
        self.is_partitioned = zero_stage == 3
        self.ties_world_size = zero_stage > 0
        self.precision = precision
        trainable = [p for p in model.parameters() if p.requires_grad]
        self.engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=adamw(trainable, learning_rate, weight_decay),
            config={
                "train_micro_batch_size_per_gpu": micro_batch,
                "gradient_accumulation_steps": accumulation,
                "zero_optimization": {"stage": zero_stage},
                "zero_allow_untested_optimizer": True,
                "gradient_clipping": 0.0,  # DeepSpeed's own default clips at 1.0; the method does not clip
                "steps_per_print": 10**9,
                "wall_clock_breakdown": False,
            }
            | PRECISIONS[precision],
        )

    def forward(
        self, inputs: StepInputs, weights: LossWeights
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """See siamdiff.training.engine.Engine."""
        if self.is_partitioned:
            # Autocast would keep its copy of a weight from one pass to the next; the graph of the second then fails,
            # since the weight that the copy was made of is spread over the workers by then.
            torch.set_autocast_cache_enabled(False)
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
        """Trained parameters on rank 0, in fp32, gathered where ZeRO spread them."""
        weights = {}
        for name, p in self.model.named_parameters():
            if p.requires_grad:
                whole = self._whole(p)
                if torch.distributed.get_rank() == 0:
                    weights[name] = whole.detach().cpu().clone()
        return weights

    def _whole(self, p: torch.nn.Parameter) -> torch.Tensor:
        """A parameter as the optimizer has it; called on every worker."""
        if self.precision == "fp16":
            from deepspeed.utils import safe_get_full_fp32_param

            whole = safe_get_full_fp32_param(p)
            assert whole is not None, "the configuration leaves fp16 out at stage 0"
            return whole
        with _import_deepspeed().zero.GatheredParameters([p], enabled=self.is_partitioned):
            return p.clone()

    def release(self) -> None:
        """See siamdiff.training.engine.Engine."""
        self.engine.destroy()
        del self.engine


def _import_deepspeed() -> Any:
    """DeepSpeed, kept from compiling its shared-memory collectives for CPUs: they need a compiler on every node and
    half a minute, and gloo serves CPUs, where nobody trains in earnest."""
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
