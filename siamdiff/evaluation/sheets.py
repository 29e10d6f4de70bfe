"""Contact sheets: the parent's real image, the mask given, the synthetic image made from it, side by side."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_dilation, binary_erosion

TILE = 192  # pixels; small images are enlarged to at least about this by a whole factor
MAX_TILE = 256
GAP, GROUP_GAP, MARGIN = 6, 40, 28
CAPTION, HEADER = 50, 30  # heights of the lines below a row and of the column titles
REAL, MASK, BARE, OUTLINED = "real (parent)", "mask given", "synthetic", "synthetic + mask"
TILES_PER_ROW = 8

_PAPER, _INK, _FAINT = (255, 255, 255), (24, 24, 28), (98, 98, 108)
_OUTLINE = (0, 229, 255)  # cyan: far from tissue in hue and lightness, also for colour-blind readers
_SHADOW = (0, 0, 0)
_EMPTY = 225  # grey of a tile without a picture


@dataclass(frozen=True)
class Pair:
    """One synthetic pair and the real pair whose mask it came from; images uint8 (H, W, 3), masks uint8 (H, W)."""

    key: str
    image: np.ndarray
    mask: np.ndarray | None  # None: an image without mask
    parent: str | None  # None: not known, as of another method's image
    fold: int | None = None
    # as in SampleMeta.synthetic; {} for the parent's own mask
    transform: dict[str, Any] = field(default_factory=dict)
    real_image: np.ndarray | None = None  # None: the parent is not in the real set
    real_mask: np.ndarray | None = None
    dice: float | None = None  # mask agreement of this sample
    caption: tuple[str, str] | None = None  # in place of the lines made of all this


def contact_sheet(pairs: Sequence[Pair], title: str, notes: Sequence[str], real: str = REAL) -> bytes:
    """A PNG with one group of tiles per pair.

    Tiles: the real image with its own mask outlined, the mask given to the model, the synthetic image bare and with
    that mask outlined; without the first where no parent is known, without those of masks where there are none.
    Images of different sets must have the same size.

    Args:
        pairs: at least one.
        title: first line of the sheet.
        notes: lines below it, such as counts and how the pairs were chosen.
        real: title of the column of real images.

    Raises:
        ValueError: no pair.
    """
    if not pairs:
        raise ValueError("a contact sheet needs at least one pair")
    kinds = _kinds(pairs)
    columns = min(TILES_PER_ROW // len(kinds), len(pairs))
    tile = tile_size(pairs[0].image.shape[0])
    group = len(kinds) * tile + (len(kinds) - 1) * GAP
    rows = -(-len(pairs) // columns)
    width = 2 * MARGIN + columns * group + (columns - 1) * GROUP_GAP
    fonts = [ImageFont.load_default(size) for size in (26, 17, 15)]
    head_lines = [
        line for note in [*notes, *_legend(kinds)] for line in wrapped(note, fonts[1], width - 2 * MARGIN)
    ]
    top = MARGIN + 40 + 24 * len(head_lines) + 14
    height = top + HEADER + rows * (tile + CAPTION) + MARGIN

    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN - 4), title, _INK, fonts[0])
    for i, line in enumerate(head_lines):
        draw.text((MARGIN, MARGIN + 36 + 24 * i), line, _FAINT, fonts[1])
    for column in range(columns):
        x = MARGIN + column * (group + GROUP_GAP)
        for i, name in enumerate(kinds):
            draw.text((x + i * (tile + GAP), top + 4), real if name == REAL else name, _INK, fonts[1])
    for i, pair in enumerate(pairs):
        x = MARGIN + (i % columns) * (group + GROUP_GAP)
        y = top + HEADER + (i // columns) * (tile + CAPTION)
        tiles = _tiles(pair, tile)
        for j, kind in enumerate(kinds):
            sheet.paste(Image.fromarray(tiles[kind]), (x + j * (tile + GAP), y))
        for j, line in enumerate(_caption(pair)):
            draw.text((x, y + tile + 4 + 18 * j), line, _INK if j == 0 else _FAINT, fonts[2])
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    return stream.getvalue()


def _kinds(pairs: Sequence[Pair]) -> list[str]:
    """The kinds of tiles that at least one pair has, in their order."""
    of_parent = [REAL] if any(pair.parent is not None for pair in pairs) else []
    has_masks = any(pair.mask is not None for pair in pairs)
    return of_parent + ([MASK, BARE, OUTLINED] if has_masks else [BARE])


def _legend(kinds: Sequence[str]) -> list[str]:
    if MASK not in kinds:
        return []
    outlines = "the image's mask"
    if REAL in kinds:
        outlines = "a mask - on the real image its own, on the synthetic one the mask it was made from"
    return [
        f"Cyan line: outline of {outlines}. "
        "Dice: overlap of that mask with what a segmenter trained on real images finds (1 is best)."
    ]


def outlined(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A copy of an image (H, W, 3) with the border of its mask (H, W) as a two-pixel line on a dark edge."""
    inside = mask >= 128
    line = inside & np.logical_not(binary_erosion(inside, iterations=2, border_value=0))
    picture = image.copy()
    picture[np.logical_xor(binary_dilation(line), line)] = _SHADOW
    picture[line] = _OUTLINE
    return picture


