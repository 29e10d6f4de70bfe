"""What people's files hold: every mode decoded, every fault named, every coding of a mask found out."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamdiff.data.checking import (
    Fault,
    binarize,
    check_pair,
    decode_raw,
    resize_image,
    resize_mask,
    select_labels,
    to_rgb,
)
from siamdiff.data.layouts.pairs import Labels
from siamdiff.data.sample import pixel_key
from tests.data.raw_folders import image, mask


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def coding_of(picture: Image.Image, kind: str = "PNG") -> tuple[np.ndarray, str]:
    return binarize(decode_raw(encoded(picture, kind), "mask"))


LESION = np.array(mask()) > 0


WRITABLE = {
    "PNG": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
    "TIFF": ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I"],
    "JPEG": ["1", "L", "RGB", "CMYK"],
    "BMP": ["1", "L", "P", "RGB", "RGBA"],
}


@pytest.mark.parametrize(
    ("kind", "mode"), [(kind, mode) for kind, modes in WRITABLE.items() for mode in modes]
)
def test_every_mode_becomes_rgb(kind: str, mode: str) -> None:
    wanted = image(1).convert("L") if mode not in ("P", "RGB", "RGBA", "CMYK") else image(1)
    if mode in ("I;16", "I"):
        picture = Image.fromarray(np.array(wanted).astype(np.uint16) * 257)
        picture = picture.convert("I") if mode == "I" else picture
    else:
        picture = wanted.convert(mode)
    rgb = to_rgb(decode_raw(encoded(picture, kind), "image"))
    assert rgb.shape == (32, 40, 3) and rgb.dtype == np.uint8
    if mode not in ("1", "P") and kind != "JPEG":
        assert np.abs(rgb.astype(int) - np.array(wanted.convert("RGB"))).max() <= 1


def test_transparent_pixels_lie_over_black() -> None:
    picture = image(1).convert("RGBA")
    picture.putalpha(mask())
    rgb = to_rgb(decode_raw(encoded(picture), "image"))
    assert not rgb[~LESION].any() and np.array_equal(rgb[LESION], np.array(image(1))[LESION])


def test_orientation_is_applied_and_metadata_dropped() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "patient: Jane Doe"  # turned by 90 degrees
    raw = check_pair(
        encoded(image(1), exif=exif.tobytes()), encoded(mask().transpose(Image.Transpose.ROTATE_270))
    )
    assert raw.image.shape == (40, 32, 3)
    assert np.array_equal(raw.image, np.rot90(np.array(image(1)), -1))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "image is empty"),
        (b"not an image", "image cannot be read"),
        (encoded(image(1))[:300], "image cannot be read"),
        (encoded(image(1), "JPEG")[:400], "image cannot be read"),
        (encoded(image(1), "GIF"), "image cannot be read"),
        (encoded(image(1), "TIFF", save_all=True, append_images=[image(2)]), "image has several pages"),
        (encoded(image(1), "PNG", save_all=True, append_images=[image(2)]), "image has several pages"),
        (encoded(Image.new("1", (8193, 8192))), "image is too large"),
        (encoded(Image.new("1", (20000, 20000))), "image cannot be read"),
        (encoded(Image.new("F", (8, 8)), "TIFF"), "image is of an unknown kind"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_unreadable_images_are_faults(data: bytes, reason: str) -> None:
    with pytest.raises(Fault) as fault:
        to_rgb(decode_raw(data, "image"))
    assert fault.value.reason == reason


def test_damage_anywhere_is_a_fault_or_another_image() -> None:
    rng = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "TIFF", "BMP"):
        whole = encoded(image(1).convert("P") if kind == "PNG" else image(1), kind)
        for _ in range(60):
            data = bytearray(whole)
            for position in rng.integers(0, len(data), 4):
                data[position] = rng.integers(256)
            try:
                to_rgb(decode_raw(bytes(data[: rng.integers(1, len(data) + 1)]), "image"))
            except Fault as fault:
                assert fault.reason.startswith("image")


def test_sizes_must_be_equal() -> None:
    with pytest.raises(Fault, match="differ in size"):
        check_pair(encoded(image(1)), encoded(mask(32, 40)))


def labels(*values: int) -> Image.Image:
    """A map of the background 0 and then `values`, in stripes."""
    stripes = np.zeros((32, 40), np.uint8)
    for i, value in enumerate(values, 1):
        stripes[4 * i : 4 * i + 4] = value
    return Image.fromarray(stripes)


def palette(colours: list[int]) -> Image.Image:
    picture = labels(*range(1, len(colours) // 3))
    picture = Image.frombytes("P", picture.size, picture.tobytes())
    picture.putpalette(colours)
    return picture


def alpha_mask() -> Image.Image:
    picture = Image.new("RGBA", (40, 32), (9, 9, 9, 0))
    picture.putalpha(mask())
    return picture


@pytest.mark.parametrize(
    ("picture", "coding"),
    [
        (labels(255), "0/255"),
        (labels(1), "0/1"),
        (labels(1, 2, 3), "label map"),
        (labels(20, 40, 63), "label map"),
        (labels(255).convert("1"), "1 bit"),
        (labels(255).convert("RGB"), "RGB, 0/255"),
        (labels(255).convert("RGBA"), "RGB, 0/255"),
        (palette([0, 0, 0, 255, 255, 255]), "palette, 0/255"),
        (palette([0, 0, 0, 128, 0, 0, 0, 128, 0]), "palette, colour label map"),
        (Image.fromarray(np.array(labels(255)).astype(np.uint16) * 257), "16 bit, 0/255"),
        (Image.fromarray(np.array(labels(3)).astype(np.uint16)), "16 bit, label map"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_codings_are_found_out(picture: Image.Image, coding: str) -> None:
    binary, found = coding_of(picture)
    assert found == coding
    expected = (
        np.array(picture.convert("RGB")).any(2) if not coding.startswith("16") else np.array(picture) > 0
    )
    assert np.array_equal(binary, np.where(expected, 255, 0))


def test_a_mask_in_the_alpha_channel() -> None:
    binary, coding = coding_of(alpha_mask())
    assert coding == "alpha, 0/255"
    assert np.array_equal(binary > 0, LESION)


def test_soft_edges_are_cut_at_the_middle() -> None:
    big = mask(400, 320)
    binary, coding = coding_of(big, "JPEG")
    assert coding in ("0/255", "soft 0..255") and np.array_equal(binary, np.array(big))


@pytest.mark.parametrize(
    ("picture", "kind", "reason"),
    [
        (labels(128), "PNG", "mask is grey"),
        (labels(128, 255), "PNG", "mask is grey"),
        (image(3).convert("L"), "PNG", "mask is grey"),
        (labels(1, 255), "PNG", "mask mixes labels and 255"),
        (labels(1, 2), "JPEG", "mask holds labels in a JPEG"),
        (image(3), "PNG", "mask is in colour"),
        (image(3).convert("CMYK"), "TIFF", "mask is of an unknown kind"),
    ],
)
def test_unclear_masks_are_faults(picture: Image.Image, kind: str, reason: str) -> None:
    with pytest.raises(Fault) as fault:
        coding_of(picture, kind)
    assert fault.value.reason == reason


@pytest.mark.parametrize(
    ("picture", "kind"),
    [
        (labels(1, 2), "PNG"),
        (labels(1, 2).convert("RGB"), "PNG"),
        (palette([0, 0, 0, 9, 99, 9, 200, 0, 0]), "PNG"),
        (Image.fromarray(np.array(labels(1, 2)).astype(np.uint16)), "TIFF"),
        (labels(255).convert("1"), "PNG"),
    ],
    ids=["8 bit", "RGB", "palette", "16 bit", "1 bit"],
)
def test_labels_are_numbers_however_they_are_saved(picture: Image.Image, kind: str) -> None:
    chosen = Labels(lesion=(1,), known=(0, 1, 2))
    binary, coding = select_labels(decode_raw(encoded(picture, kind), "mask"), chosen)
    assert coding == "labels" and binary.dtype == np.uint8
    assert np.array_equal(binary, np.where(np.array(labels(1)) > 0, 255, 0))


@pytest.mark.parametrize(
    ("picture", "kind", "reason"),
    [
        (labels(1, 7), "PNG", "mask holds unknown labels"),
        (labels(255), "PNG", "mask holds unknown labels"),
        (labels(1), "JPEG", "mask holds labels in a JPEG"),
        (image(3), "PNG", "mask is in colour"),
        (labels(1, 3), "PNG", "mask is partly ignored"),
    ],
)
def test_labels_that_are_not_those_described_are_faults(picture: Image.Image, kind: str, reason: str) -> None:
    with pytest.raises(Fault) as fault:
        select_labels(decode_raw(encoded(picture, kind), "mask"), Labels((1,), (0, 1, 3), ignored=3))
    assert fault.value.reason == reason


def test_planes_are_grey_and_of_one_size() -> None:
    red, green, blue = (encoded(plane) for plane in image(1).split())
    assert np.array_equal(check_pair(red, encoded(mask()), [green, blue]).image, np.array(image(1)))
    with pytest.raises(Fault, match="image of other channels"):
        check_pair(red, encoded(mask()), [green, encoded(image(1))])
    with pytest.raises(Fault, match="differ in size"):
        check_pair(red, encoded(mask()), [green, encoded(image(1, 20, 20).convert("L"))])


def test_one_percent_of_grey_is_the_limit() -> None:
    values = np.zeros((100, 100), np.uint8)
    values[:50] = 255
    values[0] = 128
    assert coding_of(Image.fromarray(values))[1] == "soft 0..255"
    values[1, 0] = 64
    with pytest.raises(Fault, match="mask is grey"):
        coding_of(Image.fromarray(values))


def test_resizing_keeps_masks_binary_and_images_smooth() -> None:
    assert set(np.unique(resize_mask(np.array(mask(401, 333)), 64))) == {0, 255}
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[::2] = 255
    assert np.ptp(resize_image(stripes, 64)[8:-8].astype(int)) < 40, "fine stripes become grey, not a moire"
    same = np.array(image(1, 64, 64))
    assert resize_image(same, 64) is same


def test_the_key_depends_on_the_pixels_alone() -> None:
    one = check_pair(encoded(image(1)), encoded(mask()))
    two = check_pair(encoded(image(1), "TIFF"), encoded(mask().convert("1"), "BMP"))
    assert pixel_key(one.image, one.mask) == pixel_key(two.image, two.mask)


def test_real_pairs_pass(shared: Path) -> None:
    for image_path in sorted(shared.glob("data/*/images/*"))[::50]:
        mask_path = image_path.parents[1] / "masks" / f"{image_path.stem}.png"
        assert check_pair(image_path.read_bytes(), mask_path.read_bytes()).coding == "0/255"
