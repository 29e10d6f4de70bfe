"""Letters burned into an image are suspected; what is none is not."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from siamdiff.privacy.text import text_suspicion
from tests.privacy.sets import phantoms, photographs

WHITE, BLACK, YELLOW = (255, 255, 255), (0, 0, 0), (255, 230, 0)


def written(image: np.ndarray, text: str, size: int, colour: tuple[int, int, int], place: tuple[int, int]):
    drawn = Image.fromarray(image)
    ImageDraw.Draw(drawn).text(place, text, colour, ImageFont.load_default(size))
    return np.array(drawn)


@pytest.mark.parametrize(
    ("text", "size", "colour", "place"),
    [
        ("MUELLER 1961", 12, WHITE, (4, 4)),
        ("12/03/1961", 14, YELLOW, (30, 108)),
        ("ID 4711", 16, WHITE, (40, 50)),
    ],
)
def test_text_is_found_where_it_is(
    text: str, size: int, colour: tuple[int, int, int], place: tuple[int, int]
):
    dark = (phantoms(4, side=128) * 0.5).astype(np.uint8)
    for image in dark:
        found = text_suspicion(written(image, text, size, colour, place))
        assert found.is_suspected and found.box
        left, top, right, bottom = found.box
        assert (
            abs(left - place[0]) < 12 and place[1] - 3 <= top < bottom <= place[1] + size + 6 and right > left
        )


def test_black_letters_on_a_white_label_are_text():
    label = np.full((128, 128, 3), 250, np.uint8)
    assert text_suspicion(written(label, "ANNA MUELLER", 12, BLACK, (5, 60))).is_suspected


@pytest.mark.parametrize("side", [64, 128])
def test_phantoms_bear_no_text(side: int):
    assert not [image for image in phantoms(6, side=side) if text_suspicion(image).is_suspected]


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_flat_image_has_no_row_of_strokes(value: int):
    assert text_suspicion(np.full((64, 64, 3), value, np.uint8)).score == 0


def test_noise_is_looked_at_in_time():
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3)).astype(np.uint8)
    assert text_suspicion(noise).score >= 0


def test_real_dates_are_found_and_tissue_is_not_taken_for_text(shared: Path):
    folder = shared / "data" / "kvasir_seg" / "images"
    images = photographs(folder, 30, 256)
    suspected = [text_suspicion(image).is_suspected for image in images]
    assert sum(suspected) > 10  # more than half of the photographs bear a date at the left
    right = np.ascontiguousarray(images[:, 64:192, 128:])  # tissue alone
    assert sum(text_suspicion(image).is_suspected for image in right) <= 1
