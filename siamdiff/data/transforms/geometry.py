"""One mask under given parameters: its outline perturbed, then bent, then moved by one affine map, in this order.

The affine map is about the mean position of the lesion's pixels. What is noise is a uniform cubic B-spline over a
lattice of nodes with coefficients in [-1, 1], the field of free-form deformations (Rueckert et al., IEEE Trans. Med.
Imaging 1999): never beyond [-1, 1] itself, and a function of a seed, a spacing and the mask.

Lengths of noise are in radii of the lesion: a radius is that of the largest disc inside it, so that small and large
lesions keep the same share of their shape.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.transform import AffineTransform, warp

Mask = NDArray[np.uint8]
Parameters = dict[str, Any]
Points = NDArray[np.float64]  # (n, 2), x and y

_AFFINE = {"flip", "scale", "shear", "rotate", "translate"}


def deform(mask: Mask, parameters: Parameters) -> Mask:
    """The mask (H, W) under its own parameters; a copy of it where they name no transform, or it holds no lesion."""
    if not mask.any():
        return mask.copy()
    outline = perturbed(mask, parameters)
    bend = _bend(mask, parameters)
    if bend is None and not _AFFINE & parameters.keys():
        return outline.copy()
    back = affine(mask, parameters).inverse
    inverse: Any = back if bend is None else lambda points: bend(back(points))
    moved = warp(outline, inverse, order=0, mode="constant", cval=0, preserve_range=True)
    return np.where(moved > 127, 255, 0).astype(np.uint8)  # (H, W)


def places(mask: Mask, parameters: Parameters) -> Points:
    """Where the lesion's pixels come to lie, inside the image or not; x and y, (n, 2)."""
    outline = perturbed(mask, parameters)
    rows, columns = np.nonzero(outline)
    points = np.column_stack([columns, rows])
    bend = _bend(mask, parameters)
    if bend is not None:  # its inverse is not known: look where each pixel around the image comes from
        margin = int(np.ceil(parameters["elastic"]["amplitude"] * radius(mask)))
        padded = np.pad(outline, margin)
        y, x = np.mgrid[-margin : mask.shape[0] + margin, -margin : mask.shape[1] + margin]
        grid = np.column_stack([x.ravel(), y.ravel()])
        source = np.rint(bend(grid.astype(np.float64))).astype(int) + margin
        inside = ((source >= 0) & (source < padded.shape[::-1])).all(1)
        lesion = np.zeros(len(grid), bool)
        lesion[inside] = padded[source[inside, 1], source[inside, 0]] > 0
        points = grid[lesion]
    return affine(mask, parameters)(points)


def mirror(mask: Mask, *, upside_down: bool = False) -> Parameters:
    """The whole image mirrored: a flip about the lesion's centre, and the shift that undoes its place."""
    height, width = mask.shape
    x, y = centre(mask)
    if upside_down:
        flip, shift = (
            {"left_right": False, "top_bottom": True},
            {"x": 0.0, "y": (height - 1 - 2 * y) / height},
        )
    else:
        flip, shift = {"left_right": True}, {"x": (width - 1 - 2 * x) / width, "y": 0.0}
    return {"flip": flip, "translate": shift}


def centre(mask: Mask) -> NDArray[np.float64]:
    """The mean (x, y) of the lesion's pixels."""
    rows, columns = np.nonzero(mask)
    return np.array([columns.mean(), rows.mean()])


def radius(mask: Mask) -> float:
    """Of the largest disc inside the lesion, pixels; at least 1. What lies beyond the image is taken for outside."""
    distance: Any = ndimage.distance_transform_edt(np.pad(mask, 1))
    return float(distance.max())


