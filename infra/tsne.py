"""The t-SNE of an evaluation: which images are in it, by which features, and what is written of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from infra.measure import Measured
from infra.named_sets import NamedSet
from infra.pairs import REFERENCE_SPLIT
from siamdiff.config import Config
from siamdiff.data.shardset import ShardSet
from siamdiff.evaluation.extractors import EFFICIENTNET_EXTRACTOR, Extractor
from siamdiff.evaluation.tsne import DEFINITION, MIN_IMAGES, perplexity_of, tsne
from siamdiff.sections.evaluate import REAL

_DIGITS = 3  # of coordinates, which reach to about 100


@dataclass(frozen=True)
class Plane:
    """Images of all sets as points of one plane."""

    about: dict[str, Any] | None = None  # for metrics.json; None: there is no plane
    points: list[dict[str, Any]] = field(default_factory=list)  # set, key, x, y
    warnings: list[str] = field(default_factory=list)


def plane_of(
    config: Config,
    real: ShardSet,
    sets: Sequence[NamedSet],
    extractors: Sequence[Extractor],
    measured: Measured,
) -> Plane:
    """The t-SNE of the reference and all synthetic sets, of at most `evaluate.tsne` images of each.

    Raises:
        SiamdiffError: features that are not finite.
    """
    settings = config.evaluate
    if not settings.tsne:
        return Plane()
    with_features = sorted(
        (extractor for extractor in extractors if not extractor.is_paired),
        key=lambda extractor: extractor.kind != EFFICIENTNET_EXTRACTOR.kind,
    )
    if not with_features:
        return Plane(warnings=["no t-SNE: LPIPS alone gives no features; name another extractor too"])
    kind = with_features[0].kind
    found = {REAL: (real.keys(REFERENCE_SPLIT), measured.real[kind])}
    found |= {named.name: (named.shards.keys(), measured.synthetic[named.name][kind]) for named in sets}
    names, features = [], []
    for name, (keys, rows) in found.items():
        # each set by its own draw: another set beside it changes none
        drawn = np.random.default_rng([settings.seed, 0x7E]).permutation(len(keys))[: settings.tsne]
        names += [(name, keys[i]) for i in np.sort(drawn)]
        features.append(rows[np.sort(drawn)])
    points = tsne(np.concatenate(features), settings.seed)
    if points is None:
        return Plane(
            warnings=[
                f"no t-SNE: fewer than {MIN_IMAGES} different images of all sets together, by {kind} and evaluate.tsne "
                f"{settings.tsne}"
            ]
        )
    about = {
        "extractor": kind,
        "perplexity": perplexity_of(len(points)),
        "seed": settings.seed,
        "counts": {name: sum(of == name for of, _ in names) for name in found},
        "definition": DEFINITION,
    }
    lines = [
        {"set": name, "key": key, "x": round(float(x), _DIGITS), "y": round(float(y), _DIGITS)}
        for (name, key), (x, y) in zip(names, points, strict=True)
    ]
    return Plane(about, lines)
