"""Looking at a model while it is trained: without gradients, in training's precision, on all workers alike.

Where ZeRO has spread the weights over the workers, a pass of one needs all of them: each makes the same number.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch

from siamdiff.config import Config
from siamdiff.model.adapter import AdapterDiffusion
from siamdiff.model.siamese import SiameseDiffusion
from siamdiff.training.context import Context
from siamdiff.training.engine import DTYPES

BATCH = 4  # samples in a pass: it fits wherever training does, which keeps activations for the backward pass

TrainedModel = SiameseDiffusion | AdapterDiffusion


@dataclass(frozen=True)
class Pass:
    """Samples that a worker takes through the networks at once."""

    positions: range  # among all samples
    counts: bool  # False: made only because other workers make one; of weight 0


def passes(num_samples: int, context: Context) -> list[Pass]:
    """This worker's passes over samples 0 to num_samples - 1, at least one; all workers have as many passes.

    Which samples share a pass does not depend on the number of workers, so that neither do the results' last bits.
    """
    batches = [range(first, min(first + BATCH, num_samples)) for first in range(0, num_samples, BATCH)]
    rounds = -(-len(batches) // context.world_size)
    mine = [i * context.world_size + context.rank for i in range(rounds)]
    return [Pass(batches[i] if i < len(batches) else batches[0], i < len(batches)) for i in mine]


@contextmanager
def inference(model: TrainedModel, config: Config) -> Iterator[None]:
    """While the block runs the networks are in evaluation mode, without autograd, and round as they do in training.

    Nothing is compiled for it: these passes have other shapes than training's, and are few.

    Args:
        model: the trained module itself, not an engine around it; left as it was found.
        config: precision and compilation of training are read.
    """
    precision, modes = config.train.precision, [(module, module.training) for module in model.modules()]
    # DeepSpeed's fp16 has networks in fp16; all else has what learns in fp32, and autocast rounds.
    lowers = precision != "fp32" and model.control.dtype == torch.float32
    autocast = torch.autocast(
        model.alphas_cumprod.device.type, DTYPES[precision], enabled=lowers, cache_enabled=False
    )
    uncompiled = torch.compiler.set_stance("force_eager") if config.train.compile else nullcontext()
    model.eval()
    try:
        with torch.no_grad(), autocast, uncompiled:
            yield
    finally:
        for module, mode in modes:
            module.training = mode
