"""Distances between the feature distributions of two image sets, as pure functions of features.

Their definitions are those of the field, with the names given to them there; a figure may carry such a name only on the
network that belongs to it (siamdiff.evaluation.figures). Everything is reckoned in float64.
"""

from collections.abc import Callable

import numpy as np
import torch

from siamdiff.errors import SiamdiffError

FRECHET = (
    "squared Frechet distance of fitted Gaussians, unbiased covariances (FID: Heusel et al. 2017, Eq. 6)"
)
MMD = "unbiased squared MMD, linear kernel, random subsets of equal counts"
POLYNOMIAL = (
    "unbiased squared MMD, kernel (x.y/D + 1)^3, mean over random subsets (KID: Binkowski et al. 2018)"
)
RBF = (
    "1000 x squared MMD, kernel exp(-|x - y|^2 / (2 x 10^2)), means over all pairs, each image's with itself too "
    "(CMMD: Jayasumana et al. 2024)"
)
CMMD_SIGMA, CMMD_SCALE = 10.0, 1000.0
KID_SUBSETS = 100
_ROWS = 1024  # of a kernel matrix that exist at a time

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (N, D), (M, D) -> (N, M)


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Squared Frechet distance between Gaussians fitted to features x (N, D) and y (M, D), N, M >= 2.

    |mu_x - mu_y|^2 + tr(S_x + S_y - 2 (S_x S_y)^(1/2)) with unbiased covariances (Heusel et al. 2017, Eq. 6). With
    S_x = A^T A and S_y = B^T B the last trace is the sum of the singular values of A B^T: no root of a matrix, which is
    inexact where samples are fewer than dimensions.

    Raises:
        SiamdiffError: features that are not finite.
    """
    x, y = checked(x), checked(y)
    mu_x, mu_y = x.mean(0), y.mean(0)
    A, B = ((of - mu) / np.sqrt(len(of) - 1) for of, mu in ((x, mu_x), (y, mu_y)))
    traces = (A**2).sum() + (B**2).sum()
    overlap = np.linalg.norm(_triangle(A) @ _triangle(B).T, "nuc")
    return float(((mu_x - mu_y) ** 2).sum() + traces - 2 * overlap)


def mmd_linear(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased squared maximum mean discrepancy with the linear kernel, of features x and y, both (N, D), N >= 2.

    Gretton et al. 2012, Lemma 6. Unbiased, hence at times slightly below 0.

    Raises:
        SiamdiffError: features that are not finite.
    """
    from monai.metrics.mmd import MMDMetric  # a second and more, which training need not wait for

    x, y = checked(x), checked(y)
    return float(MMDMetric()(torch.from_numpy(x), torch.from_numpy(y)))


def kid(
    x: np.ndarray, y: np.ndarray, *, subset_size: int, subsets: int = KID_SUBSETS, seed: int = 0
) -> tuple[float, float]:
    """Mean and standard deviation of the kernel distance over random subsets of features x (N, D) and y (M, D).

    Of each subset the unbiased squared MMD (Gretton et al. 2012, Eq. 3) with the kernel (x.y/D + 1)^3: on the standard
    Inception network the KID of Binkowski et al. 2018, Sec. 4, who print the mean. Subsets are drawn by `draw_subsets`.

    Args:
        x: first set.
        y: second set.
        subset_size: images of each set in a subset, from 2 to the smaller count.
        subsets: how many are drawn.
        seed: of the draws.

    Raises:
        SiamdiffError: features that are not finite.
    """
    rng = np.random.default_rng(seed)
    u, v = (draw_subsets(len(of), subset_size, subsets, rng) for of in (x, y))
    values = squared_mmd(polynomial_kernel, x, y, u, v, unbiased=True)
    return float(values.mean()), float(values.std())


def cmmd(x: np.ndarray, y: np.ndarray) -> float:
    """CMMD of CLIP image embeddings of unit length, x (N, D) and y (M, D): 1000 times the squared MMD, RBF, sigma 10.

    Jayasumana et al. 2024, Sec. 4, as their implementation reckons it: means over all pairs, those of an image with
    itself included (the V-statistic), so never below 0 and too high by what these add: 1000 (1 - k) / N, where k is the
    mean over pairs of different images, and the same of y.

    Raises:
        SiamdiffError: features that are not finite.
    """
    u, v = np.ones((1, len(x))), np.ones((1, len(y)))
    return CMMD_SCALE * float(squared_mmd(rbf_kernel, x, y, u, v, unbiased=False)[0])


