"""What an evaluation says of copies of training images: how many, by which limits, and the nearest pairs."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from infra.measure import Measured
from infra.pairs import REFERENCE_SPLIT
from siamdiff.data.shardset import ShardSet
from siamdiff.evaluation.copies import Nearest

SHOWN = 12  # nearest pairs that metrics.json names


def copies_of(
    real: ShardSet, of: ShardSet, name: str, measured: Measured, quantile: float
) -> dict[str, Any] | None:
    """Share of copies, limits and the nearest pairs of the set `name`; None without what they are found by."""
    found = measured.copies.get(name)
    if found is None:
        return None
    (limits,) = measured.limits
    rows = list(_rows(real, of, found))
    order = np.argsort(found.closeness, kind="stable")[:SHOWN]
    return {
        "rate": float(found.is_copy.mean()),
        "count": int(found.is_copy.sum()),
        "quantile": quantile,
        "limits": limits.as_dict(),
        "nearest": [rows[i] for i in order],
    }


def copy_lines(real: ShardSet, of: ShardSet, name: str, measured: Measured) -> Iterator[dict[str, Any]]:
    """One row per image of the set: the training image that it is nearest to, and whether it is a copy."""
    found = measured.copies.get(name)
    if found is not None:
        yield from ({"set": name} | row for row in _rows(real, of, found))


def _rows(real: ShardSet, of: ShardSet, found: Nearest) -> Iterator[dict[str, Any]]:
    training = real.keys(REFERENCE_SPLIT)
    for i, key in enumerate(of.keys()):
        yield {
            "key": key,
            "training": training[found.row[i]],
            "features": float(found.features[i]),
            "pixels": float(found.pixels[i]),
            "copy": bool(found.is_copy[i]),
        }
