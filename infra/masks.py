"""The readers of bulk generation: short tasks that read and transform the masks of one shard for a sampler.

Like the samplers, they take and give one row for one output shard, and tell in it what went wrong, so that a shard's
fault costs no other shard. They import no PyTorch: there are many of them, and they start often.
"""

import pickle
from functools import lru_cache
from typing import Any

from siamdiff.data.shardset import ShardSet
from siamdiff.errors import SiamdiffError
from siamdiff.sampling.conditions import read_conditions
from siamdiff.sampling.plan import Plan

# What may go wrong with one shard and leave the process fit for others. RuntimeError is none of it: PyTorch raises it
# for faults after which a GPU's context is dead.
SHARD_FAILURES = (SiamdiffError, OSError, ValueError)


def read_masks(row: dict[str, Any], masks_uri: str, plan: Plan) -> dict[str, Any]:
    """Masks of the shard {number, name}, read and transformed: {name, conditions (pickled), error}."""
    conditions, error = b"", ""
    try:
        masks, keys = _mask_set(masks_uri, plan.model_dump_json())
        conditions = pickle.dumps(read_conditions(masks, plan, plan.shard(keys, int(row["number"]))))
    except SHARD_FAILURES as failure:
        error = one_line(failure)
    return {"name": row["name"], "conditions": conditions, "error": error}


@lru_cache(maxsize=1)
def _mask_set(uri: str, plan_json: str) -> tuple[ShardSet, list[str]]:
    """The masks, and the keys of those that every fold has."""
    plan = Plan.model_validate_json(plan_json)
    masks = ShardSet.open(uri, plan.masks)
    return masks, plan.choose(masks.keys(plan.settings.split))


def one_line(error: BaseException) -> str:
    """The message of an error without line breaks, or its type where it has none."""
    return " ".join(f"{error}".split()) or type(error).__name__
