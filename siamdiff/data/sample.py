"""One sample: an image, its lesion mask and what is known about them, as arrays and as the bytes that shards hold."""

import hashlib
import io
import struct
import zlib
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
)

from siamdiff.errors import SiamdiffError
from siamdiff.sections import MAX_TEXT, Box

ImageFormat = Literal["png", "jpg"]
KEY_DIGITS = 16
KEY_PATTERN = rf"^[0-9a-f]{{{KEY_DIGITS}}}$"
REJECTED = "rejected_"  # a score of this name and a gate's: the sample did not pass it
MAX_MEMBER_BYTES = 64 * 2**20
MAX_SCANS = 500  # of a progressive JPEG, which has ten; each, however short, passes over all pixels
MAX_SIDE = 2048  # the largest `data.resolution`
JPEG_QUALITY = 95

# What sets may say of themselves. They come from anywhere, and their names become paths.
Amount = Annotated[int, Field(ge=0, lt=2**63)]
Side = Annotated[int, Field(ge=0, le=MAX_SIDE)]
Text = Annotated[str, StringConstraints(max_length=MAX_TEXT)]
Key = Annotated[str, StringConstraints(pattern=KEY_PATTERN)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
ShardName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]

# What Pillow's decoders raise on damaged bytes. Each depends on where the damage lies; none means a fault of ours.
DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class Synthetic(BaseModel):
    """Where a synthetic sample comes from."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    parent: str  # key of the sample whose mask was used
    fold: int
    transform: dict[str, Any]  # name -> parameters; {} for the parent's own mask
    seed: int
    model_digest: str
    sampler: dict[str, Any]
    draw: int = 0  # which draw from its seed it is; those before it did not pass the gates
    scores: dict[str, float] = {}

    @model_serializer(mode="wrap")
    def _as_before(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what came later and is not used: the bytes of earlier samples stay the same."""
        return {name: value for name, value in fields(self).items() if name != "draw" or value}

    @property
    def rejected(self) -> tuple[str, ...]:
        """The gates that it did not pass, in order of name."""
        return tuple(sorted(name.removeprefix(REJECTED) for name in self.scores if name.startswith(REJECTED)))


