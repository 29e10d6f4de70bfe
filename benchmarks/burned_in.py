"""How well text burned into images is suspected, and how often it is where there is none, on a folder of photographs.

    python benchmarks/burned_in.py --images FOLDER
    python benchmarks/burned_in.py --images FOLDER --resolution 256 --from-column 0.4

"as they are" counts the images that are suspected without more: false alarms, if the images bear no text. Then lines
of text are written into them, of a few sizes, in white, in yellow and in black on a white label, each at one of nine
places in turn, and those that are suspected are counted.
"""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.common import parser, show
from benchmarks.copies import Images, read
from siamdiff.privacy.text import text_suspicion

TEXTS = ("J. SMITH", "12/03/1961", "ID 4711-88")
SIZES = (8, 10, 12, 16, 24)  # of the letters, pixels
WHITE, YELLOW, BLACK = (255, 255, 255), (255, 230, 0), (0, 0, 0)
STYLES = {"white": (WHITE, False), "yellow": (YELLOW, False), "labelled": (BLACK, True)}


def written(image: np.ndarray, text: str, size: int, style: str, number: int) -> np.ndarray | None:
    """An image with a line of text at place number 0 to 8; None where there is no room for it."""
    drawn = Image.fromarray(image)
    draw, font = ImageDraw.Draw(drawn), ImageFont.load_default(size)
    left, top, right, bottom = draw.textbbox((0, 0), text, font)
    room = drawn.width - (right - left) - 4, drawn.height - (bottom - top) - 4
    if min(room) < 0:
        return None
    x, y = (2 + room[0] * (number % 3) / 2, 2 + room[1] * (number // 3 % 3) / 2)
    colour, has_label = STYLES[style]
    if has_label:
        draw.rectangle((x - 2, y - 2, x + right - left + 2, y + bottom - top + 2), fill=WHITE)
    draw.text((x - left, y - top), text, colour, font)
    return np.array(drawn)


def measure(images: Images, most: int) -> dict[str, Any]:
    """{"images": their number, "as they are": how many are suspected, "written": {size: {style: [found, of]}}}.

    Text is written into every so-manieth image, `most` of them at most.
    """
    some = images[:: -(-len(images) // most)]
    found: dict[int, dict[str, list[int]]] = {}
    for size in SIZES:
        found[size] = {}
        for style in STYLES:
            changed = [
                image
                for number, original in enumerate(some)
                if (image := written(original, TEXTS[number % len(TEXTS)], size, style, number)) is not None
            ]
            found[size][style] = [_suspected(changed), len(changed)]
    return {"images": len(images), "as they are": _suspected(images), "written": found}


def _suspected(images: Images | list[np.ndarray]) -> int:
    return sum(text_suspicion(image).is_suspected for image in images)


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--images", type=Path, required=True, help="folder of photographs")
    options.add_argument("--resolution", type=int, default=128, help="side of the images, pixels [128]")
    options.add_argument(
        "--from-column", type=float, default=0.0, help="share of the width that is cut off at the left [0]"
    )
    options.add_argument("--most", type=int, default=200, help="images that text is written into [200]")
    chosen = options.parse_args()
    images = read(chosen.images, chosen.resolution)
    cut = np.ascontiguousarray(images[:, :, round(chosen.from_column * chosen.resolution) :])
    figures = measure(cut, chosen.most)
    lines = [
        f"suspected as they are: {figures['as they are']} of {figures['images']}",
        f"{'letters, pixels':16}" + "".join(f"{style:>14}" for style in STYLES),
        *(
            f"{size:<16}" + "".join(f"{f'{count} of {of}':>14}" for count, of in styles.values())
            for size, styles in figures["written"].items()
        ),
    ]
    show(figures, lines, chosen.json)


if __name__ == "__main__":
    main()
