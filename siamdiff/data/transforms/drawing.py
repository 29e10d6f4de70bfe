"""Draws of mask transforms: within ranges, repeated until the mask is valid and new, or a fallback."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from siamdiff.data.transforms.geometry import Mask, Parameters, centre, deform, mirror, places
from siamdiff.data.transforms.lesions import apply, lesion, lesions, polygon_area
from siamdiff.sections import Transforms

MIN_KEPT = 0.9  # share of the transformed lesion that must lie inside the image, and in the visible field
MAX_DRAWS = 20


@dataclass(frozen=True)
class Pool:
    """The masks whose lesions another one may take: keys of the set, and how one is read."""

    keys: Sequence[str]
    read: Callable[[str], Mask]


@dataclass(frozen=True)
class _View:
    """What of the image is to be seen: all of it, or a polygon."""

    shape: tuple[int, ...]
    polygon: list[list[int]] | None

    def kept(self, mask: Mask, parameters: Parameters) -> float:
        """Share of the transformed lesion's pixels, in [0, 1], that come to lie in view."""
        height, width = self.shape
        x, y = places(mask, parameters).T
        inside = (x >= -0.5) & (x < width - 0.5) & (y >= -0.5) & (y < height - 0.5)
        if self.polygon is not None:
            columns, rows = (np.rint(side[inside]).astype(int) for side in (x, y))
            inside[inside] = polygon_area(self.polygon, self.shape)[rows, columns]
        return float(inside.mean())


def transform_mask(
    mask: Mask,
    ranges: Transforms,
    rng: np.random.Generator,
    *,
    pool: Pool | None = None,
    field: list[list[int]] | None = None,
    taken: Sequence[Mask] = (),
) -> tuple[Mask, Parameters]:
    """Draws a transform that keeps the lesion in view, and applies it.

    A draw is repeated, at most MAX_DRAWS times, where less than MIN_KEPT of the lesion would stay in view, where
    nothing of it would be left, where its area would leave `ranges.area`, or where the mask would be one of `taken`.
    After that the whole image is mirrored, left to right or upside down, if `ranges` permit that flip and nothing
    leaves the field, else the mask stays as it is: the first of these that is not taken, or the first at all, which
    then repeats one. None can lose any of it; limits of the area do not hold for them.

    Args:
        mask: the parent's, uint8 (H, W) in {0, 255}.
        ranges: what may be drawn.
        rng: made from a seed, and used for nothing else. What came after the first affine transforms is drawn from
            streams of their own, which it spawns, so that masks drawn without it stay the same.
        pool: masks for `ranges.combine`; None takes no lesion of another.
        field: visible part of the image, x and y of a polygon's corners in corners of pixels; None: all of it.
        taken: masks (H, W) that must not come again.

    Returns:
        The mask, uint8 (H, W) in {0, 255}, never empty unless `mask` is, and its parameters, plain JSON, as
        docs/data-format.md names them. A mask without a lesion (`data.allow_empty`) stays as it is.
    """
    if not mask.any():
        return mask.copy(), {"draw": {"tries": 0, "fallback": "unchanged"}}
    view = _View(mask.shape, field)
    shapes, others = rng.spawn(2)
    for tries in range(1, MAX_DRAWS + 1):
        parameters = _draw(ranges, rng, shapes)
        if view.kept(mask, parameters) < MIN_KEPT:
            continue
        if field is not None:
            parameters["field"] = {"polygon": field}
        transformed = apply(mask, parameters)
        if not transformed.any():
            continue
        if pool is not None and others.random() < ranges.combine:
            transformed, parameters = _combined(transformed, parameters, ranges, others, pool, view)
        if _has_area(transformed, ranges) and not _is_taken(transformed, taken):
            return transformed, parameters | {"draw": {"tries": tries, "fallback": "none"}}
    return _fallback(mask, ranges, view, taken)


