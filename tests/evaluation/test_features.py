"""The embedded extractor: one vector per image that depends on that image alone."""

import sys

import numpy as np
import pytest

from siamdiff.data.phantom import render_phantom
from siamdiff.evaluation.features import EfficientNetLite0


@pytest.fixture(scope="module")
def extractor() -> EfficientNetLite0:
    return EfficientNetLite0(batch_size=4)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.stack([render_phantom(0, index, 32)[0] for index in range(6)])


def test_features_have_the_stated_size_and_are_the_same_each_time(
    extractor: EfficientNetLite0, images: np.ndarray
) -> None:
    features = extractor(images)
    assert features.shape == (6, extractor.spec.dimensions)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()
    assert np.array_equal(features, extractor(images))


def test_an_image_has_the_same_features_in_any_batch(
    extractor: EfficientNetLite0, images: np.ndarray
) -> None:
    together = extractor(images)
    alone = np.concatenate([extractor(images[i : i + 1]) for i in range(6)])
    np.testing.assert_allclose(alone, together, atol=1e-4)
    np.testing.assert_allclose(extractor(images[::-1])[::-1], together, atol=1e-4)


def test_different_images_have_different_features(extractor: EfficientNetLite0, images: np.ndarray) -> None:
    features = extractor(images)
    distances = np.linalg.norm(features[:, None] - features[None], axis=2)
    assert distances[~np.eye(6, dtype=bool)].min() > 1.0


def test_no_image_is_no_row(extractor: EfficientNetLite0) -> None:
    assert extractor(np.empty((0, 32, 32, 3), np.uint8)).shape == (0, 1280)


def test_the_extractor_does_without_torchvision(extractor: EfficientNetLite0) -> None:
    assert sys.modules.get("torchvision") is None
