"""Distances against closed forms written out in numpy, on features small enough to follow."""

import numpy as np
import pytest

from siamdiff.errors import SiamdiffError
from siamdiff.evaluation.distances import compare, frechet_distance, mmd_linear
from siamdiff.evaluation.features import FeatureSpec

SPEC = FeatureSpec("toy", "none", "input", 8, "none", "none")


def features(seed: int, count: int, dimensions: int = 8, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(dimensions, dimensions))
    return (rng.normal(size=(count, dimensions)) @ mixing + shift).astype(np.float32)


def frechet_by_hand(x: np.ndarray, y: np.ndarray) -> float:
    """tr (S_x S_y)^(1/2) is the sum of the singular values of A B^T, where S_x = A^T A and S_y = B^T B."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    a = (x - x.mean(0)) / np.sqrt(len(x) - 1)
    b = (y - y.mean(0)) / np.sqrt(len(y) - 1)
    overlap = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + (a**2).sum() + (b**2).sum() - 2 * overlap)


def mmd_by_hand(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x.astype(np.float64), y.astype(np.float64)
    n = len(x)
    within = sum(x[i] @ x[j] + y[i] @ y[j] for i in range(n) for j in range(n) if i != j)
    across = sum(x[i] @ y[j] for i in range(n) for j in range(n))
    return within / (n * (n - 1)) - 2 * across / n**2


@pytest.mark.parametrize(
    ("counts", "dimensions"),
    [((60, 40), 8), ((20, 30), 200), ((5, 300), 100)],
    ids=["more samples than dimensions", "fewer", "one set much smaller"],
)
def test_frechet_distance_is_that_of_the_closed_form(counts: tuple[int, int], dimensions: int) -> None:
    x, y = features(1, counts[0], dimensions), features(2, counts[1], dimensions, shift=0.5)
    assert frechet_distance(x, y) == pytest.approx(frechet_by_hand(x, y), rel=1e-4)


def test_mmd_is_that_of_the_double_sum() -> None:
    x, y = features(1, 30), features(2, 30, shift=0.5)
    assert mmd_linear(x, y) == pytest.approx(mmd_by_hand(x, y), rel=1e-4)


def test_a_set_is_at_no_frechet_distance_from_itself() -> None:
    for count, dimensions in ((60, 8), (20, 200)):
        x = features(1, count, dimensions)
        assert abs(frechet_distance(x, x)) < 1e-4 * np.trace(np.cov(x.T))


def test_neither_order_of_samples_nor_of_sets_matters() -> None:
    x, y = features(1, 30), features(2, 30, shift=0.5)
    for distance in (frechet_distance, mmd_linear):
        value = distance(x, y)
        assert distance(x[::-1], y) == pytest.approx(value, rel=1e-6)
        assert distance(y, x) == pytest.approx(value, rel=1e-6)


def test_figures_name_network_reference_counts_and_floor() -> None:
    figures, warnings = compare(features(1, 20, shift=3.0), features(2, 50), SPEC, "train", seed=0)
    assert [figure.name for figure in figures] == ["frechet_toy", "mmd_linear_toy"]
    frechet, mmd = figures
    assert (frechet.reference, frechet.n_reference, frechet.n_synthetic) == ("train", 50, 20)
    assert frechet.floor_counts == (20, 30)  # disjoint, the first as large as the synthetic set
    assert (mmd.n_reference, mmd.n_synthetic, mmd.floor_counts) == (20, 20, (20, 20))  # it needs equal counts
    for figure in figures:
        assert figure.floor is not None and figure.floor < figure.value  # real is closer to real
    assert warnings == []


def test_a_sample_smaller_than_the_dimensions_is_warned_of() -> None:
    figures, warnings = compare(features(1, 7), features(2, 50), SPEC, "train", seed=0)
    assert len(warnings) == 1 and "7 samples for 8 feature dimensions" in warnings[0]
    assert figures[0].n_synthetic == 7


def test_too_few_real_samples_have_no_floor() -> None:
    figures, _ = compare(features(1, 7), features(2, 3), SPEC, "train", seed=0)
    assert [figure.floor for figure in figures] == [None, None]


def test_what_cannot_be_measured_is_an_error_of_one_line() -> None:
    broken = features(1, 10)
    broken[3, 2] = np.nan
    with pytest.raises(SiamdiffError, match="1 of 10 images are not finite"):
        frechet_distance(broken, features(2, 10))
    with pytest.raises(SiamdiffError, match="1 of 10 images are not finite"):
        mmd_linear(broken, features(2, 10))
    with pytest.raises(SiamdiffError, match="at least 2 samples"):
        compare(features(1, 1), features(2, 10), SPEC, "train", seed=0)
