"""What an evaluation says of copies of training images: how many, by which limits, and the nearest pairs."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from infra.measure import Measured
from infra.pairs import REFERENCE_SPLIT
from siamdiff.data.shardset import ShardSet
from siamdiff.evaluation.copies import Nearest
from siamdiff.evaluation.sheets import Pair, contact_sheet

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


def nearest_sheet(real: ShardSet, of: ShardSet, copies: dict[str, Any], title: str) -> bytes:
    """A PNG with the nearest pairs: the training image, the synthetic one, both distances."""
    limits, side = copies["limits"], real.manifest.resolution
    notes = [
        f"{len(copies['nearest'])} of {len(of)} images, those nearest to a training image; {side} x {side} pixels; "
        f"real set {real.digest[:12]}, synthetic set {of.digest[:12]}",
        f"Copies, {copies['count']} of {len(of)}, are within {limits['features']:.3g} in features or "
        f"{limits['pixels']:.3g} in pixels (1 - cosine): {limits['basis']}.",
    ]
    return contact_sheet(
        [_pair(real, of, row) for row in copies["nearest"]], title, notes, real="nearest real"
    )


def _pair(real: ShardSet, of: ShardSet, row: dict[str, Any]) -> Pair:
    training = real.read(row["training"]).image
    what = "copy" if row["copy"] else "no copy"
    return Pair(
        key=row["key"],
        image=of.read(row["key"]).image,
        mask=None,
        parent=row["training"],
        real_image=training,
        real_mask=np.zeros(training.shape[:2], np.uint8),  # no outline
        caption=(
            f"{row['key']}  \N{MIDDLE DOT}  {what}",
            f"{row['training']}; least: features {row['features']:.3f}, pixels {row['pixels']:.3f}",
        ),
    )


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
