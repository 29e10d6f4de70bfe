"""A copy of a training image is found through brightness, noise and compression; another real image is none."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamdiff.data.phantom import render_phantom
from siamdiff.errors import SiamdiffError
from siamdiff.evaluation.copies import (
    ROUNDING,
    BothSpaces,
    CopyFilter,
    Training,
    calibrate,
    from_rows,
    nearest,
    small_pixels,
)

SIDE, TRAINING, QUANTILE = 64, 55, 0.05


@pytest.fixture(scope="module")
def photographs(shared: Path) -> np.ndarray:
    """75 polyps of Kvasir-SEG, uint8 (75, 64, 64, 3)."""
    files = sorted((shared / "data" / "kvasir_seg" / "images").iterdir())[:75]
    images = []
    for file in files:
        with Image.open(file) as image:
            images.append(np.array(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)))
    return np.stack(images)


@pytest.fixture(scope="module")
def copies(photographs: np.ndarray) -> CopyFilter:
    training = from_rows(BothSpaces()(photographs[:TRAINING]))
    groups = [str(number) for number in range(TRAINING)]
    return CopyFilter(training, calibrate(training, groups, QUANTILE))


def found(copies: CopyFilter, images: np.ndarray) -> np.ndarray:
    """Which of the images are copies."""
    features, pixels = copies(images)
    return (features <= copies.limits.features) | (pixels <= copies.limits.pixels)


def compressed(images: np.ndarray) -> np.ndarray:
    def one(image: np.ndarray) -> np.ndarray:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=75)
        return np.array(Image.open(buffer))

    return np.stack([one(image) for image in images])


def noisy(images: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 4, images.shape)
    return (images + noise).round().clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "disturb",
    [
        lambda images: images,
        lambda images: (images * 0.85).astype(np.uint8),
        lambda images: np.minimum(images.astype(int) + 20, 255).astype(np.uint8),
        noisy,
        compressed,
    ],
    ids=["as it is", "darker", "brighter", "noisy", "compressed"],
)
def test_a_training_image_that_comes_out_is_a_copy(copies: CopyFilter, photographs: np.ndarray, disturb):
    assert found(copies, disturb(photographs[:TRAINING:11])).all(), copies.limits


def test_real_images_of_other_patients_are_none(copies: CopyFilter, photographs: np.ndarray):
    assert found(copies, photographs[TRAINING:]).sum() <= 1


def vectors(*degrees: float) -> np.ndarray:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)


def apart(degrees: float) -> float:
    return 1 - np.cos(np.radians(degrees))


def test_limits_are_the_kth_smallest_distance_of_a_group_to_another():
    # of a, b, c, d to the nearest other one, in degrees: 10, 10, 20, 30; 60 and 61 are both of d
    space = vectors(0, 10, 30, 60, 61)
    training = Training(space, space)
    limits = calibrate(training, list("abcdd"), 0.8)
    assert (limits.images, limits.groups, limits.rank) == (5, 4, 3)
    assert limits.features == pytest.approx(apart(20), abs=1e-6) == limits.pixels
    assert "number 3 of 4" in limits.basis


@pytest.mark.parametrize("images", [1, 6], ids=["one image each", "up to six images each"])
def test_of_new_patients_no_larger_share_than_the_quantile_is_taken_for_copies(images: int):
    rng, quantile, trials, count = np.random.default_rng(0), 0.1, 400, 40
    taken = 0
    for _ in range(trials):
        sizes = rng.integers(1, images + 1, count + 1)
        groups = np.repeat(np.arange(count + 1), sizes)
        space = rng.normal(size=(count + 1, 6))[groups] + 0.3 * rng.normal(size=(len(groups), 6))
        space = (space / np.linalg.norm(space, axis=1, keepdims=True)).astype(np.float32)
        there, new = space[groups < count], space[groups == count]
        limits = calibrate(Training(there, there), [str(group) for group in groups[groups < count]], quantile)
        taken += bool((1 - new @ there.T <= limits.features).any())
    assert taken <= trials * quantile + 3 * (trials * quantile * (1 - quantile)) ** 0.5


def test_too_few_groups_give_half_the_smallest_distance_and_say_so():
    space = vectors(0, 10, 30, 60, 61)
    limits = calibrate(Training(space, space), list("abcdd"), 0.01)
    assert limits.rank == 0 and limits.features == pytest.approx(apart(10) / 2, abs=1e-6)
    assert "4 groups are too few" in limits.basis


def test_of_a_single_patient_only_equal_images_are_copies():
    images = np.stack([render_phantom(0, index, 32)[0] for index in range(4)])
    training = from_rows(BothSpaces()(images))
    limits = calibrate(training, ["one"] * 4, 0.01)
    assert limits.features == limits.pixels == ROUNDING and "equal images alone" in limits.basis
    copies = CopyFilter(training, limits)
    other = render_phantom(0, 9, 32)[0][None]
    assert found(copies, np.concatenate([images, other])).tolist() == [True] * 4 + [False]


def test_a_mirrored_training_image_is_near_in_features_alone(copies: CopyFilter, photographs: np.ndarray):
    features, pixels = copies(np.ascontiguousarray(photographs[:TRAINING:11, :, ::-1]))
    assert (features <= copies.limits.features).all()
    assert (pixels > copies.limits.pixels).sum() >= 4


def test_an_image_of_one_colour_is_near_to_none():
    image = np.full((1, 32, 32, 3), 90, np.uint8)
    assert not small_pixels(image).any()


def test_brightness_contrast_and_cast_leave_small_pixels_as_they_are():
    image = render_phantom(0, 0, 32)[0][None] // 2 + 20
    changed = (image * 0.75 + np.array([10, 0, 30])).round().astype(np.uint8)
    assert (small_pixels(image) * small_pixels(changed)).sum() > 0.999


def test_what_is_kept_of_the_training_images_comes_back_or_is_refused():
    training = Training(vectors(0, 10), vectors(5, 15))
    again = Training.from_bytes(training.to_bytes(), "there")
    assert np.array_equal(again.features, training.features) and np.array_equal(again.pixels, training.pixels)
    with pytest.raises(SiamdiffError, match="there is damaged"):
        Training.from_bytes(b"something else", "there")


def test_the_training_image_that_a_copy_is_of_is_named(photographs: np.ndarray) -> None:
    training = from_rows(BothSpaces()(photographs[:TRAINING]))
    limits = calibrate(training, [str(number) for number in range(TRAINING)], QUANTILE)
    images = np.concatenate([noisy(photographs[[7, 3]]), photographs[[60]]])
    near = nearest(from_rows(BothSpaces()(images)), training, limits)
    assert list(near.row[:2]) == [7, 3]
    copies = CopyFilter(training, limits)
    features, pixels = copies(images)
    assert list(near.is_copy) == list(found(copies, images)) and near.is_copy[:2].all()
    np.testing.assert_allclose(near.features, features, atol=1e-5)
    np.testing.assert_allclose(near.pixels, pixels, atol=1e-5)
    assert list(near.closeness <= 1) == list(near.is_copy)
