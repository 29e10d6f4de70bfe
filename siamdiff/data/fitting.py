"""Which part of a raw pair is kept, and how that becomes square: crop (a box, or the field of view), then fit.

Image and mask take the same way, and what was done is recorded, so that a point of the stored square has its place in
the source: x_source = crop_left - padding_left + x * (crop_width + padding_left + padding_right) / width; y likewise.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull

from siamdiff.data.checking import Fault
from siamdiff.sections import Box, Data

BLACK = 24  # of a frame: no channel above it (JPEG and sensors leave some noise)
UNIFORM = 8  # of a frame in another colour: no channel of its outermost line varies by more
MIN_FIELD = 0.2  # share of the image: less is no field of view, and the image stays whole
MIN_PART = 0.25  # of the largest bright region: less is a thumbnail or a logo beside the field of view
FIELD_DETAIL = 0.01  # of the longer side: what the polygon around a field may cut off
_SCAN_SIDE = 512  # the field of view is sought in an image thinned out to about this
_STROKES = 64  # the shorter side over the width that strokes of text stay below


@dataclass(frozen=True)
class Frame:
    """What is stored of a pair, in pixels of the source."""

    crop: Box  # left, top, right, bottom of the part that is kept
    padding: Box  # black added left, top, right and bottom of it

    def cut(self, array: np.ndarray) -> np.ndarray:
        """Image (H, W, 3) or mask (H, W), cropped and padded: (h, w, ...)."""
        left, top, right, bottom = self.crop
        before_x, before_y, after_x, after_y = self.padding
        part = array[top:bottom, left:right]
        if not any(self.padding):
            return part
        return np.pad(part, [(before_y, after_y), (before_x, after_x), (0, 0)][: array.ndim])


def frame_pair(image: np.ndarray, mask: np.ndarray, data: Data) -> Frame:
    """The frame of a pair, by `data.crop` and `data.fit`.

    Args:
        image: uint8 (H, W, 3) RGB.
        mask: uint8 (H, W) in {0, 255}.
        data: `crop`: none, auto (the field of view, widened where the lesion reaches beyond it) or a box; `fit`:
            squash (as it is), pad (black, to a square) or crop (the square in the middle).

    Raises:
        Fault: a box beyond the image, or a frame without any of the lesion.
    """
    height, width = mask.shape
    if data.crop == "none":
        box: Box = (0, 0, width, height)
    elif data.crop == "auto":
        box = _around(field_of_view(image), mask)
    else:
        box = data.crop
        if box[2] > width or box[3] > height:
            given = ",".join(map(str, box))
            raise Fault("crop leaves the image", f"data.crop {given}, image {width} x {height}")
    if data.fit == "crop":
        box = _middle(box)
    left, top, right, bottom = box
    if mask.any() and not mask[top:bottom, left:right].any():
        raise Fault("lesion is cropped away", f"none of it is in {left},{top},{right},{bottom}")
    missing = (
        (bottom - top) - (right - left) if data.fit == "pad" else 0
    )  # columns if positive, rows if negative
    columns, rows = max(missing, 0), max(-missing, 0)
    return Frame(box, (columns // 2, rows // 2, columns - columns // 2, rows - rows // 2))


def field_of_view(image: np.ndarray) -> Box:
    """The box around the bright field of an endoscope or dermatoscope: left, top, right, bottom.

    What is black, or has the colour of a uniform outermost line, is a frame; what is thin or small in it (text, logos,
    thumbnails) belongs to it. An image without a frame, or with too little in it, is its own field of view.

    Args:
        image: uint8 (H, W, 3) RGB.
    """
    height, width = image.shape[:2]
    kept, step = _bright_regions(image)
    if kept is None:
        return 0, 0, width, height
    columns, rows = np.flatnonzero(kept.any(0)), np.flatnonzero(kept.any(1))
    # between two pixels looked at the field may begin anywhere: outwards
    left, right = max(0, (int(columns[0]) - 1) * step + 1), min(width, (int(columns[-1]) + 1) * step)
    top, bottom = max(0, (int(rows[0]) - 1) * step + 1), min(height, (int(rows[-1]) + 1) * step)
    return left, top, right, bottom


def visible_field(image: np.ndarray, mask: np.ndarray) -> list[list[int]] | None:
    """The polygon around the bright field of an endoscope or dermatoscope and the lesion; None: all of the image.

    It is convex, as such fields are, so that dark places in it belong to it, also where they reach its border.

    Args:
        image: uint8 (H, W, 3) RGB.
        mask: uint8 (H, W) in {0, 255}.

    Returns:
        Its corners in order, [x, y] in corners of pixels: (0, 0) is the upper left corner of the image, (W, H) the
        lower right one.
    """
    # brings scipy.stats: a second, for each process that reads masks
    from skimage.measure import approximate_polygon

    height, width = image.shape[:2]
    kept, step = _bright_regions(image)
    if kept is None:
        return None
    rows, columns = np.nonzero(kept)
    seen = np.column_stack([columns, rows])
    upper, lower = seen * step, np.minimum((seen + 1) * step, (width, height))
    rows, columns = np.nonzero(mask)
    lesion = np.column_stack([columns, rows])
    upper, lower = np.concatenate([upper, lesion]), np.concatenate([lower, lesion + 1])
    mixed = [np.column_stack([a[:, 0], b[:, 1]]) for a, b in ((upper, lower), (lower, upper))]
    points = np.concatenate([upper, lower, *mixed])
    hull = ConvexHull(points)
    if hull.volume >= width * height:  # of two dimensions it is the area
        return None
    corners = points[hull.vertices]  # in order
    ring = approximate_polygon(np.concatenate([corners, corners[:1]]), FIELD_DETAIL * max(height, width))[:-1]
    return [[int(x), int(y)] for x, y in ring]


def _bright_regions(image: np.ndarray) -> tuple[np.ndarray | None, int]:
    """The large bright regions (h, w) of an image thinned out, None where it has no frame; and the step."""
    height, width = image.shape[:2]
    step = max(1, min(height, width) // _SCAN_SIDE)
    thin = image[::step, ::step].transpose(2, 0, 1).astype(np.int16, order="C")  # (3, h, w)
    frame = thin.max(0) <= BLACK  # (h, w)
    for line in (thin[:, 0], thin[:, -1], thin[:, :, 0], thin[:, :, -1]):
        if np.ptp(line, axis=1).max() <= UNIFORM:
            colour = np.median(line, axis=1).astype(np.int16)
            frame |= np.abs(thin - colour[:, None, None]).max(0) <= UNIFORM
    stroke = max(3, min(frame.shape) // _STROKES)
    field = ndimage.grey_opening(
        (~frame).astype(np.uint8), stroke
    )  # reflects at the edges: nibbles at nothing there
    labelled: Any = ndimage.label(field)
    regions, count = labelled
    sizes = np.bincount(regions.ravel(), minlength=count + 1)[1:]
    if not count or sizes.max() < MIN_FIELD * field.size:
        return None, step
    return np.isin(regions, 1 + np.flatnonzero(sizes >= MIN_PART * sizes.max())), step


def _around(box: Box, mask: np.ndarray) -> Box:
    """`box`, widened to hold the whole lesion."""
    if not mask.any():
        return box
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    left, top, right, bottom = box
    return (
        min(left, int(columns[0])),
        min(top, int(rows[0])),
        max(right, int(columns[-1]) + 1),
        max(bottom, int(rows[-1]) + 1),
    )


def _middle(box: Box) -> Box:
    """The largest square in the middle of a box."""
    left, top, right, bottom = box
    side = min(right - left, bottom - top)
    left, top = left + (right - left - side) // 2, top + (bottom - top - side) // 2
    return left, top, left + side, top + side
