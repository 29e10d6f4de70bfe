"""How near images come to each other, whichever way one was turned, mirrored or cropped.

Features and small pixels are those of siamdiff.evaluation.copies. A mirrored or turned copy leaves both spaces, a
cropped one that of pixels; so the pixels of two images are compared in all 8 positions, and whole against cropped in
both directions. The distance stays symmetric, so limits that come from it keep what is proved of them there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from siamdiff.evaluation.copies import SIDE, BothSpaces, Limits, from_rows, labels_of, limits_of, small_pixels

CROPS = (0.95, 0.9, 0.85)  # shares of the side that is left, the middle of it
CHUNK = 32  # images that are embedded, and compared with all others, at a time
_COMPARED = 256  # real images that are compared with all others at a time


@dataclass(frozen=True)
class Views:
    """N images in both spaces, unit vectors in float32."""

    features: np.ndarray  # (N, 1280)
    pixels: np.ndarray  # (1 + len(CROPS), N, 3 SIDE^2): whole, then cropped

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, rows: "slice | np.ndarray") -> "Views":
        return Views(self.features[rows], self.pixels[:, rows])


@dataclass(frozen=True)
class Distances:
    """Of n images to m others, 1 - cosine, float32 (n, m) each."""

    features: np.ndarray
    pixels: np.ndarray

    def closeness(self, limits: Limits) -> np.ndarray:
        """The smaller of both by its limit, (n, m)."""
        return np.minimum(self.features / limits.features, self.pixels / limits.pixels)


class Embedder:
    """Images uint8 (N, H, W, 3) in both spaces; `device` is "cpu" or "cuda"."""

    def __init__(self, device: str = "cpu") -> None:
        self._embed = BothSpaces(device)

    def __call__(self, images: np.ndarray) -> Views:
        """The views of some images; what one gives does not depend on the others."""
        whole = from_rows(self._embed(images))
        cropped = [small_pixels(_cropped(images, share)) for share in CROPS]
        return Views(whole.features, np.stack([whole.pixels, *cropped]))


def joined(parts: Sequence[Views]) -> Views:
    """Several as one."""
    return Views(
        np.concatenate([part.features for part in parts]), np.concatenate([part.pixels for part in parts], 1)
    )


def _cropped(images: np.ndarray, share: float) -> np.ndarray:
    """The middle of images, as large as they were."""
    side = images.shape[1]
    edge = round((1 - share) / 2 * side)
    x = torch.from_numpy(images[:, edge : side - edge, edge : side - edge]).permute(0, 3, 1, 2).float()
    x = F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)
    return x.round().byte().permute(0, 2, 3, 1).numpy()


class Compared:
    """Real images on a device, with which others are compared.

    Args:
        views: M images.
        device: "cpu" or "cuda".
    """

    def __init__(self, views: Views, device: str = "cpu") -> None:
        self.views, self._device = views, device
        self._features = torch.from_numpy(views.features).to(device)
        self._pixels = torch.from_numpy(np.ascontiguousarray(views.pixels)).to(device)

    @torch.inference_mode()
    def distances(self, of: Views) -> Distances:
        """Of n images to all M; cost and memory grow with n M."""
        features = torch.from_numpy(of.features).to(self._device) @ self._features.T
        similar = torch.full_like(features, -1.0)
        turned = [_positions(torch.from_numpy(view).to(self._device)) for view in of.pixels]
        for position in range(8):
            for there in self._pixels:  # the whole image against the others whole and cropped
                torch.maximum(similar, turned[0][position] @ there.T, out=similar)
            for view in turned[1:]:  # and cropped against the others whole
                torch.maximum(similar, view[position] @ self._pixels[0].T, out=similar)
        return Distances(1 - features.cpu().numpy(), 1 - similar.cpu().numpy())


def _positions(pixels: torch.Tensor) -> list[torch.Tensor]:
    """Small versions (n, 3 SIDE^2) in the 8 positions of a square."""
    x = pixels.reshape(-1, 3, SIDE, SIDE)
    return [torch.rot90(y, times, (2, 3)).flatten(1) for y in (x, x.flip(3)) for times in range(4)]


def of_other_groups(real: Compared, groups: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Distance of each real image to the nearest one of another group, (M,), in features and in pixels.

    Infinite where all are of one group.
    """
    labels, nearest = labels_of(groups), []
    for start in range(0, len(real.views), _COMPARED):
        rows = slice(start, start + _COMPARED)
        found = real.distances(real.views[rows])
        same = labels[rows, None] == labels
        nearest.append([np.where(same, np.inf, of).min(1) for of in (found.features, found.pixels)])
    features, pixels = (np.concatenate([part[space] for part in nearest]) for space in (0, 1))
    return features, pixels


def calibrate(distances: tuple[np.ndarray, np.ndarray], groups: Sequence[str], quantile: float) -> Limits:
    """What is over the threshold, of `of_other_groups` of the training images: see siamdiff.evaluation.copies."""
    return limits_of(distances, labels_of(groups), quantile)
