"""Contact sheets: what is on them, at which size."""

import io

import numpy as np
import pytest
from PIL import Image

from siamdiff.evaluation.sheets import Pair, contact_sheet, describe, outlined

CYAN = (0, 229, 255)


def pair(side: int, **changes: object) -> Pair:
    mask = np.zeros((side, side), np.uint8)
    mask[side // 4 : side // 2, side // 4 : side // 2] = 255
    tissue = np.full((side, side, 3), (190, 110, 90), np.uint8)
    fields: dict[str, object] = {
        "key": "0123456789abcdef",
        "parent": "fedcba9876543210",
        "fold": 0,
        "transform": {},
        "real_image": tissue,
        "real_mask": mask,
        "image": tissue,
        "mask": mask,
    }
    return Pair(**(fields | changes))  # type: ignore[arg-type]


def opened(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data), formats=["PNG"]))


def count(sheet: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((sheet == colour).all(2).sum())


def test_small_images_are_enlarged_by_repeating_pixels() -> None:
    sheet = opened(contact_sheet([pair(64)], "title", ["note"]))
    assert sheet.shape[1] == 2 * 28 + 4 * 192 + 3 * 6
    assert count(sheet, (190, 110, 90)) > 2 * 192**2  # three tiles of tissue, less outlines
    mask_white = (sheet[-78 - 192 : -78, 28 + 198 : 28 + 198 + 192] == 255).all(2)
    assert mask_white.sum() == 48 * 48  # 16 x 16 pixels, three times as wide and as high


def test_large_images_are_shrunk_and_rows_are_filled_from_the_left() -> None:
    pairs = [pair(512)] * 3
    sheet = opened(contact_sheet(pairs, "title", []))
    assert sheet.shape[1] == 2 * 28 + 2 * (4 * 256 + 3 * 6) + 40
    last_row = sheet[-78 - 256 : -78]
    assert count(last_row[:, : sheet.shape[1] // 2], CYAN) > 0
    assert (last_row[:, sheet.shape[1] // 2 :] == 255).all()


def test_outlines_stand_on_the_border_of_the_mask() -> None:
    picture = pair(64)
    drawn = (outlined(picture.image, picture.mask) == CYAN).all(2)
    inside = picture.mask > 0
    assert drawn.any() and not (drawn & ~inside).any()
    assert not drawn[20:28, 20:28].any()  # the lesion itself stays visible
    assert (outlined(picture.image, np.zeros_like(picture.mask)) == picture.image).all()


def test_a_parent_that_the_real_set_lacks_leaves_an_empty_tile() -> None:
    with_parent = opened(contact_sheet([pair(64)], "title", []))
    without = opened(contact_sheet([pair(64, real_image=None, real_mask=None)], "title", []))
    assert with_parent.shape == without.shape
    assert count(without, CYAN) < count(with_parent, CYAN)


def test_without_parents_or_masks_there_are_no_tiles_for_them() -> None:
    foreign = opened(contact_sheet([pair(64, parent=None, real_image=None, real_mask=None)], "title", []))
    assert foreign.shape[1] == 2 * 28 + 3 * 192 + 2 * 6
    assert count(foreign, CYAN) > 0
    bare = [pair(64, parent=None, real_image=None, real_mask=None, mask=None)] * 9
    sheet = opened(contact_sheet(bare, "title", []))
    assert sheet.shape[1] == 2 * 28 + 8 * 192 + 7 * 40
    assert count(sheet, CYAN) == 0 and count(sheet, (190, 110, 90)) == 9 * 192**2


def test_every_pair_is_captioned() -> None:
    plain = opened(contact_sheet([pair(64)], "title", []))
    scored = opened(contact_sheet([pair(64, dice=0.91)], "title", []))
    changed = np.argwhere((plain != scored).any(2))
    assert len(changed) and changed[:, 0].min() >= plain.shape[0] - 78  # only below the tiles


def test_transforms_are_told_in_words() -> None:
    moved = {
        "flip": {"left_right": True},
        "scale": {"factor": 1.1},
        "rotate": {"degrees": -33.4},
        "translate": {"x": 0.05, "y": -0.1},
        "draw": {"tries": 1, "fallback": "none"},
    }
    assert describe(moved) == "mirrored, scale 1.10, rotated -33\N{DEGREE SIGN}, shifted x +5% y -10%"
    assert describe({"draw": {"tries": 0, "fallback": "unchanged"}}) == "not at all"


def test_an_empty_sheet_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one pair"):
        contact_sheet([], "title", [])
