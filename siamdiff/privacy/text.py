"""Suspicion of text burned into the pixels: names and dates that scanners and endoscopes write into their images.

No text is read. Looked for are strokes, thin and far lighter or far darker than what is around them, that stand in a
row as letters do: of about one height, on one line, near each other. The score of an image is how many strokes a
horizontal line crosses in its best row: a word of five letters has about ten, tissue seldom more than a few. What it
finds and what it takes for text was measured (docs/privacy.md); it is a reason to look at an image, no more.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

THRESHOLD = 5  # strokes in a row, from which an image is suspected
CONTRAST = 60  # levels between a stroke and what is around it
LIGHT, DARK = 150, 90  # levels that light strokes reach at least, and dark ones at most
STROKE = 1 / 24  # of the side, up to which a stroke is thick; at least MIN_STROKE
MIN_STROKE = 3  # pixels
HEIGHT = (5, 0.16)  # of letters: pixels at least, share of the side at most
MAX_WIDTH = 12  # of letters that touch each other, in heights
GAP, ALIKE = 1.0, 1.6  # between letters, in heights; ratio of their heights
_MAX_PARTS = 2000  # regions that are looked at in one image; a noise image has more


@dataclass(frozen=True)
class TextSuspicion:
    """How much an image looks as if it bore text, and where."""

    score: int  # strokes in the best row
    box: (
        tuple[int, int, int, int] | None
    )  # left, top, right, bottom of that row, pixels; None: there is no row

    @property
    def is_suspected(self) -> bool:
        """Whether somebody should look."""
        return self.score >= THRESHOLD


def text_suspicion(image: np.ndarray) -> TextSuspicion:
    """How much an image uint8 (H, W, 3) looks as if it bore text."""
    found = [_best_row(strokes) for strokes in _strokes(image)]
    return max(found, key=lambda one: one.score)


def _strokes(image: np.ndarray) -> list[np.ndarray]:
    """Pixels of light and of dark strokes, bool (H, W) each."""
    size = max(MIN_STROKE, round(STROKE * max(image.shape[:2]))) + 2
    light, dark = image.max(2), image.min(2)  # coloured letters are light in one channel
    above = light.astype(np.int16) - ndimage.grey_opening(light, (size, size))
    below = ndimage.grey_closing(dark, (size, size)).astype(np.int16) - dark
    return [(above >= CONTRAST) & (light >= LIGHT), (below >= CONTRAST) & (dark <= DARK)]


def _best_row(strokes: np.ndarray) -> TextSuspicion:
    regions = np.zeros(strokes.shape, np.int32)
    ndimage.label(strokes, np.ones((3, 3)), output=regions)
    boxes = ndimage.find_objects(regions)[:_MAX_PARTS]
    letters = [
        (number, rows.start, rows.stop, columns.start, columns.stop)
        for number, (rows, columns) in enumerate(boxes, 1)
        if HEIGHT[0] <= rows.stop - rows.start <= max(HEIGHT[0] + 2, HEIGHT[1] * len(strokes))
        and columns.stop - columns.start <= MAX_WIDTH * (rows.stop - rows.start)
    ]
    best = TextSuspicion(0, None)
    for row in _rows(letters):
        part = np.array(row)
        top, bottom = int(part[:, 1].min()), int(part[:, 2].max())
        left, right = int(part[:, 3].min()), int(part[:, 4].max())
        band = np.isin(regions[top:bottom, left:right], part[:, 0])
        score = _crossed(band)
        if score > best.score:
            best = TextSuspicion(score, (left, top, right, bottom))
    return best


def _crossed(band: np.ndarray) -> int:
    """How many strokes a line through a row of letters crosses, on a typical height."""
    padded = np.pad(band, ((0, 0), (1, 0)))
    begins = (padded[:, 1:] & ~padded[:, :-1]).sum(1)  # per line of pixels
    return int(np.median(begins))


def _rows(letters: Sequence[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
    """Letters that stand beside each other on one line, grouped."""
    rows: list[list[tuple[int, ...]]] = []
    for letter in sorted(letters, key=lambda one: (one[3], one[1])):
        for row in rows:
            if _goes_on(row[-1], letter):
                row.append(letter)
                break
        else:
            rows.append([letter])
    return rows


def _goes_on(last: tuple[int, ...], new: tuple[int, ...]) -> bool:
    heights = sorted((last[2] - last[1], new[2] - new[1]))
    on_line = abs(new[2] - last[2]) <= max(1, 0.15 * heights[1])
    return on_line and heights[1] <= ALIKE * heights[0] and new[3] - last[4] <= GAP * heights[1]
