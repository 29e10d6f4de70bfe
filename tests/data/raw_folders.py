"""Small raw sources for the tests of ingest."""

from pathlib import Path

import numpy as np
from PIL import Image


def image(seed: int, width: int = 40, height: int = 32) -> Image.Image:
    """A smooth picture in RGB; another for every seed, in the sense of a perceptual hash too."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def mask(width: int = 40, height: int = 32) -> Image.Image:
    """A rectangle of lesion, mode L of 0 and 255."""
    values = np.zeros((height, width), np.uint8)
    values[height // 4 : height // 2, width // 4 : width // 2] = 255
    return Image.fromarray(values)


def make_folder(folder: Path, names: list[str], first_seed: int = 0) -> Path:
    """A folder of images/NAME.png and masks/NAME.png."""
    for seed, name in enumerate(names, first_seed):
        for kind, picture in (("images", image(seed)), ("masks", mask())):
            path = folder / kind / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
    return folder
