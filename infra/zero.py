"""DeepSpeed ZeRO behind the training loop's engine protocol."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch

from infra import universal
from siamdiff.config import Config
from siamdiff.data.stream import split
from siamdiff.errors import SiamdiffError
from siamdiff.model.siamese import StepInputs
from siamdiff.sections import Precision
from siamdiff.training.ema import Averages, Fragments, share
from siamdiff.training.engine import adamw, check_norm, check_scale, clip, set_learning_rate, total_norm
from siamdiff.training.losses import LossWeights
from siamdiff.training.snapshot import copied, save

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
    """A DeepSpeed engine behind the loop's protocol.

    Args:
        model: its trainable parameters learn.
        zero_stage: 0 to 3; fp16 needs 1 to 3.
        learning_rate, weight_decay: AdamW's.
        micro_batch: samples per worker and pass.
        accumulation: micro-batches per step.
        precision: of the networks' arithmetic.
        gradient_limit: norm of the gradient above which `step` raises.
        clip_norm: gradients of a larger norm are scaled down to it.
        ema_decay: of the weights' moving averages; None keeps none.
        offload_optimizer: whether its state and its steps are the CPU's; ZeRO 1 to 3.
    """

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
        gradient_limit: float = math.inf,
        clip_norm: float | None = None,
        ema_decay: float | None = None,
        offload_optimizer: bool = False,
    ) -> None:
        deepspeed = _import_deepspeed()
        self.model = model
        self.zero_stage = zero_stage
        self.gradient_limit, self.clip_norm = gradient_limit, clip_norm
        self.gradient_norm = math.nan
        self.is_partitioned = zero_stage == 3
        self.precision = precision
        optimizer = adamw(list(self._trained().values()), learning_rate, weight_decay)
        on_cpu = {"offload_optimizer": {"device": "cpu", "pin_memory": torch.cuda.is_available()}}
        self.engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=optimizer,
            config={
                "train_micro_batch_size_per_gpu": micro_batch,
                "gradient_accumulation_steps": accumulation,
                "zero_optimization": {"stage": zero_stage} | (on_cpu if offload_optimizer else {}),
                "zero_allow_untested_optimizer": True,
                "zero_force_ds_cpu_optimizer": False,  # DeepSpeed's own for CPUs would be compiled on every node
                # DeepSpeed's own default clips at 1.0; the method does not clip. Stage 0 is clipped in `step`.
                "gradient_clipping": clip_norm or 0.0 if zero_stage else 0.0,
                "steps_per_print": 10**9,
                "wall_clock_breakdown": False,
            }
            | PRECISIONS[precision],
        )
        self.engine.checkpoint_engine = self._files = _memory_files(self.engine.checkpoint_engine)
        if zero_stage:
            optimizer.register_step_pre_hook(lambda *_: self._check_norm())
        rank = torch.distributed.get_rank()
        self.averages = Averages(ema_decay, self._fragments, rank) if ema_decay else None

    @classmethod
    def of(cls, model: torch.nn.Module, config: Config, accumulation: int) -> Self:
        """The engine of a configuration, with `accumulation` micro-batches per step; the workers have met."""
        train = config.train
        return cls(
            model,
            zero_stage=train.zero_stage,
            learning_rate=train.learning_rate,
            weight_decay=train.weight_decay,
            micro_batch=split(train.batch_size, torch.distributed.get_world_size(), train.micro_batch)[0],
            accumulation=accumulation,
            precision=train.precision,
            gradient_limit=train.gradient_limit,
            clip_norm=train.clip_norm,
            ema_decay=train.ema_decay,
            offload_optimizer=train.offload_optimizer,
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
        """Acts at the last micro-batch of a step; see siamdiff.training.engine.Engine."""
        if not self.engine.is_gradient_accumulation_boundary():
            self.engine.step()
            return
        if not self.zero_stage:
            trainable = list(self._trained().values())
            total = total_norm(trainable)
            self.gradient_norm = total.item()
            check_norm(self.gradient_norm, self.gradient_limit)
            clip(trainable, self.clip_norm, total)
        self.engine.step()
        if self.zero_stage:
            self.gradient_norm = float(self.engine.get_global_grad_norm())
        if math.isfinite(self.gradient_norm):
            if self.averages:
                self.averages.update()
        elif self.precision == "fp16":  # DeepSpeed skips a step whose norm is not finite
            check_scale(self.engine.optimizer.loss_scale)
        else:
            check_norm(self.gradient_norm, self.gradient_limit)

    def _check_norm(self) -> None:
        """Between DeepSpeed's norm over all workers and the first change of a weight."""
        self.gradient_norm = float(self.engine.optimizer._global_grad_norm)
        check_norm(self.gradient_norm, self.gradient_limit)

    def set_learning_rate(self, lr: float) -> None:
        """See siamdiff.training.engine.Engine."""
        set_learning_rate(self.engine.optimizer, lr)

    def snapshot(self, folder: Path) -> Callable[[], None]:
        """This worker's files; frozen parameters are the base's and are left out."""
        self.engine.save_checkpoint(
            str(folder),
            tag="state",
            client_state={"trained": sorted(self._trained())},
            exclude_frozen_parameters=True,
            save_latest=False,  # written beside the copies, on a disk that may be full; loading names the tag
        )
        write_state = self._files.taken()
        write_averages = self.averages.snapshot(folder) if self.averages else None

        def write() -> None:
            write_state()
            if write_averages:
                write_averages()

        return write

    def load(self, folder: Path, world_size: int) -> None:
        """Loads and checks that no trained parameter was missing (DeepSpeed is lenient about frozen ones)."""
        tag, is_others = "state", self.zero_stage and world_size != torch.distributed.get_world_size()
        if is_others:
            tag = universal.converted(folder, tag)
            # what DeepSpeed reads from its configuration, where it would hold for every checkpoint
            self.engine._config.load_universal_checkpoint = True
        loaded, client_state = self.engine.load_checkpoint(str(folder), tag=tag, load_module_strict=False)
        if is_others:
            self.engine._config.load_universal_checkpoint = False
            universal.settle_steps(self.engine.optimizer.optimizer)
        if loaded is None or client_state["trained"] != sorted(self._trained()):
            raise SiamdiffError(
                "the checkpoint's trained parameters are not the model's; it was written by another version"
            )

        if self.averages:
            self.averages.load(folder, world_size)

    def _trained(self) -> dict[str, torch.nn.Parameter]:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def _fragments(self) -> Fragments:
        """This worker's pieces of the parameters as the optimizer has them, in fp32."""
        rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        trained: dict[str, Any] = self._trained()
        if not self.zero_stage:
            return {name: share(p, rank, world_size) for name, p in trained.items()}
        if self.is_partitioned:
            from deepspeed.utils import safe_get_local_fp32_param

            fragments = {}
            for name, p in trained.items():
                start = rank * p.ds_tensor.numel()
                length = max(
                    0, min(p.ds_numel - start, p.ds_tensor.numel())
                )  # without the padding at the end
                fragments[name] = start, safe_get_local_fp32_param(p).detach()[:length]
            return fragments
        mapped = {name: p._hp_mapping for name, p in trained.items() if p._hp_mapping}
        return {
            name: (piece.lp_fragment_address.start, piece.get_hp_fragment().detach())
            for name, piece in mapped.items()
        }

    def full_weights(self, averaged: bool = False) -> dict[str, torch.Tensor]:
        """Trained parameters on rank 0, in fp32, gathered where ZeRO spread them."""
        weights = {}
        for name, p in self._trained().items():
            whole = self._whole_average(name, p) if averaged and self.averages else self._whole(p)
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

    def _whole_average(self, name: str, p: torch.nn.Parameter) -> torch.Tensor:
        """A parameter's average; called on every worker."""
        assert self.averages
        shape = getattr(p, "ds_shape", p.shape)
        whole = self.averages.placed(name, torch.Size(shape).numel(), self.engine.device)
        torch.distributed.all_reduce(whole)
        return whole.reshape(shape)

    def release(self) -> None:
        """See siamdiff.training.engine.Engine."""
        self.engine.destroy()
        del self.engine