def _draw(ranges: Transforms, rng: np.random.Generator, shapes: np.random.Generator) -> Parameters:
    """One draw of every parameter; always the same number of draws, so that one range does not shift another's."""
    flip = bool(rng.random() < 0.5)
    scale, degrees = float(rng.uniform(*ranges.scale)), float(rng.uniform(*ranges.rotate))
    x, y = rng.uniform(*ranges.translate, size=2)
    drawn = {
        "flip": {"left_right": flip and ranges.flip},
        "scale": {"factor": scale},
        "rotate": {"degrees": degrees},
        "translate": {"x": float(x), "y": float(y)},
    }
    top_bottom = bool(shapes.random() < 0.5)
    if ranges.flip_vertical:
        drawn["flip"]["top_bottom"] = top_bottom
    slant = float(shapes.uniform(*ranges.shear))
    if any(ranges.shear):
        drawn["shear"] = {"degrees": slant}
    for name in ("elastic", "boundary"):
        range_, spacing = getattr(ranges, name), getattr(ranges, f"{name}_spacing")
        amplitude, seed = float(shapes.uniform(*range_)), int(shapes.integers(2**32))
        if range_[1] > 0:
            drawn[name] = {"amplitude": amplitude, "spacing": spacing, "seed": seed}
    return drawn


def _combined(
    mask: Mask,
    parameters: Parameters,
    ranges: Transforms,
    rng: np.random.Generator,
    pool: Pool,
    view: _View,
) -> tuple[Mask, Parameters]:
    """The mask with lesions of another one of the pool, each drawn by itself and put anywhere where there is room.

    Where none finds room in MAX_DRAWS draws, or the other mask has none, the mask stays without.
    """
    if not pool.keys:
        return mask, parameters
    key = pool.keys[int(rng.integers(len(pool.keys)))]
    other = pool.read(key)
    numbers = lesions(other)
    wanted = int(rng.integers(ranges.combine_lesions[0], ranges.combine_lesions[1] + 1))
    added = []
    for number in rng.permutation(numbers)[:wanted]:
        alone = lesion(other, int(number))
        for _ in range(MAX_DRAWS):
            drawn = _draw(ranges, *rng.spawn(2)) | {"translate": _anywhere(alone, rng)}
            if view.kept(alone, drawn) < MIN_KEPT:
                continue
            moved = deform(alone, drawn)
            if view.polygon is not None:
                moved = np.where(polygon_area(view.polygon, mask.shape), moved, 0).astype(np.uint8)
            with_it = np.maximum(mask, moved)
            if moved.any() and not _touch(mask, moved) and _has_area(with_it, ranges):
                mask = with_it
                added.append({"number": int(number)} | drawn)
                break
    if added:
        parameters = parameters | {"combine": {"parent": key, "lesions": added}}
    return mask, parameters


def _anywhere(mask: Mask, rng: np.random.Generator) -> dict[str, float]:
    """A shift that puts the lesion's centre anywhere in the image."""
    height, width = mask.shape
    x, y = centre(mask)
    to_x, to_y = rng.uniform(-0.5, [width - 0.5, height - 0.5])
    return {"x": float((to_x - x) / width), "y": float((to_y - y) / height)}


def _touch(mask: Mask, other: Mask) -> bool:
    """Whether two lesions overlap or are neighbours, so that they would become one."""
    around: Any = ndimage.binary_dilation(mask, np.ones((3, 3)))
    return bool((around & (other > 0)).any())


def _has_area(mask: Mask, ranges: Transforms) -> bool:
    return bool(ranges.area[0] <= np.count_nonzero(mask) / mask.size <= ranges.area[1])


def _is_taken(mask: Mask, taken: Sequence[Mask]) -> bool:
    return any(np.array_equal(mask, one) for one in taken)


def _fallback(mask: Mask, ranges: Transforms, view: _View, taken: Sequence[Mask]) -> tuple[Mask, Parameters]:
    ways: list[tuple[str, Parameters]] = []
    if ranges.flip:
        ways.append(("mirror", mirror(mask)))
    if ranges.flip_vertical:
        ways.append(("mirror_vertical", mirror(mask, upside_down=True)))
    ways = [(name, way) for name, way in ways if view.polygon is None or view.kept(mask, way) == 1]
    ways.append(("unchanged", {}))
    results = [(apply(mask, way), name, way) for name, way in ways]
    new = [result for result in results if not _is_taken(result[0], taken)]
    result, name, way = (new or results)[0]
    return result, way | {"draw": {"tries": MAX_DRAWS, "fallback": name}}
