"""The strip of previews: what is a row of it, after any number of previews and attempts."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamdiff import storage
from siamdiff.training.previews import sheet
from siamdiff.training.strip import GAP, GROUP_GAP, LABEL, MARGIN, MAX_ROWS, TILE, Strip, sheet_uri

COUNT, SIDE = 2, 8
HEAD = MARGIN + 2 * (TILE + GAP) + GROUP_GAP  # above the first preview


def flat(value: int) -> np.ndarray:
    """Images of one grey."""
    return np.full((COUNT, SIDE, SIDE, 3), value, np.uint8)


def strip_in(run: Path) -> Strip:
    return Strip(str(run), flat(200), flat(255))


def add(strip: Strip, step: int) -> None:
    """A preview whose grey tells its step."""
    storage.write_bytes(sheet_uri(strip.run_uri, step), sheet(flat(200), flat(255), flat(step)))
    strip.add(step, flat(step))


def greys(run: Path) -> list[int]:
    """Of the previews' rows, from the picture."""
    with Image.open(io.BytesIO(storage.read_bytes(f"{run}/previews/strip.png"))) as image:
        pixels = np.asarray(image)
    assert pixels[MARGIN + TILE // 2, MARGIN + LABEL, 0] == 200  # real images first
    assert pixels[MARGIN + TILE + GAP + TILE // 2, MARGIN + LABEL, 0] == 255
    return [int(v) for v in pixels[HEAD + TILE // 2 : -MARGIN : TILE + GAP, MARGIN + LABEL, 0]]


def sheets(run: Path) -> list[int]:
    return sorted(int(path.stem[5:]) for path in (run / "previews").glob("step-*.png"))


def test_each_preview_is_a_row_below_the_ones_before(tmp_path: Path) -> None:
    strip = strip_in(tmp_path)
    for step in (10, 20, 30):
        add(strip, step)
    assert greys(tmp_path) == [10, 20, 30]


@pytest.mark.parametrize(
    ("number", "stride"), [(MAX_ROWS, 1), (MAX_ROWS + 1, 2), (2 * MAX_ROWS, 4), (100, 8), (200, 16)]
)
def test_a_long_run_is_thinned_out_evenly_and_keeps_the_newest(
    tmp_path: Path, number: int, stride: int
) -> None:
    expected = sorted({*range(1, number + 1, stride), number})
    assert len(expected) <= MAX_ROWS
    for step in range(1, number):
        storage.write_bytes(sheet_uri(str(tmp_path), step), sheet(flat(200), flat(255), flat(step)))
    add(strip_in(tmp_path), number)  # rebuilt
    assert greys(tmp_path) == expected


def test_thinning_as_the_run_goes_gives_what_rebuilding_gives(tmp_path: Path) -> None:
    strip = strip_in(tmp_path)
    for step in range(1, MAX_ROWS + 4):
        add(strip, step)
        seen = greys(tmp_path)
        assert seen[0] == 1 and seen[-1] == step and len(seen) <= MAX_ROWS
        assert len(set(np.diff(seen[:-1]))) <= 1
    add(strip_in(tmp_path), step)
    assert greys(tmp_path) == seen


def test_resuming_continues_the_strip_and_removes_what_was_lost(tmp_path: Path) -> None:
    first = strip_in(tmp_path)
    for step in (10, 20, 30, 40):
        add(first, step)
    add(strip_in(tmp_path), 30)  # went on from a checkpoint between 20 and 30
    assert greys(tmp_path) == [10, 20, 30]
    assert sheets(tmp_path) == [10, 20, 30]


def test_sheets_of_another_shape_are_passed_over(tmp_path: Path) -> None:
    other = np.zeros((COUNT + 1, SIDE, SIDE, 3), np.uint8)
    storage.write_bytes(sheet_uri(str(tmp_path), 10), sheet(other, other, other))
    strip = strip_in(tmp_path)
    add(strip, 20)
    add(strip, 30)
    assert greys(tmp_path) == [20, 30]
    assert sheets(tmp_path) == [10, 20, 30]


@pytest.mark.parametrize(("side", "tile"), [(64, TILE), (128, 128), (192, TILE), (384, TILE)])
def test_tiles_are_large_enough_to_see_and_small_enough_to_send(tmp_path: Path, side: int, tile: int) -> None:
    images = np.zeros((1, side, side, 3), np.uint8)
    Strip(str(tmp_path), images, images).add(1, images)
    with Image.open(io.BytesIO(storage.read_bytes(f"{tmp_path}/previews/strip.png"))) as image:
        assert image.width == 2 * MARGIN + LABEL + tile