class Foreign(BaseModel):
    """What is known of a synthetic sample of another method: neither its parent nor how it was drawn."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    has_mask: bool  # False: the image came without one, and the stored mask is empty


class SampleMeta(BaseModel):
    """What is known about a sample; the content of its `KEY.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: Key
    prompt: Text
    split: Text
    group: Text
    width: Side  # pixels, of image and mask as stored
    height: Side
    source_width: Amount  # pixels, of the pair it was made from
    source_height: Amount
    image_sha256: Sha256  # of the members' bytes
    mask_sha256: Sha256
    subset: Text | None = None  # of the source's named sets, such as one of several test sets
    crop: Box | None = (
        None  # left, top, right, bottom of what was kept of the source, pixels; None: all of it
    )
    padding: Box = (0, 0, 0, 0)  # black added around that before resizing, in pixels of the source
    synthetic: Synthetic | Foreign | None = None


@dataclass(frozen=True)
class Sample:
    """A decoded sample: image uint8 (H, W, 3) RGB, mask uint8 (H, W) in {0, 255}."""

    meta: SampleMeta
    image: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class EncodedSample:
    """A sample as a shard holds it: image as PNG or JPEG, mask as PNG."""

    meta: SampleMeta
    image: bytes
    mask: bytes
    image_format: ImageFormat

    def decode(self) -> Sample:
        """The sample as arrays.

        Raises:
            SiamdiffError: the bytes are not an image and a mask of the size that `meta` names.
        """
        image, mask = decode_image(self.image), decode_mask(self.mask)
        size = (self.meta.height, self.meta.width)
        if image.shape[:2] != size or mask.shape != size:
            raise SiamdiffError(
                f"sample {self.meta.key} is damaged: image {image.shape[:2]}, mask {mask.shape}, should be {size}"
            )
        return Sample(self.meta, image, mask)


def content_key(*parts: bytes) -> str:
    """16 hex digits of the SHA-256 over `parts`; parts are told apart, so ("ab", "c") is not ("a", "bc")."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()[:KEY_DIGITS]


def pixel_key(image: np.ndarray, mask: np.ndarray) -> str:
    """The key of a pair: of its pixels alone, not of file names, formats or metadata."""
    return content_key(repr(image.shape).encode(), image.tobytes(), repr(mask.shape).encode(), mask.tobytes())


def encode_image(array: np.ndarray, image_format: ImageFormat) -> bytes:
    """uint8 (H, W, 3) RGB as PNG, or as JPEG of quality 95 without chroma subsampling. No metadata."""
    buffer = io.BytesIO()
    image = Image.fromarray(array)
    if image_format == "jpg":
        image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    else:
        image.save(
            buffer, "PNG", compress_level=1
        )  # higher levels cost up to six times the time for 10-20% less
    return buffer.getvalue()


def encode_mask(array: np.ndarray) -> bytes:
    """uint8 (H, W) in {0, 255} as 8-bit grey PNG."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def decode_image(data: bytes) -> np.ndarray:
    """uint8 (H, W, 3) from a shard's image.

    Raises:
        SiamdiffError: not a PNG or JPEG in RGB, or a side over MAX_SIDE.
    """
    return _decode(data, ("PNG", "JPEG"), "RGB")


def decode_mask(data: bytes) -> np.ndarray:
    """uint8 (H, W) in {0, 255} from a shard's mask.

    Raises:
        SiamdiffError: not an 8-bit grey PNG, a side over MAX_SIDE, or with values between 0 and 255.
    """
    mask = _decode(data, ("PNG",), "L")
    if not ((mask == 0) | (mask == 255)).all():
        raise SiamdiffError("a mask is damaged: it holds values other than 0 and 255")
    return mask


def has_too_many_scans(data: bytes, kind: str | None) -> bool:
    """Whether a JPEG (`kind` as Pillow names it) was made to be decoded for hours."""
    return kind in ("JPEG", "MPO") and data.count(b"\xff\xda") > MAX_SCANS


def _decode(data: bytes, formats: tuple[str, ...], mode: str) -> np.ndarray:
    kind = "image" if mode == "RGB" else "mask"
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            if max(image.size) > MAX_SIDE:
                raise SiamdiffError(
                    f"{kind} of {image.width} x {image.height}: over {MAX_SIDE} x {MAX_SIDE} pixels"
                )
            if has_too_many_scans(data, image.format):
                raise SiamdiffError(f"{kind} is a JPEG of over {MAX_SCANS} scans")
            if image.mode != mode:
                raise SiamdiffError(f"{kind} in mode {image.mode}: must be {mode}")
            return np.array(image)
    except DECODE_ERRORS as error:
        raise SiamdiffError(
            f"{kind} is damaged: {' or '.join(formats)} cannot be decoded ({error})"
        ) from error


def make_sample(
    image: np.ndarray,
    mask: np.ndarray,
    *,
    prompt: str,
    split: str,
    group: str | None,
    source_size: tuple[int, int],
    image_format: ImageFormat,
    key: str | None = None,
    subset: str | None = None,
    crop: Box | None = None,
    padding: Box = (0, 0, 0, 0),
    synthetic: Synthetic | Foreign | None = None,
) -> EncodedSample:
    """Encodes a pair as a shard holds it.

    Args:
        image: uint8 (H, W, 3) RGB.
        mask: uint8 (H, W) in {0, 255}.
        prompt: text that describes the image.
        split: train, val or test.
        group: patient or video; None for a sample that is a group of its own.
        source_size: (width, height) of the pair it was made from.
        image_format: png or jpg.
        key: neutral name; None takes that of the pixels.
        subset: which of the source's named sets it belongs to.
        crop: left, top, right, bottom of the part of the source that it shows, pixels; None: all of it.
        padding: black added left, top, right and bottom of that before resizing, in pixels of the source.
        synthetic: origin of a synthetic sample.

    Raises:
        ValueError: arrays of other shapes, types or values.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image is {image.dtype} {image.shape}: must be uint8 (H, W, 3)")
    if mask.dtype != np.uint8 or mask.shape != image.shape[:2] or not ((mask == 0) | (mask == 255)).all():
        raise ValueError(f"mask is {mask.dtype} {mask.shape}: must be uint8 {image.shape[:2]} of 0 and 255")
    key = key or pixel_key(image, mask)
    image_bytes, mask_bytes = encode_image(image, image_format), encode_mask(mask)
    meta = SampleMeta(
        key=key,
        prompt=prompt,
        split=split,
        group=group or key,
        width=image.shape[1],
        height=image.shape[0],
        source_width=source_size[0],
        source_height=source_size[1],
        image_sha256=hashlib.sha256(image_bytes).hexdigest(),
        mask_sha256=hashlib.sha256(mask_bytes).hexdigest(),
        subset=subset,
        crop=crop,
        padding=padding,
        synthetic=synthetic,
    )
    return EncodedSample(meta, image_bytes, mask_bytes, image_format)
