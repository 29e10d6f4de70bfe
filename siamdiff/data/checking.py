"""Checks one raw pair: decodes what people's files hold, and finds out how their masks are coded.

Decoders are listed explicitly, sizes are limited before pixels are decoded, and everything but the pixels is dropped.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from siamdiff.data.layouts.pairs import Labels
from siamdiff.data.sample import DECODE_ERRORS, MAX_SCANS, has_too_many_scans

FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
MAX_RAW_PIXELS = 8192 * 8192
MAX_RAW_SIDE = 32768  # pixels; what is longer and yet below the limit above is no picture of anything
THRESHOLD = 127  # of masks coded 0..255: lesion above it
GREY = (64, 191)  # values that are neither background nor lesion
MAX_GREY = 0.01  # share of pixels: soft edges are, and the artefacts of JPEG, stay below
MAX_LABELS = 32
MAX_IGNORED = 0.01  # share of pixels that nobody annotated: they count as background
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N", "I")


class Fault(Exception):  # noqa: N818 - a finding about a pair, not an error of the program
    """A pair that cannot be used. `reason` is one of a few, to be counted; `detail` says more about this one."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class RawPair:
    """A pair at full resolution: image uint8 (H, W, 3), mask uint8 (H, W) in {0, 255}, and how the mask was coded."""

    image: np.ndarray
    mask: np.ndarray
    coding: str


def check_pair(
    image_bytes: bytes, mask_bytes: bytes, planes: Sequence[bytes] = (), labels: Labels | None = None
) -> RawPair:
    """Decodes a pair, with EXIF orientation applied and all metadata dropped.

    Args:
        image_bytes: the image's file.
        mask_bytes: the mask's file.
        planes: files of green and blue, where the image's file holds red alone.
        labels: what the mask's numbers mean; None: its coding is found out.

    Raises:
        Fault: unreadable, of several sizes, or a mask whose coding is unclear or not that of `labels`.
    """
    images = [decode_raw(content, "image") for content in (image_bytes, *planes)]
    mask = decode_raw(mask_bytes, "mask")
    for image in images:
        if image.size != mask.size:
            sizes = f"image {image.width} x {image.height}, mask {mask.width} x {mask.height}"
            raise Fault("image and mask differ in size", sizes)
    binary, coding = binarize(mask) if labels is None else select_labels(mask, labels)
    return RawPair(merge_planes(images) if planes else to_rgb(images[0]), binary, coding)


def merge_planes(planes: Sequence[Image.Image]) -> np.ndarray:
    """uint8 (H, W, 3) of three grey images: red, green and blue.

    Raises:
        Fault: one of them is in colour, or what `to_rgb` raises.
    """
    if any(plane.mode not in ("1", "L", *_SIXTEEN_BIT) for plane in planes):
        modes = ", ".join(plane.mode for plane in planes)
        raise Fault("image of other channels", f"files of red, green and blue must be grey, not {modes}")
    return np.stack([to_rgb(plane)[..., 0] for plane in planes], axis=2)


def decode_raw(data: bytes, kind: str) -> Image.Image:
    """An upright image in whatever mode its file has. `kind` (image or mask) is for the message.

    Raises:
        Fault: empty, not a single image in one of FORMATS, damaged, or over the limits.
    """
    if not data:
        raise Fault(f"{kind} is empty", "0 bytes")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_RAW_PIXELS or max(image.size) > MAX_RAW_SIDE:
                raise Fault(
                    f"{kind} is too large",
                    f"{image.width} x {image.height}, at most {MAX_RAW_PIXELS} pixels, {MAX_RAW_SIDE} a side",
                )
            if image.format in ("TIFF", "PNG") and getattr(image, "n_frames", 1) > 1:
                raise Fault(
                    f"{kind} has several pages", f"{getattr(image, 'n_frames', 1)}; save one as a file"
                )
            if has_too_many_scans(data, image.format):
                raise Fault(f"{kind} cannot be read", f"a JPEG of over {MAX_SCANS} scans")
            image.load()
            lossy = image.format in ("JPEG", "MPO")
            upright = ImageOps.exif_transpose(image)
    except Image.UnidentifiedImageError:
        raise Fault(
            f"{kind} cannot be read", "not PNG, JPEG, TIFF or BMP, or its header is damaged"
        ) from None
    except DECODE_ERRORS as error:
        raise Fault(f"{kind} cannot be read", f"damaged or cut short ({error})") from None
    upright.info = {"lossy": lossy} | {k: v for k, v in upright.info.items() if k == "transparency"}
    return upright


def to_rgb(image: Image.Image) -> np.ndarray:
    """uint8 (H, W, 3) of an image in any mode. Transparent pixels lie over black; 16 bits are scaled to 8.

    Raises:
        Fault: floating point or 32-bit values, whose range nobody knows.
    """
    if image.mode in _SIXTEEN_BIT:
        grey = (_sixteen_bit(image, "image") + 128) // 257  # (H, W) 0..255
        return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
    if image.mode in ("F", "LAB"):
        raise Fault("image is of an unknown kind", f"mode {image.mode}; save it as 8-bit RGB or grey")
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        return np.array(Image.alpha_composite(black, rgba).convert("RGB"))
    return np.array(image.convert("RGB"))


def _sixteen_bit(image: Image.Image, kind: str) -> np.ndarray:
    values = np.array(image).astype(np.int64)
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise Fault(
            f"{kind} is of an unknown kind", f"values {values.min()} .. {values.max()}; save it as 8-bit"
        )
    return values


