"""How well copies of training images are told from new real images, on a folder of photographs.

    python benchmarks/copies.py --images FOLDER
    python benchmarks/copies.py --images FOLDER --quantile 0.02 --resolution 128

The images are divided into folds at random; each is held against the other folds, from which the limits come, and
"new" are those that are taken for copies: the rate of false alarms. Then --given of the last reference are given back,
disturbed in one way after the other, and those that are found are counted: by either space alone and by both together,
as generation and evaluation look for them, and by the privacy report, which turns, mirrors and crops as well.
Every image is a group of its own.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter

from benchmarks.common import parser, show
from siamdiff.evaluation.copies import Limits, Training, calibrate, nearest
from siamdiff.privacy import spaces

FOLDS = 9
SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".bmp"}

Images = np.ndarray  # uint8 (N, S, S, 3)


def read(folder: Path, side: int) -> Images:
    """All images of a folder, square, averaged down to `side` pixels."""
    images = []
    for file in sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES):
        with Image.open(file) as image:
            images.append(np.array(image.convert("RGB").resize((side, side), Image.Resampling.BOX)))
    return np.stack(images)


def _each(change: Callable[[Image.Image], Image.Image]) -> Callable[[Images], Images]:
    return lambda images: np.stack([np.array(change(Image.fromarray(image))) for image in images])


def _jpeg(quality: int) -> Callable[[Images], Images]:
    def compressed(image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer)

    return _each(compressed)


def _noise(deviation: float) -> Callable[[Images], Images]:
    def noisy(images: Images) -> Images:
        noise = np.random.default_rng(0).normal(0, deviation, images.shape)
        return (images + noise).round().clip(0, 255).astype(np.uint8)

    return noisy


def _cropped(share: float, corner: bool = False) -> Callable[[Image.Image], Image.Image]:
    """Cut to a share of the side, in the middle or at the upper left corner, and enlarged again."""

    def cropped(image: Image.Image) -> Image.Image:
        side = image.width
        first = 0 if corner else round((1 - share) / 2 * side)
        last = round(share * side) if corner else side - first
        box = (first, first, last, last)
        return image.crop(box).resize((side, side), Image.Resampling.BICUBIC)

    return cropped


def _turned(images: Images) -> Images:
    return np.ascontiguousarray(np.rot90(images, 1, (1, 2)))


def _upside_down(images: Images) -> Images:
    return np.ascontiguousarray(images[:, ::-1])


DISTURBANCES: dict[str, Callable[[Images], Images]] = {
    "as they are": lambda images: images,
    "20 levels brighter": lambda images: np.minimum(images.astype(int) + 20, 255).astype(np.uint8),
    "0.7 times as bright": lambda images: (images * 0.7).astype(np.uint8),
    "noise, deviation 8": _noise(8),
    "noise, deviation 16": _noise(16),
    "blurred by a pixel": _each(lambda image: image.filter(ImageFilter.GaussianBlur(1))),
    "JPEG 75": _jpeg(75),
    "JPEG 30": _jpeg(30),
    "mirrored": lambda images: np.ascontiguousarray(images[:, :, ::-1]),
    "shifted by 2 pixels": lambda images: np.roll(images, 2, axis=2),
    "cropped to 90 %": _each(_cropped(0.9)),
    "cropped to 87 %": _each(_cropped(0.87)),
    "cropped to 80 %": _each(_cropped(0.8)),
    "the corner, 90 %": _each(_cropped(0.9, corner=True)),
    "upside down": _upside_down,
    "turned by 90 degrees": _turned,
    "turned, and JPEG 30": lambda images: _jpeg(30)(_turned(images)),
    "turned, and noise, 8": lambda images: _noise(8)(_turned(images)),
    "turned, cropped to 90 %": lambda images: _each(_cropped(0.9))(_turned(images)),
}


class _Detectors:
    """Both ways of looking for copies of the same images."""

    def __init__(self, views: spaces.Views, quantile: float) -> None:
        groups = [str(number) for number in range(len(views))]
        self.reference = Training(views.features, views.pixels[0])
        self.limits = calibrate(self.reference, groups, quantile)
        self.real = spaces.Compared(views)
        self.wide = spaces.calibrate(spaces.of_other_groups(self.real, groups), groups, quantile)

    def found(self, views: spaces.Views) -> dict[str, int]:
        """How many images are copies, by the name of what found them."""
        of = nearest(Training(views.features, views.pixels[0]), self.reference, self.limits)
        by = {"features": of.features <= self.limits.features, "pixels": of.pixels <= self.limits.pixels}
        by["either"] = of.is_copy
        by["report"] = self.real.distances(views).closeness(self.wide).min(1) <= 1
        return {name: int(which.sum()) for name, which in by.items()}


def measure(images: Images, quantile: float, given: int) -> dict[str, Any]:
    """{"new": counts, "limits" and "report_limits": of the last reference, "given": {disturbance: counts}}."""
    embed = spaces.Embedder()
    whole = embed(images)
    fold_of = np.random.default_rng(0).permutation(len(images)) % FOLDS
    new = {"features": 0, "pixels": 0, "either": 0, "report": 0}
    for fold in range(FOLDS):
        others = np.flatnonzero(fold_of != fold)
        detectors = _Detectors(whole[others], quantile)
        for name, count in detectors.found(whole[np.flatnonzero(fold_of == fold)]).items():
            new[name] += count
    chosen = images[others[:given]]
    found = {name: detectors.found(embed(disturb(chosen))) for name, disturb in DISTURBANCES.items()}
    return {
        "images": len(images),
        "new": new,
        "limits": detectors.limits,
        "report_limits": detectors.wide,
        "given": found,
    }


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--images", type=Path, required=True, help="folder of photographs")
    options.add_argument("--resolution", type=int, default=64, help="side of the images, pixels [64]")
    options.add_argument("--quantile", type=float, default=0.01, help="generate.gates.copy_quantile [0.01]")
    options.add_argument("--given", type=int, default=100, help="images that are given back [100]")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    figures = measure(read(chosen.images, chosen.resolution), chosen.quantile, chosen.given)
    limits: Limits = figures["limits"]
    wide: Limits = figures["report_limits"]
    rows = {f"new, of {figures['images']}": figures["new"]} | figures["given"]
    lines = [
        f"limits: {limits.features:.4f} in features, {limits.pixels:.4f} in pixels: {limits.basis}",
        f"of the privacy report: {wide.features:.4f} and {wide.pixels:.4f}",
        f"{'':24}{'features':>9}{'pixels':>9}{'either':>9}{'report':>9}",
        *(f"{name:24}" + "".join(f"{count:9}" for count in counts.values()) for name, counts in rows.items()),
    ]
    show(figures, lines, chosen.json)


if __name__ == "__main__":
    main()
