"""What makes the networks faster without changing what they compute, up to the last bits; and what is not let be."""

import inspect
from itertools import count
from typing import Any

import torch
import torch._dynamo
from torch import nn

RECOMPILATIONS = 128  # of all blocks together, where PyTorch cannot count them apart
# The parts of UNet, ControlNet and adapter that are worth a compilation of their own.
COMPILED = ("down_blocks", "mid_block", "up_blocks", "controlnet_cond_embedding", "adapter")
_NUMBERS = count()  # of the blocks that this process has compiled


def forbid_tf32() -> None:
    """Makes fp32 mean fp32 in this process: convolutions would else run in TF32 on newer GPUs."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def use_channels_last(*networks: nn.Module) -> None:
    """Lays activations out channels last: what GPUs' convolutions in half precision want.

    Inputs are turned at each convolution, since an attention block returns to the default layout; outputs follow.
    The weights stay as they are: DeepSpeed keeps its own, flat ones.
    """
    for network in networks:
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_pre_hook(_turned)


def _turned(_module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (arguments[0].contiguous(memory_format=torch.channels_last), *arguments[1:])


def compile_blocks(*networks: nn.Module) -> None:
    """Compiles the networks block by block, in place: names of parameters stay, and the loss stays PyTorch's own.

    Not the whole step, which takes a gradient in its middle (losses.image_loss). The number of samples in a pass is a
    symbol from the second one on that a block sees (Online-Augmentation's changes from step to step), so that a few
    steps compile all that a run needs.
    """
    # Newer PyTorch counts recompilations block by block; before, all blocks share one limit, which 8 of them fill.
    apart = "isolate_recompiles" in inspect.signature(torch.compile).parameters
    if not apart:
        torch._dynamo.config.recompile_limit = RECOMPILATIONS
    for network in networks:
        for name in COMPILED:
            part = getattr(network, name, None)
            for block in part if isinstance(part, nn.ModuleList) else filter(None, [part]):
                _compile(block, **({"isolate_recompiles": True} if apart else {}))


def _compile(block: nn.Module, **options: Any) -> None:
    """As `block.compile(**options)`, but what the block sees makes no dimension of another block a symbol.

    PyTorch remembers by the name of the code which dimensions change, and all modules share one `__call__`. Heights,
    widths and channels, which differ from block to block, would be symbols in each of them from the second block on:
    slower kernels, and in PyTorch 2.13 a compilation that fails where strides of views are to be sorted.
    """

    def call(*args: Any, **kwargs: Any) -> Any:
        return block._call_impl(*args, **kwargs)

    call.__code__ = call.__code__.replace(co_name=f"{type(block).__name__}_{next(_NUMBERS)}")
    block._compiled_call_impl = torch.compile(call, **options)


def hold_frozen(network: nn.Module, dtype: torch.dtype) -> None:
    """Casts the frozen weights of convolutions and linear maps, in place, to the precision that autocast computes in.

    Autocast would cast them at every pass, to the same bits: it remembers its casts of weights that learn alone. Norms
    stay, since autocast takes them in fp32.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and not module.weight.requires_grad:
            module.to(dtype)
