import numpy as np
import pytest
from scipy import ndimage

from siamdiff.data.phantom import MIN_LESION_AREA, render_phantom

PAIRS = 40


@pytest.fixture(scope="module")
def pairs():
    return [render_phantom(0, index, 64) for index in range(PAIRS)]


@pytest.mark.parametrize("size", [16, 50, 64, 200])
def test_a_pair_has_the_size_and_the_types_of_the_contract(size):
    image, mask = render_phantom(3, 1, size)
    assert (image.shape, image.dtype) == ((size, size, 3), np.uint8)
    assert (mask.shape, mask.dtype) == ((size, size), np.uint8)
    assert set(np.unique(mask)) == {0, 255}


def test_the_same_arguments_give_the_same_bytes():
    for one, other in zip(render_phantom(7, 11, 64), render_phantom(7, 11, 64), strict=True):
        np.testing.assert_array_equal(one, other)


def test_seed_and_index_each_give_another_scene():
    image, _ = render_phantom(7, 11, 64)
    for seed, index in ((8, 11), (7, 12), (11, 7)):
        assert not np.array_equal(image, render_phantom(seed, index, 64)[0])


def test_another_size_shows_the_same_scene():
    small, small_mask = render_phantom(0, 5, 64)
    large, large_mask = render_phantom(0, 5, 256)
    shrunk = large.reshape(64, 4, 64, 4, 3).mean((1, 3))
    assert np.abs(shrunk - small).mean() < 8.0  # of 255
    overlap = (large_mask[2::4, 2::4] == small_mask).mean()
    assert overlap > 0.98


def test_lesions_are_diverse_in_size_and_never_too_small(pairs):
    areas = np.array([(mask > 0).mean() for _, mask in pairs])
    assert 0.08 <= areas.mean() <= 0.20
    assert areas.std() > 0.03
    for _, mask in pairs:
        labels, count = ndimage.label(mask)
        assert all((labels == label).mean() >= MIN_LESION_AREA for label in range(1, count + 1))


def test_some_scenes_hold_several_lesions(pairs):
    counts = [ndimage.label(mask)[1] for _, mask in pairs]
    assert set(counts) >= {1, 2}


def test_the_lesion_differs_from_its_surroundings_where_the_mask_says(pairs):
    for image, mask in pairs:
        inside = mask > 0
        core = ndimage.binary_erosion(inside, iterations=2)
        ring = ndimage.binary_dilation(inside, iterations=6) & ~ndimage.binary_dilation(inside, iterations=2)
        ring &= image.max(2) > 40  # the black border of the field is no surrounding
        difference = np.median(image[core], 0).astype(float) - np.median(image[ring], 0)
        assert np.abs(difference).max() > 20.0


def test_the_field_of_view_is_lit_in_the_middle_and_dark_in_the_corners(pairs):
    corners = np.mean([image[[0, 0, -1, -1], [0, -1, 0, -1]].mean() for image, _ in pairs])
    middle = np.mean([image[24:40, 24:40].mean() for image, _ in pairs])
    assert corners < 30 and middle > 80


@pytest.mark.parametrize("arguments", [(-1, 0, 64), (0, -1, 64), (0, 0, 8)])
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match="need seed"):
        render_phantom(*arguments)
