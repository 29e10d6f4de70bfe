"""What transformed masks look like: a sheet with a row per mask and its folds side by side."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_dilation, binary_erosion

from siamdiff.data.shardset import ShardSet
from siamdiff.data.transforms import apply, field_area
from siamdiff.errors import UserError
from siamdiff.evaluation.sheets import describe, fit, wrapped
from siamdiff.sampling.conditions import Condition, read_conditions
from siamdiff.sampling.plan import NO_MODEL, Plan
from siamdiff.sections import Generate
from siamdiff.sections.schedulers import DDIM

TILE = 192  # pixels
GAP, MARGIN, TITLE = 10, 24, 28
LINES, LINE = 5, 15  # of the caption below each tile
MAX_ROWS = 64
_PAPER, _INK, _FAINT = (255, 255, 255), (24, 24, 28), (98, 98, 108)
_GROUND, _UNSEEN = (34, 34, 40), (92, 74, 96)  # the image, and what of it lies beyond the visible field
_LESION, _ADDED, _OUTLINE = (232, 232, 232), (255, 166, 64), (0, 190, 255)
_LEGEND = (
    "Light: the mask. Blue line: outline of its parent. Orange: lesions of another mask. Purple: beyond the visible "
    "field. Share of the image in percent, of the parent's mask and of this one."
)


@dataclass(frozen=True)
class Row:
    """One parent's mask, uint8 (H, W) in {0, 255}, and what each fold makes of it."""

    parent: np.ndarray
    folds: Sequence[Condition]


def preview(generate: Generate, rows: int) -> tuple[bytes, str]:
    """The sheet of a configuration as PNG, and how many masks and folds it shows, in words.

    Args:
        generate: resolved; its masks are the very ones that `generate` would make.
        rows: masks shown, at most MAX_ROWS, evenly spread over the chosen keys.

    Raises:
        UserError: no complete set, no mask in the split, or `rows` out of range.
    """
    if not 1 <= rows <= MAX_ROWS:
        raise UserError(f"--rows is {rows}: must be from 1 to {MAX_ROWS}")
    assert generate.masks, "resolve() comes first"
    masks = ShardSet.open(generate.masks)
    of_masks = generate.model_copy(
        update={"scheduler": DDIM}
    )  # which scheduler draws the images is all one here
    plan = Plan.of(of_masks, masks=masks.digest, model=NO_MODEL, resolution=masks.manifest.resolution)
    keys = plan.choose(masks.keys(generate.split))
    if not keys:
        raise UserError(
            f"{masks.uri} has no samples in split {generate.split!r} (it has {masks.manifest.splits}); "
            "choose another with --generate.split"
        )
    places = np.linspace(0, len(keys) - 1, min(rows, len(keys))).round().astype(int)
    shown = [keys[place] for place in places]
    drawn = fold_masks(masks, plan, shown)
    repeats = sum(_repeats(row) for row in drawn)
    told = f"{len(shown)} of {len(keys)} masks in {generate.folds} folds, {repeats} repeated"
    return mask_sheet(drawn, told), told


def fold_masks(masks: ShardSet, plan: Plan, keys: Sequence[str]) -> list[Row]:
    """What all folds of a plan make of some masks."""
    whole = plan.model_copy(update={"settings": plan.settings.model_copy(update={"shard_size": len(keys)})})
    folds = [read_conditions(masks, plan, shard) for shard in whole.shards(keys)]
    return [
        Row(masks.read(key).mask, conditions)
        for key, conditions in zip(keys, zip(*folds, strict=True), strict=True)
    ]


def mask_sheet(rows: Sequence[Row], title: str) -> bytes:
    """A PNG with a row of tiles per parent: its own mask, then every fold's with the parent's outline."""
    columns = 1 + len(rows[0].folds)
    width = 2 * MARGIN + columns * (TILE + GAP) - GAP
    fonts = [ImageFont.load_default(size) for size in (20, 14, 12)]
    notes = wrapped(_LEGEND, fonts[1], width - 2 * MARGIN)
    top = MARGIN + TITLE + 18 * len(notes) + 12
    step = TILE + LINES * LINE + GAP
    sheet = Image.new("RGB", (width, top + 22 + len(rows) * step + MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN - 6), title, _INK, fonts[0])
    for i, note in enumerate(notes):
        draw.text((MARGIN, MARGIN + TITLE + 18 * i), note, _FAINT, fonts[1])
    for column in range(columns):
        condition = rows[0].folds[column - 1]
        kind = "real" if not condition.transform else "random"
        name = f"fold {condition.fold}, {kind}" if column else "parent"
        draw.text((MARGIN + column * (TILE + GAP), top), name, _INK, fonts[1])
    for number, row in enumerate(rows):
        y = top + 22 + number * step
        tiles = [(_tile(row.parent, None), row.folds[0].parent)]
        tiles += [(_tile(row.parent, condition), _caption(row.parent, condition)) for condition in row.folds]
        for column, (picture, caption) in enumerate(tiles):
            x = MARGIN + column * (TILE + GAP)
            sheet.paste(Image.fromarray(picture), (x, y))
            for i, line in enumerate(wrapped(caption, fonts[2], TILE)[:LINES]):
                draw.text((x, y + TILE + 3 + LINE * i), line, _FAINT, fonts[2])
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    return stream.getvalue()


def _tile(parent: np.ndarray, condition: Condition | None) -> np.ndarray:
    """uint8 (TILE, TILE, 3); of the parent itself where no condition is given."""
    mask = parent if condition is None else condition.mask
    picture = np.full((TILE, TILE, 3), _GROUND, np.uint8)
    if condition is not None:
        if "field" in condition.transform:
            seen = field_area(condition.transform, mask.shape).astype(np.uint8)
            picture[fit(seen, TILE) == 0] = _UNSEEN
        own = apply(parent, {name: drawn for name, drawn in condition.transform.items() if name != "combine"})
        picture[fit(mask, TILE) > 0] = _ADDED
        mask = np.minimum(mask, own)
    picture[fit(mask, TILE) > 0] = _LESION
    if condition is not None:
        lesion = fit(parent, TILE) > 0
        inner: Any = binary_erosion(lesion, border_value=1)
        picture[np.logical_xor(binary_dilation(lesion), inner)] = _OUTLINE
    return picture


def _caption(parent: np.ndarray, condition: Condition) -> str:
    before, after = (100 * np.count_nonzero(mask) / mask.size for mask in (parent, condition.mask))
    draw = condition.transform.get("draw", {"tries": 1, "fallback": "none"})
    how = "" if draw["fallback"] == "none" else f"; {draw['fallback']} after {draw['tries']} draws"
    words = describe(condition.transform) if condition.transform else "as it is"
    return f"{before:.3g}% to {after:.3g}%: {words}{how}"


def _repeats(row: Row) -> int:
    """How many random folds of a parent have the mask of an earlier one."""
    masks = [condition.mask.tobytes() for condition in row.folds if condition.transform]
    return len(masks) - len(set(masks))
