"""Memory of one training process on its GPU, from sizes and settings: pure arithmetic, in bytes.

What DeepSpeed keeps is that of version 0.19: from stage 1 on every process holds an fp32 copy of its part of the
trained weights, whatever the precision.
"""

from dataclasses import dataclass

from siamdiff.sections import Train

BUCKET = 500_000_000  # elements that DeepSpeed's reduction buffer holds by default
GATHERED = 1_000_000_000  # parameters that ZeRO-3 leaves gathered by default
CONTEXT = 10**9  # CUDA's context, workspaces of kernels, gaps between tensors: an assumption


@dataclass(frozen=True)
class Memory:
    """Bytes by purpose; `peak` is what must be there at once."""

    weights: int  # of the module, frozen ones included, as they are computed with
    master: int  # fp32 copies of what is trained
    optimizer: int  # AdamW's two moments
    averages: int  # of the weights, this process's share
    gradients: int
    encoders: int  # frozen VAE and text encoder, fp32
    activations: int
    buffers: int  # of DeepSpeed, while gradients are computed
    update: int  # passing tensors of the optimizer's step, when no activations are there

    @property
    def peak(self) -> int:
        """The larger of backward pass and optimizer step, with CUDA's own share."""
        held = self.weights + self.master + self.optimizer + self.averages + self.gradients + self.encoders
        return held + max(self.activations + self.buffers, self.update) + CONTEXT


def training_memory(train: Train, *, trained: int, frozen: int, encoders: int, activations: int) -> Memory:
    """What one training process holds.

    Args:
        train: engine, ZeRO stage, workers, precision, averages and offloading are read.
        trained, frozen: parameters of the module that learn, that do not.
        encoders: parameters of VAE and text encoder.
        activations: bytes, counted in the precision of the module.
    """
    everything = trained + frozen
    width = 2 if in_half(train) else 4
    averages = 4 * -(-trained // processes(train)) if train.ema_decay else 0
    casts = 0
    if train.precision != "fp32" and width == 4 and train.activation_checkpointing is not True:
        # Autocast keeps a copy of every trained weight until the backward pass. Checkpointing casts block by block.
        casts = 2 * trained
    if train.engine == "torch":
        return Memory(
            weights=4 * trained + (4 if train.precision == "fp32" else 2) * frozen + casts,
            master=0,
            optimizer=8 * trained,
            averages=averages,
            gradients=4 * trained,
            encoders=4 * encoders,
            activations=activations,
            buffers=0,
            update=0,
        )
    stage = train.zero_stage
    part = -(-trained // (processes(train) if stage else 1))
    weights, buffers = width * everything, width * BUCKET if stage else 0
    if stage == 3:
        buffers = width * min(everything, GATHERED)
        weights = -(-weights // processes(train))
    return Memory(
        weights=weights + casts,
        master=4 * part if (stage or width == 2) and not train.offload_optimizer else 0,
        optimizer=0 if train.offload_optimizer else 8 * part,
        averages=averages,
        gradients=width * (part if stage >= 2 else trained),
        encoders=4 * encoders,
        activations=activations,
        buffers=buffers,
        update=(8 - width) * part
        if stage and not train.offload_optimizer
        else 0,  # the gradients flattened, and once more in fp32
    )


def processes(train: Train) -> int:
    """Training processes; the plain engine has one, whatever `train.workers` says."""
    return 1 if train.engine == "torch" else train.workers


def in_half(train: Train) -> bool:
    """Whether the networks themselves are in 16 bit; else autocast casts what they compute with (infra/zero.py)."""
    return train.precision == "fp16" and train.engine == "deepspeed"
