"""Images that look the same, by perceptual hash: copies that were compressed, resized or brightened anew."""

from collections.abc import Iterator, Sequence

import imagehash
import numpy as np
from PIL import Image

HASH_SIDE = 16  # 256 bits; with the usual 64, endoscopy images with their common dark border collide
# On Kvasir-SEG, copies in JPEG quality 50, at a quarter of the size or 20% brighter differ in at most 18 bits and its
# three known near-copies in 2 to 18, while the next nearest two images differ in 42.
MAX_DISTANCE = 32
_CHUNK = 1024


def perceptual_hash(image: np.ndarray) -> str:
    """pHash (signs of the lowest 16 x 16 DCT coefficients) of an image, uint8 (H, W, 3), as 64 hex digits."""
    return str(imagehash.phash(Image.fromarray(image), hash_size=HASH_SIDE))


def near_pairs(hashes: Sequence[str], parts: Sequence[str]) -> Iterator[tuple[int, int, int]]:
    """Positions i < j and distance of images of different `parts` whose hashes differ in at most MAX_DISTANCE bits."""
    words = np.array([np.frombuffer(bytes.fromhex(code), np.uint64) for code in hashes])  # (n, 4)
    _, labels = np.unique(np.array(parts), return_inverse=True)
    for start in range(0, len(words), _CHUNK):
        rows = slice(start, start + _CHUNK)
        for other in range(start, len(words), _CHUNK):
            columns = slice(other, other + _CHUNK)
            differing = np.bitwise_count(words[rows, None] ^ words[None, columns])  # (chunk, chunk, 4)
            distance = differing.sum(2, dtype=np.int16)  # (chunk, chunk)
            near = (distance <= MAX_DISTANCE) & (labels[rows, None] != labels[None, columns])
            for i, j in np.argwhere(near):
                if start + i < other + j:
                    yield int(start + i), int(other + j), int(distance[i, j])
