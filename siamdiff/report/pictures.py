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
from siamdiff.data.transforms import apply
from siamdiff.evaluation.sheets import TILE, describe, fit, outlined, tile_size
from siamdiff.report.stages import Near

QUALITY, EFFORT = (
    88,
    30,
)  # of images that are not enlarged; enlarged ones are kept to the bit, with some effort
IMAGE_GUIDED = "mask+image"  # the guide that takes real images along
MAX_LIKENESS = 0.9  # Dice with a real mask, up to which an outline may be shared
_BENDS = {"elastic", "boundary"}  # the transforms that change a mask's shape


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
    outlined: bool = False  # whether a mask's border is drawn in it


def real_tile(sample: Sample) -> Tile:
    """A real image with its mask outlined."""
    shown = picture(
        sample.image, sample.mask, f"Real image {sample.meta.key}; {where(sample.mask)}, outlined"
    )
    return Tile(shown, "real (parent)", (sample.meta.key,), outlined=True)


def synthetic_tile(sample: Sample, *, outline: bool, told: bool, dice: float | None = None) -> Tile:
    """A synthetic image.

    Args:
        sample: as its set holds it.
        outline: whether its mask is outlined.
        told: whether it is said how its mask was moved; from that and its outline follows the mask it was before.
        dice: mask agreement of this sample; None: not known.
    """
    origin = sample.meta.synthetic
    how = "synthetic"
    if isinstance(origin, Synthetic):
        how = f"fold {origin.fold}: " + moved(origin.transform, told=told)
    agreement = "" if dice is None else f", Dice {dice:.2f}"
    lies = f"; {where(sample.mask)}, outlined" if outline else ""
    alt = f"Synthetic image {sample.meta.key}, {how}{lies}{agreement}"
    shown = picture(sample.image, sample.mask if outline else None, alt)
    return Tile(shown, f"synthetic{agreement}", (sample.meta.key, how), outlined=outline)


def nearest_tiles(real: Sample, synthetic: Sample, near: Near) -> tuple[Tile, Tile]:
    """A training image, and the synthetic one that comes near to it."""
    said = f"distance {near.features:.3f} in features, {near.pixels:.3f} in pixels"
    verdict = "a copy by the limits" if near.is_copy else "no copy by the limits"
    left = picture(real.image, None, f"Real training image {near.training}")
    right = picture(
        synthetic.image,
        None,
        f"Synthetic image {near.key} nearest to the training image beside it: {said}; {verdict}",
    )
    return (
        Tile(left, "nearest real", (near.training,)),
        Tile(right, "copy" if near.is_copy else "no copy", (near.key, said)),
    )


def moved(transform: dict[str, Any], *, told: bool) -> str:
    """In words what was done to a mask; `told`: with every number, and the key of the mask whose lesions were added."""
    if not transform:
        return "the parent's own mask"
    return f"mask moved: {describe(transform)}" if told else "mask moved"


def may_show(sample: Sample, copies: Collection[str] | None) -> str:
    """Why a synthetic image must not be on a shared page; "" if it may.

    Args:
        sample: the image.
        copies: keys of the images that the evaluation takes for copies; None: nobody looked, or not where or as one
            has to.
    """
    origin = sample.meta.synthetic
    if not isinstance(origin, Synthetic):
        return "how it was made is not known"
    if "guide" not in origin.sampler or origin.sampler["guide"] == IMAGE_GUIDED:
        return "it was made with real images (copy-paste, or guide mask+image)"
    if copies is None:
        return (
            "whether it is a copy of a training image was not measured, or with too few groups for the limits"
        )
    if sample.meta.key in copies:
        return "it is a copy of a training image by the evaluation's limits"
    return ""


def may_outline(sample: Sample, parent: np.ndarray | None, annotations: Collection[bytes]) -> bool:
    """Whether the outline of a synthetic image's mask leaves open what a person drew.

    A mask that was mirrored, scaled, sheared, turned and shifted keeps its shape: the real one comes back by as many
    numbers. So it must have been bent, or got another outline, and be unlike its parent's after the same move without
    that, as well as in each of its 8 positions, wherever either lies.

    Args:
        sample: the image with its mask (H, W).
        parent: the mask (H, W) that it was made from; None: it is not there.
        annotations: `annotation` of every real mask.
    """
    origin = sample.meta.synthetic
    if parent is None or not isinstance(origin, Synthetic) or "combine" in origin.transform:
        return False
    if not _BENDS & origin.transform.keys() or annotation(sample.mask) in annotations:
        return False
    rigid = {name: of for name, of in origin.transform.items() if name not in _BENDS}
    return all(
        _likeness(sample.mask, of) <= MAX_LIKENESS for of in (apply(parent, rigid), *_positions(parent))
    )


def annotation(mask: np.ndarray) -> bytes:
    """One value for a square mask (H, W) in all its 8 positions."""
    return min(np.packbits(of >= 128).tobytes() for of in _positions(mask))


def _positions(mask: np.ndarray) -> list[np.ndarray]:
    return [np.rot90(of, times) for of in (mask, mask[:, ::-1]) for times in range(4)]


def _likeness(mask: np.ndarray, other: np.ndarray) -> float:
    """The largest Dice that two masks (H, W) have wherever one of them is shifted to, around the image's border."""
    spectra = [np.fft.rfft2(of >= 128) for of in (mask, other)]
    overlap = np.fft.irfft2(spectra[0] * spectra[1].conj(), mask.shape).max()
    return float(2 * overlap / max(np.count_nonzero(mask) + np.count_nonzero(other), 1))


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


def picture(image: np.ndarray, mask: np.ndarray | None, alt: str) -> Picture:
    """An image uint8 (H, W, 3), with the border of its mask (H, W) if there is one; `alt` says what is on it."""
    side = tile_size(image.shape[0])
    shown = fit(image, side)
    if mask is not None:
        shown = outlined(shown, fit(mask, side))
    stream = io.BytesIO()
    kept = image.shape[0] < TILE
    Image.fromarray(shown).save(stream, "WEBP", lossless=kept, quality=EFFORT if kept else QUALITY, method=2)
    data = base64.b64encode(stream.getvalue()).decode()
    return Picture(Markup(f"data:image/webp;base64,{data}"), side, alt)
