"""Dense Hint Input (DHI, Sec. 3.4 of the paper): the hint encoder that replaces ControlNet's own.

Shapes: hint image (B, 3, H, W) in [0, 1], H and W multiples of 8; output (B, C0, H/8, W/8), C0 the UNet's first width.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from siamdiff.errors import UserError

HINT_CHANNELS = (16, 32, 64, 128, 256)  # the paper's widths
_STAGES = (range(2), range(2, 4), range(4, 7), range(7, 10), range(10, 13))  # the five: their layers


def conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    """3 x 3 convolution that keeps the resolution."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)


class Residual(nn.Module):
    """Res(c) = SiLU(conv(SiLU(conv(x))) + x)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, channels)
        self.conv2 = conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        return F.silu(self.conv2(F.silu(self.conv1(x))) + x)


class PatchMerge(nn.Module):
    """Halves the resolution: the four pixels of each 2 x 2 cell become one, by LayerNorm and a linear map."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * in_channels)
        self.reduction = nn.Linear(4 * in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H/2, W/2). A cell's pixels are ordered (row, col) = 00, 10, 01, 11."""
        x = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # (B, C, H/2, row, W/2, col)
        x = x.permute(0, 2, 4, 5, 3, 1).flatten(3)  # (B, H/2, W/2, 4C)
        x = self.reduction(self.norm(x))  # (B, H/2, W/2, C')
        return x.permute(0, 3, 1, 2)  # (B, C', H/2, W/2)


class DenseHintInput(nn.Module):
    """Encodes a hint image, mask or photograph alike, to features added to ControlNet's first convolution.

    Its last convolution starts at zero, so an untrained DHI adds nothing. Activation checkpointing of the ControlNet
    that holds it (diffusers' enable_gradient_checkpointing) recomputes its stages: the first two, at full resolution,
    would else keep as much as all the rest of a training step that recomputes.

    Args:
        channels: the five stage widths; there are five because the latent is 8 = 2**3 times smaller than the image,
            and the first two stages work at full resolution. The paper's are 16, 32, 64, 128, 256.
        out_channels: C0, the UNet's first width (320 for Stable Diffusion 1.5).

    Raises:
        UserError: `channels` has not five positive entries.
    """

    gradient_checkpointing = False  # switched by diffusers, which also brings the function that recomputes
    _gradient_checkpointing_func: Callable[..., Tensor]

    def __init__(self, channels: Sequence[int] = HINT_CHANNELS, out_channels: int = 320) -> None:
        super().__init__()
        if len(channels) != 5 or min(channels) < 1:
            raise UserError(
                f"hint_channels is {tuple(channels)}, but DHI needs five positive widths, "
                f"such as the paper's {HINT_CHANNELS}; correct it in the model's configuration"
            )
        c = channels
        self.stages = nn.Sequential(
            *(conv3x3(3, c[0]), Residual(c[0])),  # (B, 16, H, W)
            *(conv3x3(c[0], c[1]), Residual(c[1])),  # (B, 32, H, W)
            *(PatchMerge(c[1], c[2]), conv3x3(c[2], c[2]), Residual(c[2])),  # (B, 64, H/2, W/2)
            *(PatchMerge(c[2], c[3]), conv3x3(c[3], c[3]), Residual(c[3])),  # (B, 128, H/4, W/4)
            *(PatchMerge(c[3], c[4]), conv3x3(c[4], c[4]), Residual(c[4])),  # (B, 256, H/8, W/8)
        )
        self.zero_conv = conv3x3(c[4], out_channels)
        nn.init.zeros_(self.zero_conv.weight)
        nn.init.zeros_(self.zero_conv.bias)  # pyrefly: ignore[bad-argument-type] it has one

    def forward(self, hint: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, C0, H/8, W/8)."""
        x = hint
        for layers in _STAGES:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = self._gradient_checkpointing_func(self._stage, layers, x)
            else:
                x = self._stage(layers, x)
        return self.zero_conv(x)

    def _stage(self, layers: range, x: Tensor) -> Tensor:
        for i in layers:
            x = self.stages[i](x)
        return x
