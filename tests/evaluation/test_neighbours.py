"""Precision, recall, density and coverage against loops over every pair."""

import numpy as np
import pytest

from siamdiff.errors import SiamdiffError
from siamdiff.evaluation.neighbours import density_coverage, nearest_radius, precision_recall


def features(seed: int, count: int, shift: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(count, 6)) + shift).astype(np.float32)


def gap(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(sum((float(p) - float(q)) ** 2 for p, q in zip(a, b, strict=True))))


def radius_by_hand(points: np.ndarray, k: int) -> list[float]:
    return [
        sorted(gap(point, other) for j, other in enumerate(points) if j != i)[k - 1]
        for i, point in enumerate(points)
    ]


@pytest.mark.parametrize("k", [1, 3, 5])
def test_figures_are_those_of_the_definitions(k: int) -> None:
    real, synthetic = features(1, 40), features(2, 30, shift=0.8)
    of_real, of_synthetic = radius_by_hand(real, k), radius_by_hand(synthetic, k)
    inside = [[gap(s, r) <= radius for r, radius in zip(real, of_real, strict=True)] for s in synthetic]
    inside_real = [
        [gap(r, s) <= radius for s, radius in zip(synthetic, of_synthetic, strict=True)] for r in real
    ]
    precision, recall = precision_recall(real, synthetic, k)
    density, coverage = density_coverage(real, synthetic, k)
    assert precision.mean() == pytest.approx(np.mean([any(row) for row in inside]), rel=1e-4)
    assert recall.mean() == pytest.approx(np.mean([any(row) for row in inside_real]), rel=1e-4)
    assert density.mean() == pytest.approx(sum(map(sum, inside)) / (k * len(synthetic)), rel=1e-4)
    assert coverage.mean() == pytest.approx(
        np.mean([any(row[i] for row in inside) for i in range(40)]), rel=1e-4
    )
    assert 0 < precision.mean() < 1 and 0 < coverage.mean() < 1  # the loops had something to decide


def test_a_set_covers_itself_and_nothing_far_away() -> None:
    real = features(1, 40)
    precision, recall = precision_recall(real, real)
    density, coverage = density_coverage(real, real)
    assert (precision.mean(), recall.mean(), coverage.mean()) == (1, 1, 1) and density.mean() > 1
    far = features(2, 20, shift=100.0)
    assert [values.mean() for values in (*precision_recall(real, far), *density_coverage(real, far))] == [
        0
    ] * 4


def test_a_set_of_one_image_repeated_is_precise_and_covers_little() -> None:
    real = features(1, 40)
    repeated = np.repeat(real[:1], 20, 0)
    precision, recall = precision_recall(real, repeated)
    _, coverage = density_coverage(real, repeated)
    assert precision.mean() == 1 and recall.mean() < 0.1 and coverage.mean() < 0.5


def test_neighbours_are_counted_without_the_image_itself() -> None:
    line = np.array([[0.0], [1.0], [3.0], [7.0]])
    np.testing.assert_allclose(nearest_radius(line, 1), [1, 1, 2, 4])
    np.testing.assert_allclose(nearest_radius(line, 3), [7, 6, 4, 7])
    with pytest.raises(SiamdiffError, match="4 images have no neighbour number 4"):
        nearest_radius(line, 4)
