"""Figures: distances between two sets with everything needed to read them - floor, interval, counts, network.

A figure's name says the measure and the network. The field's own names - fid, kid, cmmd, clip_i - are given on the
standard networks alone, which are known by the hash of their weights (siamdiff.evaluation.extractors).
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from siamdiff.errors import SiamdiffError
from siamdiff.evaluation import neighbours
from siamdiff.evaluation.distances import (
    CMMD_SCALE,
    FRECHET,
    KID_SUBSETS,
    MMD,
    POLYNOMIAL,
    RBF,
    cmmd,
    frechet_distance,
    kid,
    linear_kernel,
    mmd_linear,
    polynomial_kernel,
    rbf_kernel,
    squared_mmd,
)
from siamdiff.evaluation.features import CLIP, INCEPTION, FeatureSpec
from siamdiff.evaluation.resampling import (
    Sets,
    draw_weights,
    frechet_resampled,
    mmd_resampled,
    percentiles,
    recentred,
)

CLIP_I = (
    "cosine of CLIP image embeddings, mean over synthetic images, each with the real image of its parent mask"
)
LPIPS = (
    "LPIPS v0.1, learnt weights, mean over synthetic images, each with the real image of its parent mask "
    "(Zhang et al. 2018)"
)
MIN_RESAMPLED = 10  # images of a set, below which resampling it says nothing
_STANDARD = {
    ("frechet", INCEPTION): "fid",
    ("mmd_polynomial", INCEPTION): "kid",
    ("cmmd", CLIP): "cmmd",
    ("clip_i", CLIP): "clip_i",
}
_BIAS = 0.1  # of a CMMD, from which it is warned of


@dataclass(frozen=True)
class Recipe:
    """How figures are made."""

    seed: int = 0  # of parts, subsets and resamples
    resamples: int = 200  # of the bootstrap; 0: no intervals
    kid_subset_size: int = 1000  # images of each set; fewer where a set has fewer


@dataclass(frozen=True)
class Figure:
    """One number with everything needed to read it."""

    name: str  # such as fid, frechet_efficientnet_lite0
    definition: str
    value: float
    reference: str  # the set compared against
    n_reference: int
    n_synthetic: int
    floor: float | None  # the same between two disjoint parts of the reference; None: too few samples
    floor_counts: tuple[int, int] | None  # samples in the two parts
    features: FeatureSpec
    interval: tuple[float, float] | None = (
        None  # of CONFIDENCE, see siamdiff.evaluation.resampling; None: too few samples
    )
    resamples: int = 0  # that the interval comes from
    deviation: float | None = None  # over the subsets of KID
    higher_is_better: bool = False
    settings: dict[str, int] = field(default_factory=dict)  # such as {"k": 3}

    def as_dict(self) -> dict[str, Any]:
        """The figure as plain values for JSON."""
        return asdict(self)


def compare(
    synthetic: np.ndarray, real: np.ndarray, spec: FeatureSpec, reference: str, recipe: Recipe
) -> tuple[list[Figure], list[str]]:
    """Every figure of two sets of features, and warnings about their meaning.

    The floor is the same figure of two disjoint random parts of the real features. The first part has as many
    samples as the synthetic set, at most half of the real ones, since the bias of the Frechet distance depends on
    the count. Linear MMD needs equal counts: random subsets of the larger set.

    Args:
        synthetic: (N, D), N >= 2.
        real: (M, D), M >= 2.
        spec: the extractor both came from. CMMD is reckoned of CLIP's embeddings alone.
        reference: name of the real set, such as "train".
        recipe: how.

    Raises:
        SiamdiffError: fewer than two samples, or features that are not finite.
    """
    if min(len(synthetic), len(real)) < 2:
        raise SiamdiffError(
            f"a distance needs at least 2 samples on each side; there are {len(synthetic)} synthetic and "
            f"{len(real)} real ({reference})"
        )
    rng = np.random.default_rng([recipe.seed, 0xF1])
    order = rng.permutation(len(real))
    part = min(len(synthetic), len(real) // 2)
    whole: Sets = (synthetic, real)
    floor: Sets | None = (real[order[:part]], real[order[part:]]) if part >= 2 else None
    make = _Maker(spec, reference, recipe)
    figures = [
        make.figure("frechet", FRECHET, whole, floor, frechet_distance, frechet_resampled),
        make.figure(
            "mmd_linear",
            MMD,
            _equal_counts(whole, rng),
            floor and _equal_counts(floor, rng),
            mmd_linear,
            mmd_resampled(linear_kernel),
        ),
        make.kid(whole, floor),
    ]
    if spec.is_clip:
        resampled = mmd_resampled(rbf_kernel, CMMD_SCALE, unbiased=False)
        figures.append(make.figure("cmmd", RBF, whole, floor, cmmd, resampled))
    figures += make.neighbours(whole, floor)
    return figures, _warnings(figures, whole, spec, recipe)


def paired(
    kind: str,
    definition: str,
    values: np.ndarray,
    parents: Sequence[str],
    floor: np.ndarray,
    spec: FeatureSpec,
    reference: str,
    recipe: Recipe,
) -> Figure:
    """The figure that is the mean of one value per pair of a synthetic image and its parent's real one.

    Args:
        kind: "clip_i" or "lpips", the name's beginning.
        definition: CLIP_I or LPIPS.
        values: (N,), N >= 1.
        parents: key of each synthetic image's parent; resamples take all images of a parent or none.
        floor: the same of pairs of different real images, (F,); empty: there is none.
        spec: the extractor.
        reference: name of the real set.
        recipe: how.

    Raises:
        SiamdiffError: values that are not finite.
    """
    if not np.isfinite(values).all() or not np.isfinite(floor).all():
        raise SiamdiffError(
            f"{kind} of {int((~np.isfinite(values)).sum())} of {len(values)} pairs is not finite; check those images"
        )
    _, labels = np.unique(np.array(parents), return_inverse=True)
    sums, counts = np.bincount(labels, values), np.bincount(labels)
    interval = None
    if recipe.resamples and len(counts) >= MIN_RESAMPLED:
        weights = draw_weights(len(counts), recipe.resamples, np.random.default_rng([recipe.seed, 0xB1]))
        interval = percentiles((weights @ sums) / (weights @ counts))
    return Figure(
        name=_name(kind, spec),
        definition=definition,
        value=float(values.mean()),
        reference=reference,
        n_reference=len(counts),
        n_synthetic=len(values),
        floor=float(floor.mean()) if len(floor) else None,
        floor_counts=(len(floor), len(floor)) if len(floor) else None,
        features=spec,
        interval=interval,
        resamples=recipe.resamples if interval else 0,
        higher_is_better=kind == "clip_i",
    )


class _Maker:
    """Figures of one extractor; each draws its resamples by itself, so that no figure changes another."""

    def __init__(self, spec: FeatureSpec, reference: str, recipe: Recipe) -> None:
        self.spec, self.reference, self.recipe = spec, reference, recipe

    def figure(
        self,
        kind: str,
        definition: str,
        whole: Sets,
        floor: Sets | None,
        distance: Callable[[np.ndarray, np.ndarray], float],
        resampled: Callable[[Sets, int, np.random.Generator], np.ndarray],
    ) -> Figure:
        """A distance, with the interval of its resamples."""
        value = distance(*whole)
        figure = self._plain(
            kind, definition, value, whole, distance(*floor) if floor else None, floor and _counts(floor)
        )
        if not self._can_resample(whole):
            return figure
        found = resampled(whole, self.recipe.resamples, self._rng())
        return replace(figure, interval=recentred(value, found), resamples=self.recipe.resamples)

    def kid(self, whole: Sets, floor: Sets | None) -> Figure:
        """The kernel distance; its interval is that of the whole sets' unbiased MMD, about the mean over subsets."""

        def of(sets: Sets) -> tuple[float, float]:
            size = min(self.recipe.kid_subset_size, *_counts(sets))
            return kid(*sets, subset_size=size, seed=self.recipe.seed)

        figure = self.figure(
            "mmd_polynomial",
            POLYNOMIAL,
            whole,
            floor,
            lambda x, y: of((x, y))[0],
            mmd_resampled(polynomial_kernel),
        )
        size = min(self.recipe.kid_subset_size, *_counts(whole))
        settings = {"subset_size": size, "subsets": KID_SUBSETS, "seed": self.recipe.seed}
        return replace(figure, deviation=of(whole)[1], settings=settings)

    def neighbours(self, whole: Sets, floor: Sets | None) -> list[Figure]:
        """Precision, recall, density, coverage; none where a set has too few images to have such neighbours."""
        if not _has_neighbours(whole):
            return []
        values = _neighbour_values(whole)
        floors = _neighbour_values(floor) if floor and _has_neighbours(floor) else None
        figures = []
        for kind, (definition, k) in _NEIGHBOURS.items():
            of = values[kind]
            figure = self._plain(
                kind,
                definition,
                float(of.mean()),
                whole,
                float(floors[kind].mean()) if floors else None,
                _counts(floor) if floors and floor else None,
            )
            figure = replace(figure, higher_is_better=True, settings={"k": k})
            if self._can_resample(whole):
                weights = draw_weights(len(of), self.recipe.resamples, self._rng())
                interval = percentiles(weights @ of / len(of))
                figure = replace(figure, interval=interval, resamples=self.recipe.resamples)
            figures.append(figure)
        return figures

    def _plain(
        self,
        kind: str,
        definition: str,
        value: float,
        whole: Sets,
        floor: float | None,
        floor_counts: tuple[int, int] | None,
    ) -> Figure:
        n_synthetic, n_reference = _counts(whole)
        return Figure(
            name=_name(kind, self.spec),
            definition=definition,
            value=value,
            reference=self.reference,
            n_reference=n_reference,
            n_synthetic=n_synthetic,
            floor=floor,
            floor_counts=floor_counts,
            features=self.spec,
        )

    def _can_resample(self, sets: Sets) -> bool:
        return self.recipe.resamples > 0 and min(_counts(sets)) >= MIN_RESAMPLED

    def _rng(self) -> np.random.Generator:
        return np.random.default_rng([self.recipe.seed, 0xB0])