def _memory_files(files: Any) -> Any:
    """DeepSpeed's files in main memory until they are taken; `files` reads those on the disk."""
    from deepspeed.runtime.checkpoint_engine.checkpoint_engine import CheckpointEngine

    class MemoryFiles(CheckpointEngine):
        """What DeepSpeed saves, copied, by path."""

        def __init__(self) -> None:
            super().__init__()
            self._states: dict[str, Any] = {}

        def create(self, info: Any) -> None:
            """Nothing to prepare."""

        def save(self, state_dict: Any, path: str) -> None:
            """Copies a state; the file is written later."""
            self._states[path] = copied(state_dict)

        def load(self, path: str, map_location: Any = None) -> Any:
            """Reads a file that was written."""
            return files.load(path, map_location)

        def commit(self, info: Any) -> None:
            """Complete is what the caller says is complete."""

        def taken(self) -> Callable[[], None]:
            """Writes what was saved since it was last asked."""
            states, self._states = self._states, {}

            def write() -> None:
                for path, state in states.items():
                    save(state, Path(path))

            return write

    return MemoryFiles()


def _import_deepspeed() -> Any:
    """DeepSpeed, kept from compiling its shared-memory collectives for CPUs: they need a compiler on every node and
    half a minute, and gloo serves CPUs, where nobody trains in earnest."""
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