def tile_size(side: int) -> int:
    """A whole multiple of small sides, at most MAX_TILE for large ones."""
    return min(side * max(1, -(-TILE // side)), max(MAX_TILE, TILE))


def _tiles(pair: Pair, tile: int) -> dict[str, np.ndarray]:
    image = fit(pair.image, tile)
    empty = np.full_like(image, _EMPTY)
    tiles = {REAL: empty, MASK: empty, BARE: image, OUTLINED: empty}
    if pair.real_image is not None and pair.real_mask is not None:
        tiles[REAL] = outlined(fit(pair.real_image, tile), fit(pair.real_mask, tile))
    if pair.mask is not None:
        mask = fit(pair.mask, tile)
        tiles |= {MASK: np.repeat(mask[..., None], 3, 2), OUTLINED: outlined(image, mask)}
    return tiles


def fit(array: np.ndarray, tile: int) -> np.ndarray:
    """An image or mask of side `tile`: enlarged by repeating pixels, images shrunk by averaging, masks by choosing."""
    if array.shape[0] == tile:
        return array
    enlarge = tile > array.shape[0] or array.ndim == 2
    method = Image.Resampling.NEAREST if enlarge else Image.Resampling.BOX
    return np.asarray(Image.fromarray(array).resize((tile, tile), method))


def _caption(pair: Pair) -> tuple[str, str]:
    if pair.caption:
        return pair.caption
    dice = "" if pair.dice is None else f"  \N{MIDDLE DOT}  Dice {pair.dice:.2f}"
    if pair.parent is None:
        return f"{pair.key}{dice}", "parent unknown"
    how = "the parent's own mask" if not pair.transform else f"mask moved: {describe(pair.transform)}"
    return (
        f"{pair.key}  \N{MIDDLE DOT}  fold {pair.fold}{dice}",
        f"parent {pair.parent}  \N{MIDDLE DOT}  {how}",
    )


def describe(transform: dict[str, Any]) -> str:
    """A mask transform in a few words: "mirrored, scale 1.12, rotated -34 deg, shifted x +5% y -12%"."""
    parts = []
    if transform.get("flip", {}).get("left_right"):
        parts.append("mirrored")
    if transform.get("flip", {}).get("top_bottom"):
        parts.append("upside down")
    if "scale" in transform:
        parts.append(f"scale {transform['scale']['factor']:.2f}")
    if "rotate" in transform:
        parts.append(f"rotated {transform['rotate']['degrees']:.0f}\N{DEGREE SIGN}")
    if "translate" in transform:
        x, y = transform["translate"]["x"], transform["translate"]["y"]
        parts.append(f"shifted x {100 * x:+.0f}% y {100 * y:+.0f}%")
    if "shear" in transform:
        parts.append(f"sheared {transform['shear']['degrees']:.0f}\N{DEGREE SIGN}")
    for name, word in (("elastic", "bent"), ("boundary", "outline")):
        if name in transform:
            parts.append(f"{word} {transform[name]['amplitude']:.2f}")
    if "combine" in transform:
        parts.append(f"{len(transform['combine']['lesions'])} more of {transform['combine']['parent']}")
    return ", ".join(parts) or "not at all"


def wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Lines of at most `width` pixels, broken at spaces."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) > width and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
