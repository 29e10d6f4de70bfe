"""Copies: synthetic images that come nearer to a training image than real images of different patients do.

Diffusion models may give training images away, medical ones too (Carlini et al. 2023; Dar et al. 2023), and do so the
more, the fewer there are. An image is a copy if a training image is within a limit in either of two spaces: features,
which forgive mirroring and small shifts but neither blur nor noise, and pixels of a small version, which forgive blur,
noise, compression and brightness but no shift. Asking for both would miss what either forgives (docs/generate.md has
the figures). Both distances are 1 - cosine, from 0 to 2.

The limits come from the real images: of each group take the smallest distance of its images to those of other groups.
The limit is the k-th smallest of these G numbers with k = floor(q (G + 1)) - 1. A new group, had it come with the
others, is nearer to them than that with probability (k + 1) / (G + 1) <= q at most, whatever the distribution: at most
k - 1 of G + 1 exchangeable groups can be strictly nearer, and two that are each other's nearest tie (the argument is
that of conformal prediction, Vovk et al. 2005). It is below one of the two limits with 2 q at most.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import safetensors.numpy
import torch
import torch.nn.functional as F
from safetensors import SafetensorError

from siamdiff.errors import SiamdiffError
from siamdiff.evaluation.features import EFFICIENTNET, EfficientNetLite0

SIDE = 16  # pixels of the small version; what compression and noise change is averaged away
ROUNDING = 1e-5  # the distance of equal images in float32, and more; no limit is below it
_CHUNK = 1024  # images that are compared with all others at a time


@dataclass(frozen=True)
class Limits:
    """What is a copy, and what that was reckoned from."""

    features: float  # 1 - cosine, up to which an image is a copy
    pixels: float
    images: int
    groups: int  # G
    rank: int  # k; 0: too few groups for the quantile

    @property
    def basis(self) -> str:
        """In words, what the limits are."""
        if self.groups < 2:
            return f"equal images alone: the {self.images} training images are of one group"
        if not self.rank:
            return f"half the smallest distance of training images: {self.groups} groups are too few for the quantile"
        return f"number {self.rank} of {self.groups} distances of a group to its nearest other one, smallest first"

    def as_dict(self) -> dict[str, Any]:
        """As plain values for JSON, `basis` among them."""
        return asdict(self) | {"basis": self.basis}


@dataclass(frozen=True)
class Training:
    """The training images in both spaces: unit vectors, float32 (N, 1280) and (N, 3 SIDE^2)."""

    features: np.ndarray
    pixels: np.ndarray

    def to_bytes(self) -> bytes:
        """As safetensors."""
        return safetensors.numpy.save({"features": self.features, "pixels": self.pixels})

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> "Training":
        """What `to_bytes` gave; `name` is for the message.

        Raises:
            SiamdiffError: something else.
        """
        try:
            return cls(**safetensors.numpy.load(data))
        except (SafetensorError, TypeError) as error:
            raise SiamdiffError(
                f"{name} is damaged ({error}); delete it and run the same command again"
            ) from error


@dataclass(frozen=True)
class Nearest:
    """How near each of N images comes to the training images."""

    features: np.ndarray  # smallest distance in features, float (N,)
    pixels: np.ndarray  # smallest distance in pixels, float (N,)
    closeness: np.ndarray  # the smaller of both by its limit, float (N,); at most 1 for copies
    row: np.ndarray  # the training image of that distance, int (N,)
    is_copy: np.ndarray  # bool (N,)


class BothSpaces:
    """Images in both spaces as rows of one array, of which `from_rows` makes `Training` again.

    Args:
        device: "cpu" or "cuda".
    """

    spec = EFFICIENTNET

    def __init__(self, device: str = "cpu") -> None:
        self._extract = EfficientNetLite0(device)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Float32 (N, 1280 + 3 SIDE^2) of images uint8 (N, H, W, 3): features as they are, pixels of unit length."""
        return np.concatenate([self._extract(images), small_pixels(images)], 1)


def from_rows(rows: np.ndarray) -> Training:
    """The images of `BothSpaces`."""
    count = EFFICIENTNET.dimensions
    return Training(unit(rows[:, :count]), np.ascontiguousarray(rows[:, count:]))


