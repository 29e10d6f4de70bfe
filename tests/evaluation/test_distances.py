"""Distances against independent implementations: scipy's matrix root, loops over every pair."""

from math import exp

import numpy as np
import pytest
import scipy.linalg

from siamdiff.errors import SiamdiffError
from siamdiff.evaluation.distances import (
    cmmd,
    draw_subsets,
    frechet_distance,
    kid,
    linear_kernel,
    mmd_linear,
    paired_cosine,
    squared_mmd,
)


def features(seed: int, count: int, dimensions: int = 8, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(dimensions, dimensions))
    return (rng.normal(size=(count, dimensions)) @ mixing + shift).astype(np.float32)


def frechet_by_root(x: np.ndarray, y: np.ndarray) -> float:
    """As FID is usually written down."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    Sx, Sy = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(Sx @ Sy).real
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(Sx + Sy - 2 * root))


def mmd_by_hand(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x.astype(np.float64), y.astype(np.float64)
    n = len(x)
    within = sum(x[i] @ x[j] + y[i] @ y[j] for i in range(n) for j in range(n) if i != j)
    across = sum(x[i] @ y[j] for i in range(n) for j in range(n))
    return within / (n * (n - 1)) - 2 * across / n**2


def kernel_distance_by_hand(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x.astype(np.float64), y.astype(np.float64)

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return (float(a @ b) / len(a) + 1) ** 3

    n, m = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    xy = sum(k(x[i], y[j]) for i in range(n) for j in range(m)) / (n * m)
    return xx + yy - 2 * xy


def cmmd_by_hand(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x.astype(np.float64), y.astype(np.float64)

    def mean(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean([exp(-float(((p - q) ** 2).sum()) / (2 * 10**2)) for p in a for q in b]))

    return 1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y))


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("counts", "dimensions"),
    [((60, 40), 8), ((20, 30), 60), ((5, 300), 100)],
    ids=["more samples than dimensions", "fewer", "one set much smaller"],
)
def test_frechet_distance_is_that_of_the_matrix_root(counts: tuple[int, int], dimensions: int) -> None:
    x, y = features(1, counts[0], dimensions), features(2, counts[1], dimensions, shift=0.5)
    assert frechet_distance(x, y) == pytest.approx(frechet_by_root(x, y), rel=1e-4)


def test_frechet_distance_of_gaussians_along_the_axes_has_a_closed_form() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 3))
    x = (x - x.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T  # mean 0, covariance 1 exactly
    y = x * [1, 2, 3] + [1, 0, 0]
    assert frechet_distance(x, y) == pytest.approx(1 + (0 + 1 + 4), rel=1e-9)


def test_mmd_is_that_of_the_double_sum() -> None:
    x, y = features(1, 30), features(2, 30, shift=0.5)
    assert mmd_linear(x, y) == pytest.approx(mmd_by_hand(x, y), rel=1e-4)


def test_kid_of_whole_sets_is_that_of_the_double_loop() -> None:
    x, y = features(1, 30), features(2, 30, shift=0.5)
    mean, deviation = kid(x, y, subset_size=30, subsets=4)
    assert mean == pytest.approx(kernel_distance_by_hand(x, y), rel=1e-4)
    assert deviation < 1e-9 * mean  # every subset is the whole


def test_kid_is_the_mean_over_subsets_of_the_stated_size() -> None:
    x, y = features(1, 30), features(2, 50, shift=0.5)
    rng = np.random.default_rng(7)
    u, v = draw_subsets(30, 12, 5, rng), draw_subsets(50, 12, 5, rng)
    assert (u.sum(1) == 12).all() and set(np.unique(v)) == {0, 1}
    values = [kernel_distance_by_hand(x[a > 0], y[b > 0]) for a, b in zip(u, v, strict=True)]
    mean, deviation = kid(x, y, subset_size=12, subsets=5, seed=7)
    assert (mean, deviation) == pytest.approx((np.mean(values), np.std(values)), rel=1e-4)


def test_cmmd_is_that_of_the_double_loop() -> None:
    x, y = unit(features(1, 30, 16)), unit(features(2, 50, 16, shift=0.5))
    assert cmmd(x, y) == pytest.approx(cmmd_by_hand(x, y), rel=1e-4)
    assert cmmd(x, x) == pytest.approx(0, abs=1e-9)


def test_matrices_are_reckoned_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = unit(features(1, 30)), unit(features(2, 50, shift=0.5))
    whole = cmmd(x, y), kid(x, y, subset_size=12)
    monkeypatch.setattr("siamdiff.evaluation.distances._ROWS", 7)
    assert (cmmd(x, y), kid(x, y, subset_size=12)) == (
        pytest.approx(whole[0], rel=1e-9),
        pytest.approx(whole[1], rel=1e-9),
    )


def test_a_sample_that_is_taken_twice_is_no_pair_of_different_images() -> None:
    x, y = features(1, 6), features(2, 6)
    u = np.array([[2.0, 1, 1, 1, 1, 0]])
    rows = [0, 0, 1, 2, 3, 4]
    within = [x[i].astype(float) @ x[j] for i in rows for j in rows if i != j]
    v = np.ones((1, 6))
    across = np.mean([x[i].astype(float) @ y[j] for i in rows for j in range(6)])
    other = np.mean([y[i].astype(float) @ y[j] for i in range(6) for j in range(6) if i != j])
    value = squared_mmd(linear_kernel, x, y, u, v, unbiased=True)
    assert value[0] == pytest.approx(np.mean(within) + other - 2 * across, rel=1e-4)


def test_cosine_is_of_each_row_with_its_own_partner() -> None:
    x = np.array([[3.0, 0.0], [1.0, 1.0], [2.0, -1.0]])
    y = np.array([[5.0, 0.0], [1.0, 0.0], [-4.0, 2.0]])
    np.testing.assert_allclose(paired_cosine(x, y), [1, np.sqrt(0.5), -1])


def test_a_set_is_at_no_frechet_distance_from_itself() -> None:
    for count, dimensions in ((60, 8), (20, 200)):
        x = features(1, count, dimensions)
        assert abs(frechet_distance(x, x)) < 1e-9 * np.trace(np.cov(x.T))


def test_neither_order_of_samples_nor_of_sets_matters() -> None:
    x, y = features(1, 30), features(2, 30, shift=0.5)
    for distance in (frechet_distance, mmd_linear, cmmd):
        value = distance(x, y)
        assert distance(x[::-1], y) == pytest.approx(value, rel=1e-6)
        assert distance(y, x) == pytest.approx(value, rel=1e-6)


def test_what_cannot_be_measured_is_an_error_of_one_line() -> None:
    broken, whole = features(1, 10), features(2, 10)
    broken[3, 2] = np.nan
    for distance in (frechet_distance, mmd_linear, cmmd, paired_cosine):
        with pytest.raises(SiamdiffError, match="1 of 10 images are not finite"):
            distance(broken, whole)
    with pytest.raises(SiamdiffError, match="1 of 10 images are not finite"):
        kid(whole, broken, subset_size=5)
