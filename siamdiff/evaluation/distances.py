"""Distances between the feature distributions of two image sets, each with its real-against-real floor.

A figure's name says the distance and the network: only the Frechet distance on the standard Inception weights may be
called FID, and this module computes none on it.
"""

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from monai.metrics.fid import FIDMetric
from monai.metrics.mmd import MMDMetric

from siamdiff.errors import SiamdiffError
from siamdiff.evaluation.features import FeatureSpec

FRECHET = "squared Frechet distance of fitted Gaussians, unbiased covariances"
MMD = "unbiased squared MMD, linear kernel, random subsets of equal counts"


@dataclass(frozen=True)
class Figure:
    """One number with everything needed to read it."""

    name: str  # such as frechet_efficientnet_lite0
    definition: str
    value: float
    reference: str  # the set compared against
    n_reference: int
    n_synthetic: int
    floor: (
        float | None
    )  # the same distance between two disjoint parts of the reference; None: too few samples
    floor_counts: tuple[int, int] | None  # samples in the two parts
    features: FeatureSpec

    def as_dict(self) -> dict[str, Any]:
        """The figure as plain values for JSON."""
        return asdict(self)


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Squared Frechet distance between Gaussians fitted to features x (N, D) and y (M, D), N, M >= 2.

    |mu_x - mu_y|^2 + tr(S_x + S_y - 2 (S_x S_y)^(1/2)) with unbiased covariances (Heusel et al. 2017, Eq. 6).

    Raises:
        SiamdiffError: features that are not finite, or a matrix root that does not exist numerically.
    """
    x, y = _same_space(x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the way MONAI calls scipy
        try:
            value = FIDMetric()(torch.from_numpy(x), torch.from_numpy(y))
        except ValueError as error:
            raise SiamdiffError(
                f"the Frechet distance of {len(x)} and {len(y)} samples has no real value ({error}); use more samples"
            ) from error
    return _finite(float(value), "Frechet distance", x, y)


def mmd_linear(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased squared maximum mean discrepancy with the linear kernel, of features x and y, both (N, D), N >= 2.

    Gretton et al. 2012, Lemma 6. Unbiased, hence at times slightly below 0.

    Raises:
        SiamdiffError: features that are not finite.
    """
    x, y = _checked(x), _checked(y)
    value = MMDMetric()(torch.from_numpy(x), torch.from_numpy(y))
    return _finite(float(value), "MMD", x, y)


def compare(
    synthetic: np.ndarray, real: np.ndarray, spec: FeatureSpec, reference: str, seed: int
) -> tuple[list[Figure], list[str]]:
    """Every distance between synthetic and real features, and warnings about their meaning.

    The floor is the same distance between two disjoint random parts of the real features. The first part has as many
    samples as the synthetic set, at most half of the real ones, since the bias of the Frechet distance depends on
    the count. MMD needs equal counts: random subsets of the larger set.

    Args:
        synthetic: (N, D), N >= 2.
        real: (M, D), M >= 2.
        spec: the extractor both came from.
        reference: name of the real set, such as "train".
        seed: of the random parts.

    Raises:
        SiamdiffError: fewer than two samples, or features that are not finite.
    """
    if min(len(synthetic), len(real)) < 2:
        raise SiamdiffError(
            f"a distance needs at least 2 samples on each side; there are {len(synthetic)} synthetic and "
            f"{len(real)} real ({reference})"
        )
    rng = np.random.default_rng([seed, 0xF1])
    order = rng.permutation(len(real))
    part = min(len(synthetic), len(real) // 2)
    floor = (real[order[:part]], real[order[part:]]) if part >= 2 else None
    whole = synthetic, real
    frechet = _figure("frechet", FRECHET, frechet_distance, whole, floor, spec, reference)
    whole, floor = _equal_counts(whole, rng), floor and _equal_counts(floor, rng)
    mmd = _figure("mmd_linear", MMD, mmd_linear, whole, floor, spec, reference)
    return [frechet, mmd], _warnings(len(synthetic), len(real), spec)


def _figure(
    name: str,
    definition: str,
    distance: Callable[[np.ndarray, np.ndarray], float],
    sets: tuple[np.ndarray, np.ndarray],
    floor: tuple[np.ndarray, np.ndarray] | None,
    spec: FeatureSpec,
    reference: str,
) -> Figure:
    synthetic, real = sets
    return Figure(
        name=f"{name}_{spec.label}",
        definition=definition,
        value=distance(synthetic, real),
        reference=reference,
        n_reference=len(real),
        n_synthetic=len(synthetic),
        floor=distance(*floor) if floor else None,
        floor_counts=(len(floor[0]), len(floor[1])) if floor else None,
        features=spec,
    )


def _equal_counts(
    sets: tuple[np.ndarray, np.ndarray], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Random subsets of both with as many rows as the smaller has."""
    x, y = sets
    count = min(len(x), len(y))
    return rng.permutation(x)[:count], rng.permutation(y)[:count]


def _warnings(n_synthetic: int, n_real: int, spec: FeatureSpec) -> list[str]:
    smaller = min(n_synthetic, n_real)
    if smaller >= spec.dimensions:
        return []
    return [
        f"frechet_{spec.label}: {smaller} samples for {spec.dimensions} feature dimensions; the value is biased "
        "upwards, compare it only with its floor or with sets of the same counts"
    ]


def _same_space(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x and y, float64, in coordinates of the subspace that they span: at most N + M of them.

    The distance does not change under a rotation, and directions in which no sample varies add nothing to it. With
    fewer samples than dimensions this shrinks the matrix whose root is taken from D to N + M, and removes its null
    space, where that root is numerically worst.
    """
    x, y = _checked(x), _checked(y)
    both = np.concatenate([x, y])
    both = both - both.mean(0)
    if len(both) >= both.shape[1]:
        return x, y
    _, _, directions = np.linalg.svd(both, full_matrices=False)
    rotated = both @ directions.T  # (N + M, N + M)
    return rotated[: len(x)], rotated[len(x) :]


def _checked(features: np.ndarray) -> np.ndarray:
    if not np.isfinite(features).all():
        bad = int((~np.isfinite(features)).any(1).sum())
        raise SiamdiffError(
            f"features of {bad} of {len(features)} images are not finite (NaN or infinite); check those images"
        )
    return features.astype(np.float64)


def _finite(value: float, name: str, x: np.ndarray, y: np.ndarray) -> float:
    if not np.isfinite(value):
        raise SiamdiffError(f"the {name} of {len(x)} and {len(y)} samples is {value}; use more samples")
    return value