def small_pixels(images: np.ndarray) -> np.ndarray:
    """Unit vectors float32 (N, 3 SIDE^2) of images uint8 (N, H, W, 3): area means, each channel's mean taken off.

    So their cosine is a correlation, which neither brightness nor contrast nor a cast of colour changes. An image of
    one colour is the zero vector, near to none.
    """
    x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()
    small = F.interpolate(x, size=(SIDE, SIDE), mode="area")  # (N, 3, SIDE, SIDE)
    return unit((small - small.mean((2, 3), keepdim=True)).flatten(1).numpy())


def calibrate(training: Training, groups: list[str], quantile: float) -> Limits:
    """The limits in both spaces, see the module's head.

    With too few groups for a rank of 1 they are half the smallest distance, and with a single group just above 0.

    Args:
        training: the training images.
        groups: patient or video of each.
        quantile: q in (0, 1), share of new groups that may be taken for copies in each space.
    """
    labels = labels_of(groups)
    spaces = (training.features, training.pixels)
    return limits_of([_nearest_of_others(space, labels) for space in spaces], labels, quantile)


def labels_of(groups: Sequence[str]) -> np.ndarray:
    """Groups as numbers from 0, int (N,)."""
    return np.unique(np.array(groups), return_inverse=True)[1]


def limits_of(distances: Sequence[np.ndarray], labels: np.ndarray, quantile: float) -> Limits:
    """The limits that distances measured in another way give.

    Args:
        distances: of each training image to the nearest one of another group, (N,), in features and in pixels.
        labels: group of each, `labels_of`.
        quantile: as in `calibrate`.
    """
    count = int(labels.max()) + 1
    if count < 2:
        return Limits(ROUNDING, ROUNDING, len(labels), count, 0)
    rank = max(int(quantile * (count + 1)) - 1, 0)
    found = []
    for of_images in distances:
        of_groups = np.full(count, np.inf)
        np.minimum.at(of_groups, labels, of_images)
        nearest = np.sort(of_groups)
        found.append(max(float(nearest[rank - 1] if rank else nearest[0] / 2), ROUNDING))
    return Limits(found[0], found[1], len(labels), count, rank)


def nearest(images: Training, training: Training, limits: Limits) -> Nearest:
    """Compares images with the training images, both in both spaces."""
    features, in_features = _nearest(images.features, training.features)
    pixels, in_pixels = _nearest(images.pixels, training.pixels)
    by_features, by_pixels = features / limits.features, pixels / limits.pixels
    return Nearest(
        features=features,
        pixels=pixels,
        closeness=np.minimum(by_features, by_pixels),
        row=np.where(by_features <= by_pixels, in_features, in_pixels),
        is_copy=(features <= limits.features) | (pixels <= limits.pixels),
    )


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of (N, D) scaled to length 1, float32; zeros stay."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(norms, 1e-6)).astype(np.float32)


class CopyFilter:
    """Compares images with the training images.

    Args:
        training: the training images, kept on `device`.
        limits: what is a copy.
        device: "cpu" or "cuda".
    """

    def __init__(self, training: Training, limits: Limits, device: str = "cpu") -> None:
        self.limits = limits
        self._embed = BothSpaces(device)
        self._device = device
        self._features = torch.from_numpy(training.features).to(device)
        self._pixels = torch.from_numpy(training.pixels).to(device)

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of images uint8 (N, H, W, 3): the smallest distance in features and in pixels, float (N,) each."""
        of = from_rows(self._embed(images))
        return self._nearest(of.features, self._features), self._nearest(of.pixels, self._pixels)

    def _nearest(self, vectors: np.ndarray, training: torch.Tensor) -> np.ndarray:
        similar = torch.from_numpy(vectors).to(self._device) @ training.T  # (N, M)
        return 1 - similar.amax(1).cpu().numpy()


def _nearest_of_others(vectors: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Distance of each row to the nearest one with another label, (N,)."""
    nearest = []
    for start in range(0, len(vectors), _CHUNK):
        rows = slice(start, start + _CHUNK)
        distances = 1 - vectors[rows] @ vectors.T  # (chunk, N)
        nearest.append(np.where(labels[rows, None] == labels, np.inf, distances).min(1))
    return np.concatenate(nearest)


def _nearest(vectors: np.ndarray, training: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance of each row of (N, D) to the nearest of (M, D), and which that is."""
    distances, rows = [], []
    for start in range(0, len(vectors), _CHUNK):
        between = 1 - vectors[start : start + _CHUNK] @ training.T  # (chunk, M)
        rows.append(between.argmin(1))
        distances.append(between.min(1))
    return np.concatenate(distances), np.concatenate(rows)