def affine(mask: Mask, parameters: Parameters) -> AffineTransform:
    """The map from a pixel of `mask` to its place: mirror, scale, shear, rotate, all about the centre, then shift."""
    height, width = mask.shape
    middle = centre(mask)
    factor = parameters.get("scale", {"factor": 1.0})["factor"]
    flip = parameters.get("flip", {})
    x_sign, y_sign = (-1.0 if flip.get(side) else 1.0 for side in ("left_right", "top_bottom"))
    slant = np.deg2rad(parameters.get("shear", {"degrees": 0.0})["degrees"])
    angle = np.deg2rad(parameters.get("rotate", {"degrees": 0.0})["degrees"])
    shift = parameters.get("translate", {"x": 0.0, "y": 0.0})
    place = middle + np.array([shift["x"] * width, shift["y"] * height])
    about = AffineTransform(translation=-middle)
    sheared = AffineTransform(matrix=np.array([[1.0, np.tan(slant), 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
    then = AffineTransform(scale=(x_sign * factor, y_sign * factor), rotation=angle, translation=place)
    if slant:
        size = AffineTransform(scale=(x_sign * factor, y_sign * factor))
        turned = AffineTransform(rotation=angle, translation=place)
        then = AffineTransform(matrix=turned.params @ sheared.params @ size.params)
    return AffineTransform(matrix=then.params @ about.params)


def perturbed(mask: Mask, parameters: Parameters) -> Mask:
    """The mask with its outline moved outwards here and inwards there, each lesion's by a share of its own radius.

    An outline is where the signed distance to it is 0; noise is added to that distance. As the share is below 1, the
    middle of every lesion stays. The image's border is no outline: a lesion that it cuts stays cut there.
    """
    if "boundary" not in parameters or mask.all():
        return mask
    drawn, lesion = parameters["boundary"], mask > 0
    inside: Any = ndimage.distance_transform_edt(lesion)
    outside, nearest = _distance_and_nearest(lesion)
    labelled: Any = ndimage.label(lesion, np.ones((3, 3)))
    labels, count = labelled
    radii = np.concatenate([[0.0], ndimage.maximum(inside, labels, np.arange(1, count + 1))])
    own = radii[labels[tuple(nearest)]]  # (H, W), of the nearest lesion
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]]
    points = np.column_stack([x.ravel(), y.ravel()]).astype(np.float64)
    noise = _noise(mask, drawn, radius(mask), points, 1)[0].reshape(mask.shape)
    signed = np.where(lesion, inside - 0.5, 0.5 - outside)
    return np.where(signed + drawn["amplitude"] * own * noise > 0, 255, 0).astype(np.uint8)


def _distance_and_nearest(lesion: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Distance of every pixel to the lesion (H, W), and the row and column of its nearest pixel there (2, H, W)."""
    found: Any = ndimage.distance_transform_edt(~lesion, return_indices=True)
    return found


def _bend(mask: Mask, parameters: Parameters) -> Callable[[Points], Points] | None:
    """The map from a place in the bent mask to where it comes from; None without an elastic deformation.

    With an amplitude below 0.48 of the spacing it is one-to-one (Choi and Lee, Graphical Models 2000), so that it
    neither tears a lesion nor folds it.
    """
    if "elastic" not in parameters:
        return None
    drawn, size = parameters["elastic"], radius(mask)

    def bend(points: Points) -> Points:
        return points + drawn["amplitude"] * size * _noise(mask, drawn, size, points, 2).T

    return bend


def _noise(mask: Mask, drawn: dict[str, Any], size: float, points: Points, count: int) -> NDArray[np.float64]:
    """`count` smooth fields in [-1, 1] at some points, (count, n); the lattice reaches past the image by two nodes."""
    spacing = drawn["spacing"] * size
    nodes = [int(np.ceil(side / spacing)) + 5 for side in mask.shape]
    generator = np.random.Generator(np.random.PCG64(drawn["seed"]))
    coefficients = generator.uniform(-1, 1, (count, *nodes))
    place = points.T[::-1] / spacing + 2  # (2, n), row and column in the lattice
    fields: list[Any] = [
        ndimage.map_coordinates(field, place, order=3, mode="nearest", prefilter=False)
        for field in coefficients
    ]
    return np.stack(fields)
