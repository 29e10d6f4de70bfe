"""The previews of a run below each other, `previews/strip.png`: progress over time at a glance."""

import io
import re

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from siamdiff import storage

TILE = 192  # pixels; smaller images are enlarged by a whole factor, larger ones shrunk
MAX_ROWS = 24  # of previews
GAP, GROUP_GAP, MARGIN = 4, 14, 12
LABEL = 104  # width of the column that names the rows
_PAPER, _INK = (255, 255, 255), (24, 24, 28)
_SHEET = re.compile(r"step-(\d{8,})\.png")


def sheet_uri(run_uri: str, step: int) -> str:
    """Where the preview after `step` optimizer steps lies."""
    return storage.join(run_uri, "previews", f"step-{step:08d}.png")


class Strip:
    """Rows of samples by step, under the real images and the masks; written by rank 0.

    Every 2^n-th preview is a row, so that there are at most MAX_ROWS of them, and the newest is the last one.

    Args:
        run_uri: of the run. Sheets of earlier attempts are taken in at the first `add`.
        images: real images, uint8 (count, H, H, 3).
        masks: uint8 (count, H, H, 3).
    """

    def __init__(self, run_uri: str, images: np.ndarray, masks: np.ndarray) -> None:
        self.run_uri = run_uri
        self.count, self.side = images.shape[:2]
        self._head = [("real", _tiles(images)), ("mask", _tiles(masks))]
        self._steps: list[int] = []  # of all previews so far
        self._rows: dict[int, list[Image.Image]] = {}  # of those that are shown

    def add(self, step: int, samples: np.ndarray) -> None:
        """Takes in the samples of a step, uint8 (count, H, H, 3), and writes `previews/strip.png` anew."""
        if not self._steps:
            self._take_in(step)
        self._steps.append(step)
        self._rows[step] = _tiles(samples)
        self._rows = {known: self._rows[known] for known in _thinned(self._steps) if known in self._rows}
        storage.write_bytes(storage.join(self.run_uri, "previews", "strip.png"), self._png())

    def _take_in(self, step: int) -> None:
        """Sheets before `step`; later ones are of an attempt whose work was lost since, and are removed."""
        folder = storage.join(self.run_uri, "previews")
        found = sorted(
            int(match[1]) for name in storage.list_files(folder) if (match := _SHEET.fullmatch(name))
        )
        for lost in (known for known in found if known > step):
            storage.delete(sheet_uri(self.run_uri, lost))
        self._steps = [known for known in found if known < step]
        for known in _thinned([*self._steps, step])[:-1]:
            with Image.open(io.BytesIO(storage.read_bytes(sheet_uri(self.run_uri, known)))) as image:
                pixels = np.asarray(image.convert("RGB"))
            if pixels.shape[:2] == (3 * self.side, self.count * self.side):  # else another version's
                samples = np.split(pixels[2 * self.side :], self.count, axis=1)
                self._rows[known] = _tiles(np.stack(samples))

    def _png(self) -> bytes:
        rows = [*self._head, *((f"step {step}", tiles) for step, tiles in self._rows.items())]
        tile = rows[0][1][0].width
        width = 2 * MARGIN + LABEL + self.count * (tile + GAP) - GAP
        height = 2 * MARGIN + GROUP_GAP + len(rows) * (tile + GAP) - GAP
        strip = Image.new("RGB", (width, height), _PAPER)
        draw, font = ImageDraw.Draw(strip), ImageFont.load_default(16)
        y = MARGIN
        for number, (name, tiles) in enumerate(rows):
            y += GROUP_GAP if number == len(self._head) else 0
            draw.text((MARGIN, y + tile // 2), name, _INK, font, anchor="lm")
            for column, image in enumerate(tiles):
                strip.paste(image, (MARGIN + LABEL + column * (tile + GAP), y))
            y += tile + GAP
        stream = io.BytesIO()
        strip.save(stream, "PNG")
        return stream.getvalue()


def _thinned(steps: list[int]) -> list[int]:
    """Every 2^n-th of the steps, and the last one, for the smallest n that gives at most MAX_ROWS."""
    stride = 1
    while len(shown := sorted({*steps[::stride], steps[-1]})) > MAX_ROWS:
        stride *= 2
    return shown


def _tiles(images: np.ndarray) -> list[Image.Image]:
    """Images uint8 (count, H, H, 3) in the size in which the strip shows them."""
    side = images.shape[1]
    pictures = [Image.fromarray(image) for image in images]
    if side > TILE:
        return [picture.resize((TILE, TILE), Image.Resampling.LANCZOS) for picture in pictures]
    enlarged = side * (TILE // side)
    return [picture.resize((enlarged, enlarged), Image.Resampling.NEAREST) for picture in pictures]
