"""Agreement of readers: with each other (Krippendorff's alpha) and with themselves (Cohen's weighted kappa).

Alpha is that of K. Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011): 1 - observed by expected
disagreement, over all pairs of ratings of one unit by different readers; units with fewer than two ratings count for
nothing, so readers may be incomplete.
"""

import math
from collections.abc import Callable

import numpy as np

Difference = Callable[
    [np.ndarray], np.ndarray
]  # how often each value comes, (V,) -> squared differences (V, V)


def nominal(totals: np.ndarray) -> np.ndarray:
    """Squared differences of classes without an order: 0 for the same, else 1."""
    return 1.0 - np.eye(len(totals))


def ordinal(totals: np.ndarray) -> np.ndarray:
    """Squared differences of ranks: how many ratings lie between two values, those of both ends counted half."""
    upper = np.cumsum(totals)
    between = np.abs(upper[None, :] - upper[:, None])  # counts the higher value's ratings whole
    higher = np.maximum.outer(np.arange(len(totals)), np.arange(len(totals)))
    lower = np.minimum.outer(np.arange(len(totals)), np.arange(len(totals)))
    return (between + (totals[lower] - totals[higher]) / 2) ** 2


def krippendorff_alpha(ratings: np.ndarray, values: int, difference: Difference) -> float:
    """Krippendorff's alpha; NaN where no unit has two ratings or all ratings are the same.

    Args:
        ratings: (readers, units) of 0 to values - 1; NaN: not rated.
        values: how many there are.
        difference: of two values, squared: `nominal` or `ordinal`.
    """
    counts = np.stack([(ratings == value).sum(0) for value in range(values)], 1).astype(
        np.float64
    )  # (units, V)
    counts = counts[counts.sum(1) >= 2]
    weighted = counts / (counts.sum(1, keepdims=True) - 1)
    matrix = weighted.T @ counts - np.diag(weighted.sum(0))  # of coincidences: pairs within units, (V, V)
    totals = matrix.sum(1)
    squared = difference(totals)
    expected = float((np.outer(totals, totals) * squared).sum())
    if expected <= 0:
        return math.nan
    return float(1 - (totals.sum() - 1) * (matrix * squared).sum() / expected)


def weighted_kappa(first: np.ndarray, again: np.ndarray, values: int) -> float:
    """Cohen's kappa with quadratic weights of ratings 0 to values - 1 given twice; NaN where all are the same.

    J. Cohen, "Weighted kappa", Psychological Bulletin 70 (1968). scikit-learn's is the same and fifty times slower,
    which the intervals would feel; the tests hold them equal.
    """
    matrix = np.bincount(first * values + again, minlength=values * values).reshape(values, values)
    weights = np.subtract.outer(np.arange(values), np.arange(values)) ** 2
    expected = (np.outer(matrix.sum(1), matrix.sum(0)) * weights).sum()
    if len(first) < 2 or not expected:
        return math.nan
    return float(1 - len(first) * (matrix * weights).sum() / expected)
