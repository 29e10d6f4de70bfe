"""How far two image sets cover each other, by balls around samples that reach to their k-th nearest neighbour.

Each figure is the mean of one value per image, and is reckoned in float64 on Euclidean distances of features.
"""

import numpy as np
import torch

from siamdiff.errors import SiamdiffError
from siamdiff.evaluation.distances import checked

PRECISION_K = 3  # Kynkaanniemi et al. 2019, Sec. 3
DENSITY_K = 5  # Naeem et al. 2020, Sec. 4
PRECISION = (
    f"share of synthetic images inside a ball around a real one, k = {PRECISION_K} (Kynkaanniemi et al. 2019)"
)
RECALL = (
    f"share of real images inside a ball around a synthetic one, k = {PRECISION_K} (Kynkaanniemi et al. 2019)"
)
DENSITY = f"mean of the real balls that hold a synthetic image, by k, k = {DENSITY_K}; may exceed 1 (Naeem et al. 2020)"
COVERAGE = f"share of real images whose ball holds a synthetic one, k = {DENSITY_K} (Naeem et al. 2020)"
_ROWS = 1024  # of a distance matrix that exist at a time


def precision_recall(
    real: np.ndarray, synthetic: np.ndarray, k: int = PRECISION_K
) -> tuple[np.ndarray, np.ndarray]:
    """Improved precision and recall, Kynkaanniemi et al. 2019, Eq. 1 and 2.

    Args:
        real: features (M, D), M > k.
        synthetic: features (N, D), N > k.
        k: a ball around an image reaches to its k-th nearest neighbour in its own set.

    Returns:
        of each synthetic image whether a real ball holds it, float64 (N,); of each real one whether a synthetic ball
        holds it, (M,). Precision and recall are their means.

    Raises:
        SiamdiffError: no more than k images, or features that are not finite.
    """
    real, synthetic = checked(real), checked(synthetic)
    held, _ = _held(synthetic, real, nearest_radius(real, k))
    held_real, _ = _held(real, synthetic, nearest_radius(synthetic, k))
    return (held > 0).astype(np.float64), (held_real > 0).astype(np.float64)


def density_coverage(
    real: np.ndarray, synthetic: np.ndarray, k: int = DENSITY_K
) -> tuple[np.ndarray, np.ndarray]:
    """Density and coverage, Naeem et al. 2020, Eq. 3 and 4.

    Args:
        real: features (M, D), M > k.
        synthetic: features (N, D).
        k: a ball around a real image reaches to its k-th nearest neighbour among the real ones.

    Returns:
        of each synthetic image the count of real balls that hold it, by k, float64 (N,); of each real one whether its
        ball holds a synthetic image, (M,). Density and coverage are their means.

    Raises:
        SiamdiffError: no more than k real images, or features that are not finite.
    """
    real, synthetic = checked(real), checked(synthetic)
    held, holds = _held(synthetic, real, nearest_radius(real, k))
    return held / k, holds.astype(np.float64)


def nearest_radius(features: np.ndarray, k: int) -> np.ndarray:
    """Distance of each row of (N, D) to its k-th nearest other row, (N,).

    Raises:
        SiamdiffError: no more than k rows.
    """
    if len(features) <= k:
        raise SiamdiffError(
            f"{len(features)} images have no neighbour number {k}; use at least {k + 1} of them"
        )
    radius = []
    for start in range(0, len(features), _ROWS):
        distances = _distances(features[start : start + _ROWS], features)
        rows = np.arange(len(distances))
        distances[rows, start + rows] = -1  # itself, before any copy of it
        radius.append(np.partition(distances, k, axis=1)[:, k])
    return np.concatenate(radius)


def _held(points: np.ndarray, centres: np.ndarray, radius: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each point how many balls hold it, (N,); of each ball whether it holds a point, bool (M,)."""
    counts, holds = [], np.zeros(len(centres), bool)
    for start in range(0, len(points), _ROWS):
        inside = _distances(points[start : start + _ROWS], centres) <= radius
        counts.append(inside.sum(1))
        holds |= inside.any(0)
    return np.concatenate(counts), holds


def _distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return torch.cdist(torch.from_numpy(x), torch.from_numpy(y)).numpy()
