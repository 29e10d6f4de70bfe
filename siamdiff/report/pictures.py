"""The images of a page: real beside synthetic with the outlines of their masks, and the nearest training images.

A page that is shared shows no real pixel and no real annotation: `may_show` and `may_outline` say what that leaves.
"""

import base64
import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from siamdiff.data.sample import Sample, Synthetic, decode_mask
from siamdiff.data.shardset import ShardSet
from siamdiff.evaluation.sheets import TILE, describe, fit, outlined, tile_size
from siamdiff.report.stages import Near

QUALITY, EFFORT = (
    88,
    30,
)  # of images that are not enlarged; enlarged ones are kept to the bit, with some effort
IMAGE_GUIDED = "mask+image"  # the guide that takes real images along


@dataclass(frozen=True)
class Picture:
    """An image of the page."""

    source: Markup  # a data: URI
    side: int  # pixels
    alt: str


@dataclass(frozen=True)
class Tile:
    """A picture and what stands below it."""

    picture: Picture
    title: str
    lines: tuple[str, ...] = ()


def real_tile(sample: Sample) -> Tile:
    """A real image with its mask outlined."""
    picture = _picture(
        sample.image, sample.mask, f"Real image {sample.meta.key}; {where(sample.mask)}, outlined"
    )
    return Tile(picture, "real (parent)", (sample.meta.key,))


def synthetic_tile(sample: Sample, *, outline: bool, named: bool, dice: float | None = None) -> Tile:
    """A synthetic image.

    Args:
        sample: as its set holds it.
        outline: whether its mask is outlined.
        named: whether the other sample that a combined mask took lesions of is named.
        dice: mask agreement of this sample; None: not known.
    """
    origin = sample.meta.synthetic
    how = "synthetic"
    if isinstance(origin, Synthetic):
        how = f"fold {origin.fold}: " + moved(origin.transform, named=named)
    agreement = "" if dice is None else f", Dice {dice:.2f}"
    told = f"; {where(sample.mask)}, outlined" if outline else ""
    alt = f"Synthetic image {sample.meta.key}, {how}{told}{agreement}"
    picture = _picture(sample.image, sample.mask if outline else None, alt)
    return Tile(picture, f"synthetic{agreement}", (sample.meta.key, how))


def nearest_tiles(real: Sample, synthetic: Sample, near: Near) -> tuple[Tile, Tile]:
    """A training image, and the synthetic one that comes near to it."""
    said = f"distance {near.features:.3f} in features, {near.pixels:.3f} in pixels"
    verdict = "a copy by the limits" if near.is_copy else "no copy by the limits"
    left = _picture(real.image, None, f"Real training image {near.training}")
    right = _picture(
        synthetic.image,
        None,
        f"Synthetic image {near.key} nearest to the training image beside it: {said}; {verdict}",
    )
    return (
        Tile(left, "nearest real", (near.training,)),
        Tile(right, "copy" if near.is_copy else "no copy", (near.key, said)),
    )


def moved(transform: dict[str, Any], *, named: bool) -> str:
    """In words what was done to a mask; `named`: with the key of the mask whose lesions were added."""
    if not transform:
        return "the parent's own mask"
    if not named and "combine" in transform:
        transform = transform | {"combine": transform["combine"] | {"parent": "another mask"}}
    return f"mask moved: {describe(transform)}"


def may_show(sample: Sample, copies: Collection[str] | None) -> str:
    """Why a synthetic image must not be on a shared page; "" if it may.

    Args:
        sample: the image.
        copies: keys of the images that the evaluation takes for copies; None: nobody looked.
    """
    origin = sample.meta.synthetic
    if not isinstance(origin, Synthetic):
        return "how it was made is not known"
    if "guide" not in origin.sampler or origin.sampler["guide"] == IMAGE_GUIDED:
        return "it was made with real images (copy-paste, or guide mask+image)"
    if copies is None:
        return "whether it is a copy of a training image was not measured"
    if sample.meta.key in copies:
        return "it is a copy of a training image by the evaluation's limits"
    return ""


def may_outline(sample: Sample, annotations: Collection[bytes]) -> bool:
    """Whether the mask of a synthetic image is none that a person drew: not as it is, mirrored or turned by 90 degrees.

    Args:
        sample: the image with its mask.
        annotations: `annotation` of every real mask.
    """
    origin = sample.meta.synthetic
    if not isinstance(origin, Synthetic) or not origin.transform or "combine" in origin.transform:
        return False
    return annotation(sample.mask) not in annotations


def annotation(mask: np.ndarray) -> bytes:
    """One value for a square mask (H, W) in all its 8 positions."""
    turned = [np.rot90(of, times) for of in (mask, mask[:, ::-1]) for times in range(4)]
    return min(np.packbits(of >= 128).tobytes() for of in turned)


def masks_of(shard_set: ShardSet, keys: Sequence[str]) -> list[np.ndarray]:
    """The masks of some samples, uint8 (H, W); their images are not decoded."""
    return [decode_mask(shard_set.read_encoded(key).mask) for key in keys]


def where(mask: np.ndarray) -> str:
    """In words how large a mask is and where it lies."""
    inside = mask >= 128
    if not inside.any():
        return "its mask is empty"
    rows, columns = np.nonzero(inside)
    height, width = mask.shape
    vertical = ("upper", "middle", "lower")[min(int(3 * rows.mean() / height), 2)]
    horizontal = ("left", "centre", "right")[min(int(3 * columns.mean() / width), 2)]
    return f"the lesion covers {inside.mean():.0%} of the image, {vertical} {horizontal}"


def _picture(image: np.ndarray, mask: np.ndarray | None, alt: str) -> Picture:
    side = tile_size(image.shape[0])
    shown = fit(image, side)
    if mask is not None:
        shown = outlined(shown, fit(mask, side))
    stream = io.BytesIO()
    kept = image.shape[0] < TILE
    Image.fromarray(shown).save(stream, "WEBP", lossless=kept, quality=EFFORT if kept else QUALITY, method=2)
    data = base64.b64encode(stream.getvalue()).decode()
    return Picture(Markup(f"data:image/webp;base64,{data}"), side, alt)
