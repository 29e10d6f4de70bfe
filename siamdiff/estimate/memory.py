"""Memory of one training process on its GPU, from sizes and settings: pure arithmetic, in bytes.

What DeepSpeed keeps is that of version 0.19: from stage 1 on every process holds an fp32 copy of its part of the
trained weights, in fp32 training too.
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
    gradients: int
    encoders: int  # frozen VAE and text encoder, fp32
    activations: int
    buffers: int  # of DeepSpeed, while gradients are computed
    update: int  # passing tensors of the optimizer's step, when no activations are there

    @property
    def peak(self) -> int:
        """The larger of backward pass and optimizer step, with CUDA's own share."""
        held = self.weights + self.master + self.optimizer + self.gradients + self.encoders
        return held + max(self.activations + self.buffers, self.update) + CONTEXT


def training_memory(train: Train, *, trained: int, frozen: int, encoders: int, activations: int) -> Memory:
    """What one training process holds.

    Args:
        train: engine, ZeRO stage, workers and precision are read.
        trained, frozen: parameters of the module that learn, that do not.
        encoders: parameters of VAE and text encoder.
        activations: bytes, counted in the precision of the module.
    """
    width = 4 if train.precision == "fp32" else 2
    everything = trained + frozen
    if train.engine == "torch":  # autocast: fp32 weights, cast for each pass
        return Memory(
            weights=4 * everything + (0 if width == 4 else width * everything),
            master=0,
            optimizer=8 * trained,
            gradients=4 * trained,
            encoders=4 * encoders,
            activations=activations,
            buffers=0,
            update=0,
        )
    stage = train.zero_stage
    part = -(-trained // (train.workers if stage >= 1 else 1))
    weights, buffers = width * everything, 0
    if stage == 3:
        weights = -(-weights // train.workers)
        buffers = width * min(everything, GATHERED)
    elif stage:
        buffers = width * BUCKET
    return Memory(
        weights=weights,
        master=0 if stage == 0 and width == 4 else 4 * part,
        optimizer=8 * part,
        gradients=width * (part if stage >= 2 else trained),
        encoders=4 * encoders,
        activations=activations,
        buffers=buffers,
        update=(8 - width)
        * part,  # gradients once more in fp32, then the root of the second moment beside them
    )
