"""LPIPS: how different two images look, by the features of a network inside (Zhang et al. 2018, Eq. 1).

    d(x, y) = sum over layers l, of the mean over places, of w_l . (f_l(x) - f_l(y))^2

where f_l is the layer's features at a place, scaled to unit length.

The backbones are those that learnt weights w ("heads", version 0.1) exist for; their layers are torchvision's, by whose
names (features.0.weight, ...) weights files call them.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

from siamdiff.errors import UserError
from siamdiff.evaluation.features import FeatureSpec
from siamdiff.model.weights import LOADING_ERRORS

# The constants of the published code, which bring -1..1 to the statistics of ImageNet.
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_TINY = 1e-10


@dataclass(frozen=True)
class Backbone:
    """Which layers of which network are compared."""

    layers: list[nn.Module]
    ends: tuple[int, ...]  # a compared feature is what comes out before each of these layers
    channels: tuple[int, ...]


def backbone(name: str) -> Backbone:
    """The untrained layers of "squeezenet" (1.1), "alexnet" or "vgg16"."""
    match name:
        case "squeezenet":
            ends, channels = (2, 5, 8, 10, 11, 12, 13), (64, 128, 256, 384, 384, 512, 512)
            return Backbone(_squeezenet(), ends, channels)
        case "alexnet":
            return Backbone(_alexnet(), (2, 5, 8, 10, 12), (64, 192, 384, 256, 256))
        case "vgg16":
            return Backbone(_vgg16(), (4, 9, 16, 23, 30), (64, 128, 256, 512, 512))
    raise ValueError(f"LPIPS has no backbone {name!r}")


class Lpips:
    """LPIPS between pairs of images.

    Args:
        name: of the backbone.
        weights: file of its weights, torchvision's names: .npz, .safetensors or a state dict (.pth); more than the
            features may be in it.
        heads: file of the learnt weights, `lin0.model.1.weight` and so on, version 0.1.
        device: "cpu" or "cuda".
        label: part of figures' names.

    Raises:
        UserError: files of something else.
    """

    def __init__(
        self, name: str, weights: Path, heads: Path, device: str = "cpu", *, label: str | None = None
    ) -> None:
        parts = backbone(name)
        self._layers = nn.Sequential(*parts.layers)
        wanted = {f"features.{key}": value for key, value in self._layers.state_dict().items()}
        found = _fitting(read_tensors(weights), wanted, f"{weights} holds no {name}")
        self._layers.load_state_dict({key.removeprefix("features."): found[key] for key in wanted})
        shapes = {
            f"lin{i}.model.1.weight": torch.empty(1, count, 1, 1) for i, count in enumerate(parts.channels)
        }
        learnt = _fitting(read_tensors(heads), shapes, f"{heads} holds no LPIPS heads of {name}")
        self._heads = [learnt[key].to(device) for key in shapes]
        self._layers.requires_grad_(False).eval().to(device)
        self._ends, self._device = parts.ends, device
        self._shift = torch.tensor(_SHIFT, device=device).view(3, 1, 1)
        self._scale = torch.tensor(_SCALE, device=device).view(3, 1, 1)
        self.spec = FeatureSpec(
            label=label or name,
            weights=f"{weights.name}, {heads.name}",
            layer=f"{len(parts.ends)} layers, heads v0.1",
            dimensions=sum(parts.channels),
            resize="none",
            normalization="(x - shift) / scale of the published code on -1..1",
        )

    @torch.inference_mode()
    def __call__(self, images: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Distances float32 (N,) of images uint8 (N, H, W, 3) RGB and as many others of that size; 0 for equal ones."""
        values = [
            self._distance(images[i : i + 1], others[i : i + 1]) for i in range(len(images))
        ]  # one by one: vgg16 at 512 pixels takes a gigabyte
        return np.array(values, np.float32)

    def _distance(self, image: np.ndarray, other: np.ndarray) -> float:
        both = torch.from_numpy(np.concatenate([image, other])).to(self._device)  # (2, H, W, 3)
        x = (both.permute(0, 3, 1, 2).float() / 127.5 - 1 - self._shift) / self._scale
        total = torch.zeros((), device=self._device)
        start = 0
        for end, head in zip(self._ends, self._heads, strict=True):
            x = self._layers[start:end](x)
            f = x / (x.square().sum(1, keepdim=True).sqrt() + _TINY)  # (2, C, h, w)
            total += F.conv2d((f[:1] - f[1:]).square(), head).mean()
            start = end
        return float(total)


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file of weights, float32 on the CPU, by name.

    Raises:
        UserError: no .npz, .safetensors or state dict without code.
    """
    content: Any
    try:
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as arrays:
                content = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        elif file.suffix == ".safetensors":
            content = safetensors.torch.load_file(file)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of a TorchScript, which is refused below
                content = torch.load(file, map_location="cpu", weights_only=True)
    except LOADING_ERRORS as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(
            f"{file} holds no weights that can be read ({reason}); give .npz, .safetensors or .pth"
        ) from error
    if not isinstance(content, Mapping):
        raise UserError(f"{file} holds no state dict; give .npz, .safetensors or .pth with weights by name")
    return {str(name): value.float() for name, value in content.items() if isinstance(value, torch.Tensor)}


def _fitting(
    found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], message: str
) -> dict[str, torch.Tensor]:
    for name, value in wanted.items():
        if name not in found or found[name].shape != value.shape:
            got = f"is {tuple(found[name].shape)}" if name in found else "is missing"
            raise UserError(f"{message}: {name} {tuple(value.shape)} {got}; give the file of that network")
        if not found[name].isfinite().all():
            raise UserError(f"{message}: {name} is not finite; give the file of that network")
    return {name: found[name] for name in wanted}


class _Fire(nn.Module):
    """SqueezeNet's module (Iandola et al. 2016): few channels, then two kinds of filters side by side."""

    def __init__(self, inputs: int, few: int, each: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, few, 1)
        self.expand1x1 = nn.Conv2d(few, each, 1)
        self.expand3x3 = nn.Conv2d(few, each, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))], 1)


def _squeezenet() -> list[nn.Module]:
    def pool() -> nn.Module:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    return [
        nn.Conv2d(3, 64, 3, 2), nn.ReLU(),
        pool(), _Fire(64, 16, 64), _Fire(128, 16, 64),
        pool(), _Fire(128, 32, 128), _Fire(256, 32, 128),
        pool(), _Fire(256, 48, 192), _Fire(384, 48, 192), _Fire(384, 64, 256), _Fire(512, 64, 256),
    ]  # fmt: skip


def _alexnet() -> list[nn.Module]:
    return [
        nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(),
    ]  # fmt: skip


def _vgg16() -> list[nn.Module]:
    layers: list[nn.Module] = []
    inputs = 3
    for block, (channels, depth) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))):
        if block:
            layers.append(nn.MaxPool2d(2, 2))
        for _ in range(depth):
            layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.ReLU()]
            inputs = channels
    return layers
