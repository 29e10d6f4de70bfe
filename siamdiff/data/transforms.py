"""Seeded mask transforms: mirror, scale, rotate and shift a lesion, composed as one affine map about its centre.

Masks are uint8 (H, W) in {0, 255}; coordinates are pixels, x to the right, y down, a pixel's centre at its index.
This gives the "Random" masks of the paper's Fig. 7. What was drawn is returned as plain parameters, with which
`apply` makes the same mask again.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.transform import AffineTransform, warp

from siamdiff.sections import Transforms

MIN_KEPT = 0.9  # share of the transformed lesion that must lie inside the image
MAX_DRAWS = 20

Mask = NDArray[np.uint8]
Parameters = dict[str, Any]


def transform_mask(mask: Mask, ranges: Transforms, rng: np.random.Generator) -> tuple[Mask, Parameters]:
    """Draws a transform that keeps the lesion in view, and applies it.

    A draw is repeated, at most MAX_DRAWS times, where less than MIN_KEPT of the lesion would stay inside the image or
    nothing of it would be left. After that the whole image is mirrored left to right if `ranges` permit a flip, else
    the mask stays as it is: neither can lose any of it.

    Returns the mask, uint8 (H, W) in {0, 255}, never empty unless `mask` is, and its parameters: `flip`, `scale`,
    `rotate`, `translate` (as in `config.Transforms`) and `draw`, which tells the tries and the fallback taken
    ("none", "mirror" or "unchanged"). A mask without a lesion (`data.allow_empty`) stays as it is.
    """
    if not mask.any():
        return mask.copy(), {"draw": {"tries": 0, "fallback": "unchanged"}}
    for tries in range(1, MAX_DRAWS + 1):
        parameters = _draw(ranges, rng)
        if _kept(mask, parameters) < MIN_KEPT:
            continue
        transformed = apply(mask, parameters)
        if transformed.any():
            return transformed, parameters | {"draw": {"tries": tries, "fallback": "none"}}
    parameters = _mirror(mask) if ranges.flip else {}
    fallback = "mirror" if ranges.flip else "unchanged"
    return apply(mask, parameters), parameters | {"draw": {"tries": MAX_DRAWS, "fallback": fallback}}


def apply(mask: Mask, parameters: Parameters) -> Mask:
    """The mask, uint8 (H, W) in {0, 255}, under given parameters; a copy of `mask` where they name no transform."""
    if not _TRANSFORMS & parameters.keys():
        return mask.copy()
    inverse = _affine(mask, parameters).inverse
    moved = warp(mask, inverse, order=0, mode="constant", cval=0, preserve_range=True)
    return np.where(moved > 127, 255, 0).astype(np.uint8)  # (H, W)


_TRANSFORMS = {"flip", "scale", "rotate", "translate"}


def _draw(ranges: Transforms, rng: np.random.Generator) -> Parameters:
    """One draw of every parameter; always the same number of draws, so that one range does not shift another's."""
    flip = bool(rng.random() < 0.5)
    scale, degrees = float(rng.uniform(*ranges.scale)), float(rng.uniform(*ranges.rotate))
    x, y = rng.uniform(*ranges.translate, size=2)
    return {
        "flip": {"left_right": flip and ranges.flip},
        "scale": {"factor": scale},
        "rotate": {"degrees": degrees},
        "translate": {"x": float(x), "y": float(y)},
    }


def _mirror(mask: Mask) -> Parameters:
    """The whole image mirrored left to right: a flip about the lesion's centre and the shift that undoes its place."""
    width = mask.shape[1]
    centre_x, _ = _centre(mask)
    return {"flip": {"left_right": True}, "translate": {"x": (width - 1 - 2 * centre_x) / width, "y": 0.0}}


def _centre(mask: Mask) -> NDArray[np.float64]:
    """The mean (x, y) of the lesion's pixels."""
    rows, columns = np.nonzero(mask)
    return np.array([columns.mean(), rows.mean()])


def _affine(mask: Mask, parameters: Parameters) -> AffineTransform:
    """The map from a pixel of `mask` to its place in the result: mirror, scale, rotate, all about the centre, shift."""
    height, width = mask.shape
    centre = _centre(mask)
    factor = parameters.get("scale", {"factor": 1.0})["factor"]
    sign = -1.0 if parameters.get("flip", {"left_right": False})["left_right"] else 1.0
    angle = np.deg2rad(parameters.get("rotate", {"degrees": 0.0})["degrees"])
    shift = parameters.get("translate", {"x": 0.0, "y": 0.0})
    place = centre + np.array([shift["x"] * width, shift["y"] * height])
    about = AffineTransform(translation=-centre)
    then = AffineTransform(scale=(sign * factor, factor), rotation=angle, translation=place)
    return AffineTransform(matrix=then.params @ about.params)


def _kept(mask: Mask, parameters: Parameters) -> float:
    """Share of the lesion's pixels, in [0, 1], whose place lies inside the image."""
    height, width = mask.shape
    rows, columns = np.nonzero(mask)
    x, y = _affine(mask, parameters)(np.column_stack([columns, rows])).T
    inside = (x >= -0.5) & (x < width - 0.5) & (y >= -0.5) & (y < height - 0.5)
    return float(inside.mean())