def paired_cosine(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Cosine of each row of x (N, D) with the same row of y (N, D), float64 (N,).

    On CLIP's image embeddings its mean is CLIP-I (Radford et al. 2021; the name as in Ruiz et al. 2023, Sec. 5).

    Raises:
        SiamdiffError: features that are not finite.
    """
    x, y = checked(x), checked(y)
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    return (x * y).sum(1) / np.maximum(norms, np.finfo(np.float64).tiny)


def linear_kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x.y of features (N, D) and (M, D), (N, M)."""
    return x @ y.T


def polynomial_kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(x.y/D + 1)^3 of features (N, D) and (M, D), (N, M)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def rbf_kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """exp(-|x - y|^2 / (2 sigma^2)) of features (N, D) and (M, D) with sigma 10, (N, M)."""
    squares = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T
    return np.exp(-squares / (2 * CMMD_SIGMA**2))


def draw_subsets(count: int, size: int, subsets: int, rng: np.random.Generator) -> np.ndarray:
    """Weights float64 (subsets, count): 1 for the `size` samples of a subset, drawn without replacement, else 0."""
    weights = np.zeros((subsets, count))
    for row in weights:
        row[rng.choice(count, size, replace=False)] = 1
    return weights


def squared_mmd(
    kernel: Kernel, x: np.ndarray, y: np.ndarray, u: np.ndarray, v: np.ndarray, *, unbiased: bool
) -> np.ndarray:
    """Squared maximum mean discrepancy of weighted sets, for many weights at once, float64 (B,).

    Args:
        kernel: k(x, y).
        x: features (N, D).
        y: features (M, D).
        u: weights (B, N) of x: how often a sample is taken.
        v: weights (B, M) of y.
        unbiased: means over pairs of different images (U-statistic), else over all pairs (V-statistic). A sample that
            is taken twice is no pair of different images.

    Raises:
        SiamdiffError: features that are not finite.
    """
    x, y = checked(x), checked(y)
    return (
        _mean_within(kernel, x, u, unbiased)
        + _mean_within(kernel, y, v, unbiased)
        - 2 * _weighted_sums(kernel, x, y, u, v)[0] / (u.sum(1) * v.sum(1))
    )


def checked(features: np.ndarray) -> np.ndarray:
    """Features as float64.

    Raises:
        SiamdiffError: some are not finite.
    """
    if not np.isfinite(features).all():
        bad = int((~np.isfinite(features)).any(1).sum())
        raise SiamdiffError(
            f"features of {bad} of {len(features)} images are not finite (NaN or infinite); check those images"
        )
    return features.astype(np.float64)


def _mean_within(kernel: Kernel, x: np.ndarray, u: np.ndarray, unbiased: bool) -> np.ndarray:
    total, diagonal = _weighted_sums(kernel, x, x, u, u)
    if not unbiased:
        return total / u.sum(1) ** 2
    return (total - diagonal) / (u.sum(1) ** 2 - (u**2).sum(1))


def _weighted_sums(
    kernel: Kernel, x: np.ndarray, y: np.ndarray, u: np.ndarray, v: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sums of u_i v_j k(x_i, y_j), (B,), and of its terms i = j, which mean something where y is x."""
    total, diagonal = np.zeros(len(u)), np.zeros(len(u))
    for start in range(0, len(x), _ROWS):
        rows = slice(start, start + _ROWS)
        block = kernel(x[rows], y)  # (rows, M)
        total += (u[:, rows] * (block @ v.T).T).sum(1)
        if y is x:
            diagonal += (u[:, rows] ** 2) @ np.diagonal(block[:, rows])
    return total, diagonal


def _triangle(factor: np.ndarray) -> np.ndarray:
    """The R (D, D) of A = Q R where A (N, D) has more rows than columns: the singular values of A B^T stay."""
    return np.asarray(np.linalg.qr(factor, mode="r")) if len(factor) > factor.shape[1] else factor
