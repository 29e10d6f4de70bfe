"""Mask transforms beyond the affine ones: shapes, limits, lesions of another mask, folds that differ."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from siamdiff.data.transforms import Pool, apply, second_parent, transform_mask
from siamdiff.data.transforms.lesions import polygon_area
from siamdiff.sections import Generate, Transforms
from tests.data.test_transforms import blob, corner, only

EVERYTHING = Transforms(
    flip_vertical=True, shear=(-20, 20), elastic=(0, 0.6), boundary=(0, 0.5), combine=0.7, combine_lesions=(1, 3)
)  # fmt: skip


def rng(seed):
    return np.random.Generator(np.random.PCG64(seed))


def speck():
    mask = np.zeros((40, 56), np.uint8)
    mask[17, 30] = 255
    return mask


def several():
    return np.maximum(blob(48, (10, 10), 6), np.maximum(blob(48, (36, 12), 4), blob(48, (24, 38), 7)))


SHAPES = {
    "one pixel": speck(), "corner": corner(), "at the border": blob(48, (2, 20), 9), "several": several(),
    "wide": np.pad(corner(), ((0, 0), (10, 20))), "nearly full": np.pad(np.full((36, 36), 255, np.uint8), 2),
    "full": np.full((24, 24), 255, np.uint8),
}  # fmt: skip


@pytest.mark.parametrize("mask", SHAPES.values(), ids=SHAPES)
def test_masks_are_valid_and_made_again_from_their_parents_alone(mask):
    other = np.zeros_like(mask)
    other[4:9, 5:12] = other[14:20, 3:8] = 255
    pool = Pool(["other"], lambda key: other)
    for seed in range(6):
        result, parameters = transform_mask(mask, EVERYTHING, rng(seed), pool=pool)
        assert result.shape == mask.shape and result.dtype == np.uint8 and result.any()
        assert set(np.unique(result)) <= {0, 255}
        given = other if second_parent(parameters) else None
        assert np.array_equal(apply(mask, json.loads(json.dumps(parameters)), given), result)


def test_real_masks_are_valid_and_folds_differ(shared):
    for file in sorted((shared / "data/kvasir_seg/masks").glob("*.png"))[::30]:
        mask = np.where(np.asarray(Image.open(file).convert("L").resize((64, 64), 0)) > 127, 255, 0)
        mask, made = mask.astype(np.uint8), []
        for fold in range(3):
            ranges = EVERYTHING if fold else Transforms()
            result, parameters = transform_mask(mask, ranges, rng(fold), taken=made)
            assert result.any() and np.array_equal(apply(mask, parameters), result)
            assert not any(np.array_equal(result, one) for one in made)
            made.append(result)


def test_what_was_drawn_before_the_other_transforms_came_is_drawn_still():
    """A known value: masks of sets at rest must never change."""
    mask, drawn = transform_mask(blob(), Transforms(), rng(5))
    assert (drawn["scale"], hashlib.sha256(mask.tobytes()).hexdigest()[:16]) == (
        {"factor": 1.1847644738418963},
        "defc612934f910e9",
    )
    _, with_more = transform_mask(blob(), EVERYTHING.model_copy(update={"boundary": (0, 0)}), rng(5))
    assert drawn.keys() == {"flip", "scale", "rotate", "translate", "draw"}
    assert drawn["scale"] == with_more["scale"] and drawn["rotate"] == with_more["rotate"]
    assert drawn["flip"] == {"left_right": with_more["flip"]["left_right"]}


@pytest.mark.parametrize("seed", range(5))
def test_a_bend_neither_tears_nor_joins(seed):
    result, drawn = transform_mask(several(), only(elastic=(0.7, 0.7)), rng(seed))
    if drawn["draw"]["fallback"] == "none":
        assert ndimage.label(result, np.ones((3, 3)))[1] == 3 and not np.array_equal(result, several())


@pytest.mark.parametrize("seed", range(5))
def test_an_outline_moves_by_no_more_than_its_share_of_the_radius(seed):
    mask = blob(64, (32, 32), 12)
    result, _ = transform_mask(mask, only(boundary=(0.4, 0.4)), rng(seed))
    y, x = np.mgrid[:64, :64]
    distance = np.hypot(x - 32, y - 32)
    changed = result != mask
    assert changed.any() and np.abs(distance[changed] - 12).max() <= 0.4 * 13 + 1.5


def test_shear_and_the_vertical_flip_do_what_they_say():
    mask = np.zeros((41, 41), np.uint8)
    mask[10:31, 20] = 255
    rows, columns = np.nonzero(apply(mask, {"shear": {"degrees": 45.0}}))
    assert abs(np.polyfit(rows, columns, 1)[0]) == pytest.approx(1, abs=0.1)
    turned = apply(corner(), {"flip": {"left_right": False, "top_bottom": True}})
    rows = np.nonzero(corner())[0]
    assert np.median(np.nonzero(turned)[0]) < rows.mean() < np.median(rows)


def test_lesions_of_another_mask_are_added_apart_from_those_there():
    pool = Pool(["far"], lambda key: several())
    mask = blob(48, (24, 24), 5)
    result, drawn = transform_mask(
        mask, only(translate=(0, 0.02), combine=1, combine_lesions=(2, 2)), rng(3), pool=pool
    )
    assert second_parent(drawn) == "far" and len(drawn["combine"]["lesions"]) == 2
    assert ndimage.label(result, np.ones((3, 3)))[1] == 3
    with pytest.raises(ValueError, match="mask of far is needed"):
        apply(mask, drawn)
    with pytest.raises(ValueError, match="no lesion number"):
        apply(mask, drawn, np.zeros_like(mask))


def test_area_and_field_are_kept_to():
    octagon = [[20, 0], [44, 0], [64, 20], [64, 44], [44, 64], [20, 64], [0, 44], [0, 20]]
    inside = polygon_area(octagon, (64, 64))
    assert inside[32].all() and not inside[0, 0] and inside.mean() == pytest.approx(0.805, abs=0.02)
    for seed in range(20):
        ranges = Transforms(translate=(-0.5, 0.5), area=(0.03, 0.05))
        result, drawn = transform_mask(blob(64, (20, 24), 8), ranges, rng(seed), field=octagon)
        if drawn["draw"]["fallback"] == "none":
            assert not result[~inside].any() and 0.03 <= (result > 0).mean() <= 0.05
            assert np.array_equal(apply(blob(64, (20, 24), 8), drawn), result)


def test_a_mask_that_is_taken_comes_again_only_where_there_is_no_other():
    mask = corner()
    mirrored, drawn = transform_mask(mask, only(translate=(0, 1e-6), flip=True), rng(1), taken=[mask])
    assert not np.array_equal(mirrored, mask)
    third, drawn = transform_mask(mask, only(translate=(0, 1e-6)), rng(1), taken=[mask])
    assert drawn["draw"]["fallback"] == "unchanged" and np.array_equal(third, mask)


STILL = {"scale": (1, 1), "rotate": (0, 0), "translate": (0, 0)}


@pytest.mark.parametrize(
    ("ranges", "words"),
    [
        ({"elastic": (0, 0.8)}, "0.48 times elastic_spacing"), ({"boundary": (0, 1)}, r"\[0, 0.95\]"),
        ({"shear": (-70, 0)}, r"\[-60, 60\]"), ({"combine_lesions": (0, 1)}, "at least 1"),
        ({"area": (0.5, 0.1)}, "first bound"),
    ],
)  # fmt: skip
def test_ranges_out_of_limits_are_refused(ranges, words):
    with pytest.raises(ValueError, match=words):
        Transforms(**ranges)


def test_random_folds_that_could_not_differ_are_refused():
    with pytest.raises(ValueError, match="3 of 3 folds have random masks"):
        Generate(transforms=Transforms(**STILL))
    Generate(transforms=Transforms(**STILL), folds=1)
    Generate(transforms=Transforms(**STILL, elastic=(0, 0.2)))
