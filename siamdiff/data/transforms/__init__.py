"""Seeded mask transforms: what the "Random" masks of the paper's Fig. 7 are made with, and more.

`transform_mask` draws a transform within ranges and limits and applies it; what was drawn is returned as plain JSON
parameters, with which `apply` makes the very same mask again from its parent, or parents, alone.

Masks are uint8 (H, W) in {0, 255}; coordinates are pixels, x to the right, y down, a pixel's centre at its index.
"""

from siamdiff.data.transforms.drawing import MAX_DRAWS, MIN_KEPT, Pool, transform_mask
from siamdiff.data.transforms.lesions import apply, field_area, second_parent

__all__ = ["MAX_DRAWS", "MIN_KEPT", "Pool", "apply", "field_area", "second_parent", "transform_mask"]