_NEIGHBOURS = {
    "precision": (neighbours.PRECISION, neighbours.PRECISION_K),
    "recall": (neighbours.RECALL, neighbours.PRECISION_K),
    "density": (neighbours.DENSITY, neighbours.DENSITY_K),
    "coverage": (neighbours.COVERAGE, neighbours.DENSITY_K),
}


def _has_neighbours(sets: Sets) -> bool:
    return min(_counts(sets)) > max(k for _, k in _NEIGHBOURS.values())


def _neighbour_values(sets: Sets) -> dict[str, np.ndarray]:
    """One value per image of each of the four: synthetic ones for precision and density, real ones for the others."""
    synthetic, real = sets
    precision, recall = neighbours.precision_recall(real, synthetic)
    density, coverage = neighbours.density_coverage(real, synthetic)
    return {"precision": precision, "recall": recall, "density": density, "coverage": coverage}


def _name(kind: str, spec: FeatureSpec) -> str:
    return _STANDARD.get((kind, spec.label), f"{kind}_{spec.label}")


def _counts(sets: Sets) -> tuple[int, int]:
    return len(sets[0]), len(sets[1])


def _equal_counts(sets: Sets, rng: np.random.Generator) -> Sets:
    """Random subsets of both with as many rows as the smaller has."""
    x, y = sets
    count = min(len(x), len(y))
    return rng.permutation(x)[:count], rng.permutation(y)[:count]


