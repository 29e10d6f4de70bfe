"""t-SNE: neighbours stay together, the same numbers each time, nothing of too little."""

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from siamdiff.errors import SiamdiffError
from siamdiff.evaluation.tsne import MIN_IMAGES, perplexity_of, tsne


def clusters(count: int) -> np.ndarray:
    """Two clusters of `count` features each, far from each other."""
    features = np.random.default_rng(0).normal(size=(2 * count, 20)).astype(np.float32)
    features[count:] += 20
    return features


def test_what_is_near_stays_near_and_what_is_far_apart() -> None:
    points = tsne(clusters(20), seed=0)
    assert points is not None and points.shape == (40, 2)
    first, second = points[:20], points[20:]
    centres = first.mean(0), second.mean(0)
    spread = max(
        np.linalg.norm(of - centre, axis=1).max() for of, centre in zip((first, second), centres, strict=True)
    )
    assert np.linalg.norm(centres[0] - centres[1]) > 2 * spread


def test_the_same_features_and_seed_give_the_same_points() -> None:
    with threadpool_limits(2):
        points = tsne(clusters(20), seed=2**40)
    with threadpool_limits(1):
        assert np.array_equal(points, tsne(clusters(20), seed=2**40))


def test_perplexity_is_below_a_third_of_the_other_points() -> None:
    assert [perplexity_of(count) for count in (4, 31, 91, 3200)] == [1, 10, 30, 30]


@pytest.mark.parametrize("count", [MIN_IMAGES, MIN_IMAGES + 1])
def test_few_points_and_repeated_ones_are_finite(count: int) -> None:
    features = clusters(count)[:count]
    for given in (features, np.repeat(features, 3, 0)):
        points = tsne(given, seed=0)
        assert points is not None and np.isfinite(points).all()


def test_fewer_than_four_different_images_have_no_place() -> None:
    assert tsne(clusters(2)[:3], seed=0) is None
    assert tsne(np.repeat(clusters(2)[:3], 5, 0), seed=0) is None
    assert tsne(np.ones((9, 5), np.float32), seed=0) is None


def test_features_that_are_not_finite_are_refused() -> None:
    features = clusters(3)
    features[0, 0] = np.nan
    with pytest.raises(SiamdiffError, match="finite"):
        tsne(features, seed=0)
