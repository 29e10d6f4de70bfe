"""What the samples of a planned shard are made from: masks of the mask set, transformed where asked for; their images.

Needs no model and imports no PyTorch, so that the processes that read start fast and stay small.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from siamdiff.data.sample import EncodedSample, decode_mask
from siamdiff.data.shardset import ShardSet
from siamdiff.data.transforms import transform_mask
from siamdiff.sampling.plan import Plan, ShardPlan, child_seed, sample_seed


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What one synthetic sample is made from."""

    parent: str  # key of the sample whose mask is used
    fold: int
    prompt: str
    split: str
    group: str
    seed: int
    transform: dict[str, Any]
    mask: np.ndarray  # uint8 (H, W) in {0, 255}, transformed
    real: EncodedSample | None = None  # the parent itself, where its image enters too


def read_conditions(masks: ShardSet, plan: Plan, shard: ShardPlan) -> list[Condition]:
    """The masks of a planned shard in order, transformed where the fold asks for it, with images where these enter."""
    conditions = []
    for key in shard.mask_keys:
        parent = masks.read_encoded(key)
        mask, transform = decode_mask(parent.mask), {}
        seed = sample_seed(plan.settings.seed, shard.fold, key)
        if shard.mask_kind == "random":
            generator = np.random.Generator(np.random.PCG64(child_seed(seed, "transform")))
            mask, transform = transform_mask(mask, plan.settings.transforms, generator)
        conditions.append(
            Condition(
                parent=key,
                fold=shard.fold,
                prompt=parent.meta.prompt,
                split=parent.meta.split,  # a test mask stays one, so that a leak can be seen
                group=parent.meta.group,
                seed=seed,
                transform=transform,
                mask=mask,
                real=parent if plan.settings.takes_images else None,
            )
        )
    return conditions
