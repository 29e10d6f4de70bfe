"""transformers' SegFormer, apart from the other networks, which do without transformers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerModel
from transformers.utils import logging as transformers_logging

from siamdiff.errors import UserError
from siamdiff.model.weights import LOADING_ERRORS

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of values in [0, 1]


class Segformer(nn.Module):
    """transformers' SegFormer, its logits at a quarter of the side brought to the images' size (bilinear).

    Args:
        hidden_sizes: of the four stages.
        depths: blocks of each stage.
        decoder: width of the decoder.
    """

    def __init__(self, hidden_sizes: Sequence[int], depths: Sequence[int], decoder: int) -> None:
        super().__init__()
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
