"""Segmentation networks: RGB images in, one logit of the lesion per pixel out.

All take (N, 3, H, W) in [-1, 1] to logits (N, 1, H, W), with one foreground channel and random weights.
"""

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

SMALL_UNET = (
    8,
    16,
    32,
    64,
    64,
    8,
)  # 0.3 M parameters: 300 steps of 16 images of 64 x 64 in half a minute on one core
UNET = (32, 32, 64, 128, 256, 32)  # MONAI's own widths

# hidden sizes, blocks per stage, width of the decoder (Xie et al. 2021, Table 6)
_NARROW, _WIDE = (32, 64, 160, 256), (64, 128, 320, 512)
SEGFORMERS = {
    "segformer-b0": (_NARROW, (2, 2, 2, 2), 256),
    "segformer-b1": (_WIDE, (2, 2, 2, 2), 256),
    "segformer-b2": (_WIDE, (3, 4, 6, 3), 768),
    "segformer-b3": (_WIDE, (3, 4, 18, 3), 768),
    "segformer-b4": (_WIDE, (3, 8, 27, 3), 768),
    "segformer-b5": (_WIDE, (3, 6, 40, 3), 768),
}


def _monai(name: str, *args: Any, **options: Any) -> nn.Module:
    """A network of MONAI, "module:class", imported when it is made: MONAI takes seconds, a job needs names alone."""
    return pkgutil.resolve_name(f"monai.networks.nets.{name}")(*args, **options)


def unet(features: tuple[int, int, int, int, int, int] = SMALL_UNET) -> nn.Module:
    """MONAI's BasicUNet from (N, 3, H, W) in [-1, 1] to logits (N, 1, H, W), H and W at least 16.

    Args:
        features: channels of the five levels from fine to coarse, and of the last layer.
    """
    # Batch norm: instance norm would remove each image's own colour, often all that sets a lesion off.
    return _monai(
        "basic_unet:BasicUNet", spatial_dims=2, in_channels=3, out_channels=1, features=features, norm="batch"
    )


def _segformer(name: str) -> nn.Module:
    from siamdiff.segmentation.segformer import Segformer

    return Segformer(*SEGFORMERS[name])


@dataclass(frozen=True)
class Architecture:
    """How a network is made, and what it asks for."""

    build: Callable[[], nn.Module]
    learning_rate: float  # peak of the one-cycle schedule that suits it from random weights
    multiple: int  # of which the images' side must be one, pixels


ARCHITECTURES: dict[str, Architecture] = {
    "unet-small": Architecture(unet, 5e-3, 8),
    "unet": Architecture(partial(unet, UNET), 2e-3, 8),
    "residual-unet": Architecture(
        partial(
            _monai, "unet:UNet", 2, 3, 1, (16, 32, 64, 128, 256), (2, 2, 2, 2), num_res_units=2, norm="batch"
        ),
        2e-3,
        16,
    ),
    "attention-unet": Architecture(
        partial(_monai, "attentionunet:AttentionUnet", 2, 3, 1, (16, 32, 64, 128, 256), (2, 2, 2, 2)),
        2e-3,
        16,
    ),
    "segresnet": Architecture(
        partial(
            _monai, "segresnet:SegResNet", spatial_dims=2, in_channels=3, out_channels=1, init_filters=16
        ),
        2e-3,
        8,
    ),
    "swin-unetr": Architecture(
        partial(_monai, "swin_unetr:SwinUNETR", 3, 1, feature_size=24, norm_name="batch", spatial_dims=2),
        1e-3,
        32,
    ),
    "flexible-unet": Architecture(
        partial(_monai, "flexible_unet:FlexibleUNet", 3, 1, "efficientnet-b0"), 1e-3, 32
    ),
    **{name: Architecture(partial(_segformer, name), 5e-4, 32) for name in SEGFORMERS},
}


def is_segformer(name: str) -> bool:
    """Whether a network can begin with a pretrained SegFormer encoder."""
    return name in SEGFORMERS


def build_network(name: str, encoder: Path | None = None) -> nn.Module:
    """A network by its name, from torch's current seed.

    Args:
        name: one of ARCHITECTURES.
        encoder: folder of a pretrained SegFormer; for the others it is not used.

    Raises:
        UserError: an encoder of another size.
    """
    network = ARCHITECTURES[name].build()
    if encoder and is_segformer(name):
        from siamdiff.segmentation.segformer import Segformer

        assert isinstance(network, Segformer)
        network.load_encoder(encoder)
    return network
