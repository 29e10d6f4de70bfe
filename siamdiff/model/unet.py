"""Stable Diffusion's UNet in two halves, so that one pass of the frozen encoder can serve several decoders.

`decode(unet, encode(unet, z_t, t, text), text)` equals `unet(z_t, t, text)`. Networks are diffusers' own classes, and
every submodule is reached through its `__call__`: ZeRO-3 gathers partitioned weights in hooks on exactly those calls.

Shapes: z_t (B, 4, h, w); t (B,); text (B, L, D); maps in encoder order, the l-th (B, C_l, h_l, w_l).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn

Controls = tuple[
    Tensor, ...
]  # one map per skip connection in encoder order, the middle block's last (13 for SD 1.5)

# The parts of the UNet that Siamese-Diffusion trains; encoder, middle block and time embedding stay frozen.
TRAINED_PARTS = ("up_blocks", "conv_norm_out", "conv_out")
TrainedUNet = Literal["decoder", "none", "all"]


@dataclass(frozen=True)
class Encoded:
    """What an encoder hands on."""

    skips: tuple[Tensor, ...]  # encoder order, (B, C_l, h_l, w_l)
    middle: Tensor  # (B, C, h_min, w_min)
    emb: Tensor  # (B, 4 C0), the time embedding


def encode(
    network: UNet2DConditionModel | ControlNetModel,
    z_t: Tensor,
    t: Tensor,
    text: Tensor,
    hint: Tensor | None = None,
    residuals: tuple[Tensor, ...] = (),
) -> Encoded:
    """Time embedding, encoder and middle block: of a UNet or, being a copy of these, of a ControlNet.

    Args:
        network: the network whose first half runs, in its own dtype.
        z_t, t, text: (B, 4, h, w), (B,), (B, L, D).
        hint: (B, C0, h, w), added to the first convolution's output (ControlNet's way in).
        residuals: one map per level (T2I-Adapter's way in), added to the level's last features: with cross-attention
            before the down-sampling, else after it. That is diffusers' order, which trained adapters expect.
    """
    dtype = network.dtype
    z_t, text = z_t.to(dtype), text.to(dtype)
    emb = network.time_embedding(network.time_proj(t).to(dtype))  # (B, 4 C0)
    x = network.conv_in(z_t)  # (B, C0, h, w)
    x = x if hint is None else x + hint
    skips = [x]
    for level, block in enumerate(network.down_blocks):
        context = _context(block, text)
        residual = residuals[level] if residuals else None
        if context and residual is not None:
            context["additional_residuals"] = residual
        x, block_skips = block(hidden_states=x, temb=emb, **context)  # (B, C_l, h_l, w_l)
        if not context and residual is not None:
            x = x + residual
            block_skips = (*block_skips[:-1], x)
        skips.extend(block_skips)
    x = network.mid_block(x, emb, **_context(network.mid_block, text))  # (B, C, h_min, w_min)
    return Encoded(tuple(skips), x, emb)


def decode(
    unet: UNet2DConditionModel, encoded: Encoded, text: Tensor, controls: Controls | None = None
) -> Tensor:
    """Up blocks and output convolution: the predicted noise (B, 4, h, w), in the UNet's dtype.

    Args:
        unet: the UNet that `encoded` came from.
        encoded: output of `encode`.
        text: (B, L, D).
        controls: ControlNet's maps, each added to its skip connection, the last to the middle block's output.
    """
    text = text.to(unet.dtype)
    skips, x = list(encoded.skips), encoded.middle
    if controls is not None:
        skips = [skip + control for skip, control in zip(skips, controls[:-1], strict=True)]
        x = x + controls[-1]
    for block in unet.up_blocks:
        n = len(block.resnets)
        skips, block_skips = skips[:-n], tuple(skips[-n:])
        # Up-sample to the next skip's size: twice the own one, or one less where a side is odd.
        size = skips[-1].shape[2:] if skips else None
        x = block(
            hidden_states=x,
            temb=encoded.emb,
            res_hidden_states_tuple=block_skips,
            upsample_size=size,
            **_context(block, text),
        )  # (B, C_l, 2 h_l, 2 w_l)
    x = unet.conv_act(unet.conv_norm_out(x))
    return unet.conv_out(x)  # (B, 4, h, w)


def freeze_untrained(unet: UNet2DConditionModel, trained: TrainedUNet = "decoder") -> None:
    """Lets the parts of the UNet learn that are named: the decoder (TRAINED_PARTS, the paper's), none, or all."""
    unet.requires_grad_(trained == "all")
    if trained == "decoder":
        for part in TRAINED_PARTS:
            unet.get_submodule(part).requires_grad_(True)


@contextmanager
def weights_at_rest(unet: UNet2DConditionModel) -> Iterator[None]:
    """Within the block the decoder's weights ask for no gradient, where its blocks are compiled and recompute nothing.

    PyTorch itself computes only the gradients that are asked for. A compiled block computes those of all its weights
    that could learn, a quarter of the arithmetic of its backward pass, unless they say beforehand that they do not.
    With activation checkpointing DeepSpeed's hooks do not bear it: there it does nothing.
    """
    compiled = any(block._compiled_call_impl is not None for block in unet.up_blocks)
    resting = compiled and not unet.is_gradient_checkpointing
    weights = [p for p in unet.up_blocks.parameters() if p.requires_grad] if resting else []
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


def _context(block: nn.Module, text: Tensor) -> dict[str, Tensor]:
    """Blocks without cross-attention take no text."""
    return {"encoder_hidden_states": text} if getattr(block, "has_cross_attention", False) else {}
