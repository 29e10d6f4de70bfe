"""Segmentation networks: RGB images in, one logit of the lesion per pixel out.

All take (N, 3, H, W) in [-1, 1] to logits (N, 1, H, W), with one foreground channel and random weights.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from monai.networks.nets.attentionunet import AttentionUnet
from monai.networks.nets.basic_unet import BasicUNet
from monai.networks.nets.flexible_unet import FlexibleUNet
from monai.networks.nets.segresnet import SegResNet
from monai.networks.nets.swin_unetr import SwinUNETR
from monai.networks.nets.unet import UNet
from torch import nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerModel
from transformers.utils import logging as transformers_logging

from siamdiff.errors import UserError
from siamdiff.model.weights import LOADING_ERRORS

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
_SEGFORMERS = {
    "segformer-b0": (_NARROW, (2, 2, 2, 2), 256),
    "segformer-b1": (_WIDE, (2, 2, 2, 2), 256),
    "segformer-b2": (_WIDE, (3, 4, 6, 3), 768),
    "segformer-b3": (_WIDE, (3, 4, 18, 3), 768),
    "segformer-b4": (_WIDE, (3, 8, 27, 3), 768),
    "segformer-b5": (_WIDE, (3, 6, 40, 3), 768),
}
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of values in [0, 1]


def unet(features: tuple[int, int, int, int, int, int] = SMALL_UNET) -> BasicUNet:
    """MONAI's BasicUNet from (N, 3, H, W) in [-1, 1] to logits (N, 1, H, W), H and W at least 16.

    Args:
        features: channels of the five levels from fine to coarse, and of the last layer.
    """
    # Batch norm: instance norm would remove each image's own colour, often all that sets a lesion off.
    return BasicUNet(spatial_dims=2, in_channels=3, out_channels=1, features=features, norm="batch")


class Segformer(nn.Module):
    """transformers' SegFormer, its logits at a quarter of the side brought to the images' size (bilinear).

    Args:
        name: segformer-b0 to segformer-b5.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        hidden_sizes, depths, decoder = _SEGFORMERS[name]
        config = SegformerConfig(
            hidden_sizes=list(hidden_sizes), depths=list(depths), decoder_hidden_size=decoder
        )
        config.num_labels = 1
        self.network = SegformerForSemanticSegmentation(config)
        self.mean: torch.Tensor
        self.std: torch.Tensor
        # Pretrained encoders expect ImageNet's normalisation, here of [-1, 1] instead of [0, 1].
        self.register_buffer("mean", torch.tensor(_IMAGENET_MEAN).view(3, 1, 1) * 2 - 1, persistent=False)
        self.register_buffer("std", torch.tensor(_IMAGENET_STD).view(3, 1, 1) * 2, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, 1, H, W) of images (N, 3, H, W) in [-1, 1]."""
        logits = self.network((x - self.mean) / self.std).logits  # (N, 1, H/4, W/4)
        return F.interpolate(logits, size=x.shape[2:], mode="bilinear", align_corners=False)

    def load_encoder(self, folder: Path) -> None:
        """Takes the encoder's weights from a SegFormer in transformers' layout.

        Raises:
            UserError: none there, or one of another size.
        """
        try:
            with _quiet():
                loaded: Any = SegformerModel.from_pretrained(
                    folder, local_files_only=True, output_loading_info=True
                )
            encoder, report = loaded
            if report["missing_keys"]:
                raise ValueError(f"{len(report['missing_keys'])} tensors are missing")
            self.network.segformer.load_state_dict(encoder.state_dict())
        except LOADING_ERRORS as error:
            raise UserError(
                f"segment.encoder {folder} holds no encoder of this size ({' '.join(str(error).split())[:120]}); give "
                "a folder with config.json and model.safetensors of the same SegFormer size, or other segment.networks"
            ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' table of the head's weights, which are not wanted, and its progress bar."""
    level, has_bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if has_bar:
            transformers_logging.enable_progress_bar()


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
        partial(UNet, 2, 3, 1, (16, 32, 64, 128, 256), (2, 2, 2, 2), num_res_units=2, norm="batch"), 2e-3, 16
    ),
    "attention-unet": Architecture(
        partial(AttentionUnet, 2, 3, 1, (16, 32, 64, 128, 256), (2, 2, 2, 2)), 2e-3, 16
    ),
    "segresnet": Architecture(
        partial(SegResNet, spatial_dims=2, in_channels=3, out_channels=1, init_filters=16), 2e-3, 8
    ),
    "swin-unetr": Architecture(
        partial(SwinUNETR, 3, 1, feature_size=24, norm_name="batch", spatial_dims=2), 1e-3, 32
    ),
    "flexible-unet": Architecture(partial(FlexibleUNet, 3, 1, "efficientnet-b0"), 1e-3, 32),
    **{name: Architecture(partial(Segformer, name), 5e-4, 32) for name in _SEGFORMERS},
}


def is_segformer(name: str) -> bool:
    """Whether a network can begin with a pretrained SegFormer encoder."""
    return name in _SEGFORMERS


def build_network(name: str, encoder: Path | None = None) -> nn.Module:
    """A network by its name, from torch's current seed.

    Args:
        name: one of ARCHITECTURES.
        encoder: folder of a pretrained SegFormer; for the others it is not used.

    Raises:
        UserError: an encoder of another size.
    """
    network = ARCHITECTURES[name].build()
    if encoder and isinstance(network, Segformer):
        network.load_encoder(encoder)
    return network