def _warnings(figures: Sequence[Figure], sets: Sets, spec: FeatureSpec, recipe: Recipe) -> list[str]:
    """What the counts do to the figures."""
    smaller = min(_counts(sets))
    names = {kind: _name(kind, spec) for kind in ("frechet", "mmd_polynomial", "cmmd")}
    warnings = []
    if smaller < spec.dimensions:
        warnings.append(
            f"{names['frechet']}: {smaller} samples for {spec.dimensions} feature dimensions; the value is biased "
            "upwards, compare it only with its floor or with sets of the same counts"
        )
    if smaller < recipe.kid_subset_size:
        warnings.append(
            f"{names['mmd_polynomial']}: subsets of {smaller} samples, not {recipe.kid_subset_size}; its deviation is "
            "too small, and is that of no published figure"
        )
    if spec.is_clip:
        (value,) = (figure.value for figure in figures if figure.name == names["cmmd"])
        ones = (np.ones((1, count)) for count in _counts(sets))
        bias = value - CMMD_SCALE * float(squared_mmd(rbf_kernel, *sets, *ones, unbiased=True)[0])
        if bias > _BIAS * value:
            warnings.append(
                f"{names['cmmd']}: the number of samples ({smaller}) alone adds {bias:.3g} to the {value:.3g}"
            )
    if not _has_neighbours(sets):
        warnings.append(f"{smaller} samples are too few for precision, recall, density and coverage")
    if recipe.resamples and smaller < MIN_RESAMPLED:
        warnings.append(f"{smaller} samples are too few for intervals, which need {MIN_RESAMPLED}")
    return warnings