def binarize(mask: Image.Image) -> tuple[np.ndarray, str]:
    """A mask as uint8 (H, W) in {0, 255}, and how it was coded: 0/255, 0/1, label map, palette, grey ...

    Raises:
        Fault: grey values in more than MAX_GREY of the pixels, more colours than labels, or labels in a JPEG.
    """
    if mask.mode == "1":
        return np.array(mask.convert("L")), "1 bit"
    if mask.mode in _SIXTEEN_BIT:
        values = _sixteen_bit(mask, "mask")
        if values.max() > 255:
            binary, coding = _from_grey((values + 128) // 257, bool(mask.info["lossy"]))
            return binary, f"16 bit, {coding}"
        binary, coding = _from_grey(values, bool(mask.info["lossy"]))
        return binary, f"16 bit, {coding}"
    if mask.mode == "L":
        return _from_grey(np.array(mask), bool(mask.info["lossy"]))
    if mask.mode in ("P", "PA", "LA", "La", "RGB", "RGBA", "RGBa"):
        return _from_colours(mask)
    raise Fault("mask is of an unknown kind", f"mode {mask.mode}; save it as 8-bit grey of 0 and 255")


def select_labels(mask: Image.Image, labels: Labels) -> tuple[np.ndarray, str]:
    """A label map as uint8 (H, W) in {0, 255}, 255 where one of `labels.lesion` is; and its coding.

    Raises:
        Fault: colours, a JPEG, numbers that are not among `labels.known`, or over MAX_IGNORED of the pixels ignored.
    """
    if mask.info["lossy"]:
        raise Fault("mask holds labels in a JPEG", "its artefacts are labels too; save it as PNG")
    values = np.array(mask)  # (H, W); indices where there is a palette, as segmentation tools write them
    if values.ndim == 3:
        if (values[..., :3] != values[..., :1]).any():
            raise Fault("mask is in colour", f"mode {mask.mode}; save the numbers of the labels")
        values = values[..., 0]
    unknown = sorted(set(np.unique(values).tolist()) - set(labels.known))
    if unknown:
        raise Fault("mask holds unknown labels", f"{unknown[:8]}; known are {list(labels.known)}")
    if labels.ignored is not None:
        ignored = float((values == labels.ignored).mean())
        if ignored > MAX_IGNORED:
            raise Fault("mask is partly ignored", f"{ignored:.1%} of its pixels, at most {MAX_IGNORED:.0%}")
    return np.where(np.isin(values, labels.lesion), 255, 0).astype(np.uint8), "labels"


def _from_colours(mask: Image.Image) -> tuple[np.ndarray, str]:
    """A mask in colour, through a palette or with transparency: lesion is what is not black."""
    prefix = "palette, " if mask.mode.startswith("P") else ""
    rgba = np.array(mask.convert("RGBA"))  # (H, W, 4)
    lossy = bool(mask.info["lossy"])
    colour, alpha = rgba[..., :3].astype(np.int16), rgba[..., 3]
    if alpha.min() < 255:
        if (colour == colour[0, 0]).all():
            binary, coding = _from_grey(alpha, lossy)
            return binary, f"{prefix}alpha, {coding}"
        colour = colour * (alpha[..., None] > THRESHOLD)
    spread = colour.max(2) - colour.min(2)  # (H, W): 0 where grey
    if spread.max() <= (24 if lossy else 0):  # JPEG tints grey a little
        binary, coding = _from_grey(colour[..., 1], lossy)
        return binary, f"{prefix or 'RGB, '}{coding}"
    packed = (colour.astype(np.int32) << np.array([16, 8, 0])).sum(2)
    number = len(np.unique(packed))
    if lossy or number > MAX_LABELS:
        raise Fault("mask is in colour", f"{number} colours; save it as 8-bit grey of 0 and 255")
    return np.where(packed > 0, 255, 0).astype(np.uint8), f"{prefix or 'RGB, '}colour label map"


def _from_grey(values: np.ndarray, lossy: bool) -> tuple[np.ndarray, str]:
    """Integer values (H, W), 0..255, as a binary mask, and their coding."""
    present = np.unique(values)
    if set(present.tolist()) <= {0, 255}:
        return values.astype(np.uint8), "0/255"
    if present.max() < GREY[0] and len(present) <= MAX_LABELS:
        if lossy:
            raise Fault(
                "mask holds labels in a JPEG", "its artefacts are labels too; save it as PNG of 0 and 255"
            )
        coding = "0/1" if present.max() == 1 else "label map"
        return np.where(values > 0, 255, 0).astype(np.uint8), coding
    grey = float(((values >= GREY[0]) & (values <= GREY[1])).mean())
    if grey > MAX_GREY:
        raise Fault(
            "mask is grey",
            f"{grey:.1%} of its pixels are between {GREY[0]} and {GREY[1]}, at most {MAX_GREY:.0%}; save 0 and 255",
        )
    low = float(((values > 0) & (values < GREY[0])).mean())
    if len(present) <= 8 and not lossy and low > MAX_GREY:
        raise Fault("mask mixes labels and 255", f"values {present.tolist()}; save it as 0 and 255")
    return np.where(values > THRESHOLD, 255, 0).astype(np.uint8), "soft 0..255"


def resize_image(image: np.ndarray, side: int) -> np.ndarray:
    """uint8 (H, W, 3) squashed to (side, side, 3): bicubic over the whole footprint of a pixel, so nothing aliases."""
    if image.shape[:2] == (side, side):
        return image
    return np.array(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))


def resize_mask(mask: np.ndarray, side: int) -> np.ndarray:
    """uint8 (H, W) of {0, 255} squashed to (side, side) by nearest neighbour.

    Nearest keeps 0 and 255 and invents no value between them that a second threshold would have to judge.
    """
    if mask.shape == (side, side):
        return mask
    return np.array(Image.fromarray(mask).resize((side, side), Image.Resampling.NEAREST))
