"""Masks that are made of the lesions of two: a parent's own, and some of another mask of the same set."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import grid_points_in_poly

from siamdiff.data.transforms.geometry import Mask, Parameters, deform

SPECK = 0.1  # of the largest lesion's area: what is smaller is not taken into another mask


def apply(mask: Mask, parameters: Parameters, other: Mask | None = None) -> Mask:
    """The mask, uint8 (H, W) in {0, 255}, that `transform_mask` returned with these parameters.

    Args:
        mask: the parent's, uint8 (H, W) in {0, 255}.
        parameters: as in `transform` of KEY.json (docs/data-format.md); a copy of `mask` where they name no transform.
        other: mask (H, W) of the second parent, which `second_parent` names; None where there is none.

    Raises:
        ValueError: parameters with a second parent, and `other` is not given or lacks a lesion that they name.
    """
    result = deform(mask, parameters)
    if "combine" in parameters:
        if other is None:
            raise ValueError(f"the mask of {parameters['combine']['parent']} is needed too: give it as other")
        for drawn in parameters["combine"]["lesions"]:
            result = np.maximum(result, deform(lesion(other, drawn["number"]), drawn))
    if "field" in parameters:
        result = np.where(field_area(parameters, mask.shape), result, 0)
    return result.astype(np.uint8)


def second_parent(parameters: Parameters) -> str | None:
    """The key of the mask some of whose lesions were taken, None where there is none."""
    return parameters["combine"]["parent"] if "combine" in parameters else None


def lesions(mask: Mask) -> list[int]:
    """The numbers of the lesions of a mask that are no specks: connected regions, from 0 in the order of rows."""
    areas = np.bincount(_labels(mask).ravel())[1:]
    return [int(number) for number in np.flatnonzero(areas >= SPECK * areas.max(initial=0))]


def lesion(mask: Mask, number: int) -> Mask:
    """One lesion of a mask alone.

    Raises:
        ValueError: no lesion with this number.
    """
    alone = np.where(_labels(mask) == number + 1, 255, 0).astype(np.uint8)
    if not alone.any():
        raise ValueError(f"the other mask has no lesion number {number}: is it the one that was drawn from?")
    return alone


def field_area(parameters: Parameters, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The visible field (H, W) that parameters name; all of the image where they name none."""
    if "field" not in parameters:
        return np.ones(shape, bool)
    return polygon_area(parameters["field"]["polygon"], shape)


def polygon_area(polygon: list[list[int]], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The pixels (H, W) whose centre lies in a polygon; its corners are x and y of corners of pixels."""
    # Rows and columns; a pixel's centre is at its index.
    corners = np.array(polygon, dtype=float)[:, ::-1] - 0.5
    return grid_points_in_poly(shape, corners)


def _labels(mask: Mask) -> NDArray[np.int32]:
    labelled: Any = ndimage.label(mask, np.ones((3, 3)))
    return labelled[0]
