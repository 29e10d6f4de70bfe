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
from siamdiff.sampling.plan import Plan, ShardPlan

# What may go wrong with one shard and leave the process fit for others. RuntimeError is none of it: PyTorch raises it
# for faults after which a GPU's context is dead.
SHARD_FAILURES = (SiamdiffError, OSError, ValueError)

_open_masks = lru_cache(maxsize=1)(ShardSet.open)


def read_masks(row: dict[str, Any], masks_uri: str, plan: Plan) -> dict[str, Any]:
    """Masks of one shard, read and transformed: {name, conditions (pickled), error}."""
    shard = ShardPlan(row["name"], int(row["fold"]), row["kind"], tuple(map(str, row["keys"])))
    try:
        conditions = read_conditions(_open_masks(masks_uri, plan.masks), plan, shard)
    except SHARD_FAILURES as error:
        return {"name": shard.name, "conditions": b"", "error": one_line(error)}
    return {"name": shard.name, "conditions": pickle.dumps(conditions), "error": ""}


def one_line(error: BaseException) -> str:
    """The message of an error without line breaks, or its type where it has none."""
    return " ".join(f"{error}".split()) or type(error).__name__
