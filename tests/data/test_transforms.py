"""Mask transforms: valid masks, exact reproduction, the fallbacks."""

import json

import numpy as np
import pytest

from siamdiff.data.phantom import render_phantom
from siamdiff.data.transforms import MAX_DRAWS, MIN_KEPT, apply, transform_mask
from siamdiff.sections import Transforms


def blob(size=64, centre=(20, 24), radius=8):
    y, x = np.mgrid[:size, :size]
    return np.where((x - centre[0]) ** 2 + (y - centre[1]) ** 2 <= radius**2, 255, 0).astype(np.uint8)


def corner():
    """A shape without symmetry: an L with its foot to the right."""
    mask = np.zeros((40, 40), np.uint8)
    mask[10:26, 12:16] = 255
    mask[22:26, 12:24] = 255
    return mask


def only(**ranges):
    """Ranges in which nothing happens but what is named."""
    still = {"scale": (1, 1), "rotate": (0, 0), "translate": (0, 0), "flip": False}
    return Transforms(**{**still, **ranges})


def test_same_seed_same_mask_and_other_seed_other_mask():
    mask = blob()
    results = [transform_mask(mask, Transforms(), np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert np.array_equal(results[0][0], results[1][0]) and results[0][1] == results[1][1]
    assert not np.array_equal(results[0][0], results[2][0])


@pytest.mark.parametrize("index", range(6))
def test_results_are_valid_and_reproduced_from_their_json(index):
    _, mask = render_phantom(seed=3, index=index, size=64)
    before = mask.copy()
    for seed in range(8):
        result, parameters = transform_mask(mask, Transforms(), np.random.default_rng(seed))
        assert result.shape == mask.shape and result.dtype == np.uint8
        assert set(np.unique(result)) == {0, 255}
        assert np.array_equal(apply(mask, json.loads(json.dumps(parameters))), result)
        if parameters["draw"]["fallback"] == "none":
            area = (mask > 0).sum() * parameters["scale"]["factor"] ** 2
            assert (result > 0).sum() >= 0.95 * MIN_KEPT * area  # 0.95: pixels are whole
    assert np.array_equal(mask, before)


def test_each_transform_does_what_its_name_says():
    mask = corner()
    flipped = apply(mask, {"flip": {"left_right": True}})
    rows, columns = np.nonzero(mask)
    centre = columns.mean()
    assert np.nonzero(flipped)[1].mean() == pytest.approx(centre, abs=0.6)
    assert (flipped > 0).any(1).tolist() == (mask > 0).any(1).tolist()
    assert np.median(np.nonzero(flipped)[1]) > centre > np.median(columns)  # the foot points left now

    moved = apply(mask, {"translate": {"x": 0.25, "y": -0.1}})
    assert np.array_equal(moved, np.roll(mask, (-4, 10), (0, 1)))

    turned = apply(mask, {"rotate": {"degrees": 90.0}})
    assert abs(int((turned > 0).sum()) - int((mask > 0).sum())) <= 12
    assert np.ptp(np.nonzero(turned)[1]) == pytest.approx(np.ptp(rows), abs=1)

    larger = apply(blob(), {"scale": {"factor": 1.5}})
    assert (larger > 0).sum() == pytest.approx((blob() > 0).sum() * 1.5**2, rel=0.05)


def test_no_transform_is_the_same_mask():
    mask = corner()
    assert np.array_equal(apply(mask, {}), mask)
    assert np.array_equal(transform_mask(mask, only(), np.random.default_rng(0))[0], mask)


def test_ranges_are_kept_and_reached():
    mask = blob(centre=(32, 32), radius=4)
    drawn = [transform_mask(mask, Transforms(), np.random.default_rng(seed))[1] for seed in range(200)]
    factors = [parameters["scale"]["factor"] for parameters in drawn]
    assert 0.7 <= min(factors) < 0.75 and 1.25 < max(factors) <= 1.3
    shifts = [parameters["translate"]["x"] for parameters in drawn]
    assert -0.15 <= min(shifts) < -0.13 and 0.13 < max(shifts) <= 0.15
    assert 70 < sum(parameters["flip"]["left_right"] for parameters in drawn) < 130


def test_a_lesion_at_the_border_is_redrawn_until_it_stays_in_view():
    mask = blob(centre=(6, 6), radius=6)
    tries = []
    for seed in range(40):
        result, parameters = transform_mask(mask, only(translate=(-0.15, 0.15)), np.random.default_rng(seed))
        assert (result > 0).sum() >= 0.85 * (mask > 0).sum()
        tries.append(parameters["draw"]["tries"])
    assert max(tries) > 1


def test_where_no_draw_fits_the_image_is_mirrored_whole():
    mask = corner()
    result, parameters = transform_mask(mask, only(translate=(0.9, 0.9), flip=True), np.random.default_rng(0))
    assert parameters["draw"] == {"tries": MAX_DRAWS, "fallback": "mirror"}
    assert np.array_equal(result, mask[:, ::-1])
    assert np.array_equal(apply(mask, parameters), result)


def test_where_no_draw_fits_and_no_flip_is_permitted_the_mask_stays():
    mask = corner()
    result, parameters = transform_mask(mask, only(translate=(0.9, 0.9)), np.random.default_rng(0))
    assert parameters == {"draw": {"tries": MAX_DRAWS, "fallback": "unchanged"}}
    assert np.array_equal(result, mask)


def test_a_lesion_that_would_vanish_is_not_lost():
    mask = np.zeros((32, 32), np.uint8)
    mask[16, 16] = mask[16, 17] = 255
    result, _ = transform_mask(mask, only(scale=(0.05, 0.05)), np.random.default_rng(0))
    assert result.any()


def test_a_mask_without_a_lesion_stays_empty():
    result, parameters = transform_mask(np.zeros((16, 16), np.uint8), Transforms(), np.random.default_rng(0))
    assert not result.any() and parameters == {"draw": {"tries": 0, "fallback": "unchanged"}}
