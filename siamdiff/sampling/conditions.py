"""What the samples of a planned shard are made from: masks of the mask set, transformed where asked for; their images.

Needs no model and imports no PyTorch, so that the processes that read start fast and stay small.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from siamdiff.data.fitting import visible_field
from siamdiff.data.sample import EncodedSample, decode_image, decode_mask
from siamdiff.data.shardset import ShardSet
from siamdiff.data.transforms import Pool, transform_mask
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
    draw: int = 0  # which draw from the seed


def read_conditions(masks: ShardSet, plan: Plan, shard: ShardPlan) -> list[Condition]:
    """The masks of a planned shard in order, transformed where the fold asks for it, with images where these enter.

    A mask of a random fold differs from those of all earlier folds with the same parent, wherever its ranges permit:
    these are drawn again to know them, so that it depends on no order of work.
    """
    conditions = []
    chosen = _chosen(masks, plan)
    for key in shard.mask_keys:
        parent = masks.read_encoded(key)
        mask, transform = decode_mask(parent.mask), {}
        if shard.mask_kind == "random":
            mask, transform = _drawn(masks, plan, parent, shard.fold, chosen)
        conditions.append(
            Condition(
                parent=key,
                fold=shard.fold,
                prompt=parent.meta.prompt,
                split=parent.meta.split,  # a test mask stays one, so that a leak can be seen
                group=parent.meta.group,
                seed=sample_seed(plan.settings.seed, shard.fold, key),
                transform=transform,
                mask=mask,
                real=parent if plan.settings.takes_images else None,
            )
        )
    return conditions


def _chosen(masks: ShardSet, plan: Plan) -> list[str]:
    """Keys of the masks whose lesions may enter another one; [] where none do."""
    return plan.choose(masks.keys(plan.settings.split)) if plan.settings.transforms.combine else []


def _drawn(
    masks: ShardSet, plan: Plan, parent: EncodedSample, fold: int, chosen: list[str]
) -> tuple[np.ndarray, dict[str, Any]]:
    """The mask of a random fold, uint8 (H, W) in {0, 255}, and the parameters of its transform."""
    settings, key, mask = plan.settings, parent.meta.key, decode_mask(parent.mask)
    field = None
    if settings.transforms.field == "estimate":
        field = visible_field(decode_image(parent.image), mask)
    others = [other for other in chosen if other != key]
    pool = Pool(others, lambda other: decode_mask(masks.read_encoded(other).mask))
    taken = [mask] if "real" in settings.fold_masks else []
    transform = {}
    for earlier in range(fold + 1):
        if settings.fold_masks[earlier % len(settings.fold_masks)] == "random":
            seed = child_seed(sample_seed(settings.seed, earlier, key), "transform")
            generator = np.random.Generator(np.random.PCG64(seed))
            drawn, transform = transform_mask(
                mask, settings.transforms, generator, pool=pool, field=field, taken=taken
            )
            taken.append(drawn)
    return taken[-1], transform
