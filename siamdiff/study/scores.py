"""The figures of a study: opinion scores, recognition, agreement, with intervals (docs/study.md has the formulas)."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from siamdiff.study import reliability
from siamdiff.study.answers import SCALE
from siamdiff.study.design import CLASSES, UNKNOWN
from siamdiff.study.intervals import Estimate, Measured, Statistic, measure, of_mean, of_share
from siamdiff.study.ratings import Ratings

ALL = "all"
CHANCE = 0.5  # accuracy of whoever cannot tell


@dataclass(frozen=True)
class Opinion:
    """What readers thought of a method's images of one class of lesion size, or of all."""

    method: str
    lesion: str
    images: int
    ratings: int
    mos: Estimate  # mean realism, 1 to 5
    called_real: Estimate  # share of the answers
    confidence: float | None  # mean, 1 to 5
    seconds: float | None  # median


@dataclass(frozen=True)
class Recognition:
    """How well real and synthetic images were told apart, by all readers or one, of one method or all."""

    reader: str
    method: str
    lesion: str
    accuracy: Estimate  # mean of sensitivity and specificity; 0.5 is chance, whatever a reader prefers to say
    sensitivity: Estimate  # share of synthetic images that were called synthetic
    specificity: Estimate  # share of real images that were called real
    p: float | None  # that accuracy is chance, two-sided; None: it cannot be reckoned
    answers: int


@dataclass(frozen=True)
class Difference:
    """Mean realism of one method minus that of another."""

    method: str
    other: str
    difference: Estimate
    p: float | None


@dataclass(frozen=True)
class Between:
    """Krippendorff's alpha of the readers."""

    readers: int
    images: int  # with two ratings or more
    realism: Estimate  # ordinal
    verdict: Estimate  # nominal


@dataclass(frozen=True)
class Within:
    """Agreement of one reader, or of all, with themselves on images shown twice."""

    reader: str
    pairs: int
    same_realism: Estimate  # share of equal grades
    same_verdict: Estimate
    kappa_realism: Estimate  # quadratic weights
    kappa_verdict: Estimate


@dataclass(frozen=True)
class Scores:
    """All of them."""

    opinions: list[Opinion]
    differences: list[Difference]
    recognition: list[Recognition]
    between: Between
    within: list[Within]


def score_ratings(ratings: Ratings) -> Scores:
    """The figures of some ratings."""
    return Scores(
        opinions=opinions(ratings),
        differences=differences(ratings),
        recognition=recognitions(ratings),
        between=between(ratings),
        within=within(ratings),
    )


def opinions(ratings: Ratings) -> list[Opinion]:
    """Of every method, over all lesion sizes and by each."""
    rows = []
    for method in ratings.methods:
        of_method = ratings.method == method
        rows.append(_opinion(ratings, method, ALL, of_method))
        for lesion in (*CLASSES, UNKNOWN):
            chosen = of_method & (ratings.lesion == lesion)
            if chosen.any() and not (lesion == UNKNOWN and chosen.sum() == of_method.sum()):
                rows.append(_opinion(ratings, method, lesion, chosen))
    return rows


def _opinion(ratings: Ratings, method: str, lesion: str, chosen: np.ndarray) -> Opinion:
    realism, real = _judged(ratings.realism[:, chosen]), _judged(ratings.real[:, chosen])
    confidence, seconds = ratings.confidence[:, chosen], ratings.seconds[:, chosen]
    images, some = realism.shape[1], not np.isnan(confidence).all()
    return Opinion(
        method=method,
        lesion=lesion,
        images=images,
        ratings=int((~np.isnan(realism)).sum()),
        mos=of_mean(_mean_of(realism), SCALE[0], SCALE[-1]),
        called_real=of_share(_mean_of(real), images),
        confidence=float(np.nanmean(confidence)) if some else None,
        seconds=float(np.nanmedian(seconds)) if some else None,
    )


def differences(ratings: Ratings) -> list[Difference]:
    """Between every two methods, REAL among them."""
    rows = []
    for i, method in enumerate(ratings.methods):
        for other in ratings.methods[i + 1 :]:
            first, second = (_judged(ratings.realism[:, ratings.method == of]) for of in (method, other))
            both, groups = np.hstack([first, second]), np.repeat([0, 1], [first.shape[1], second.shape[1]])
            statistic = _of_groups(both, groups, 2, lambda one, another: one - another)
            found = measure(statistic, len(ratings.readers), groups)
            rows.append(Difference(method, other, of_mean(found), found.p))
    return rows


def recognitions(ratings: Ratings) -> list[Recognition]:
    """Of all readers: over everything, by method, by lesion size; then of each reader."""
    everything = np.ones(len(ratings.method), bool)
    rows = [_recognition(ratings, ALL, ALL, ALL, everything)]
    synthetic = ratings.methods[1:]
    if len(synthetic) > 1:
        for method in synthetic:
            chosen = ratings.is_real | (ratings.method == method)
            rows.append(_recognition(ratings, ALL, method, ALL, chosen))
    for lesion in CLASSES:
        chosen = ratings.lesion == lesion
        if (chosen & ratings.is_real).any() and (chosen & ~ratings.is_real).any():
            rows.append(_recognition(ratings, ALL, ALL, lesion, chosen))
    if len(ratings.readers) > 1:
        rows += [_recognition(ratings, reader, ALL, ALL, everything) for reader in ratings.readers]
    return rows


def _recognition(ratings: Ratings, reader: str, method: str, lesion: str, chosen: np.ndarray) -> Recognition:
    rows = [ratings.readers.index(reader)] if reader != ALL else range(len(ratings.readers))
    called = ratings.real[list(rows)][:, chosen]
    is_real = ratings.is_real[chosen]
    right = np.where(np.isnan(called), np.nan, (called == 1) == is_real)
    some = ~np.isnan(right).all(0)
    right, groups = right[:, some], is_real[some].astype(int)
    found_out, recognised = (
        of_share(_mean_of(right[:, groups == group]), int((groups == group).sum())) for group in (0, 1)
    )
    statistic = _of_groups(right, groups, 2, lambda synthetic, real: (synthetic + real) / 2)
    found = measure(statistic, len(right), groups)
    p = replace(found, value=found.value - CHANCE).p
    answers = int((~np.isnan(right)).sum())
    return Recognition(
        reader, method, lesion, of_share(found, right.shape[1]), found_out, recognised, p, answers
    )


def between(ratings: Ratings) -> Between:
    """Alpha of realism and verdict."""
    realism = _alpha(ratings.realism - SCALE[0], len(SCALE), reliability.ordinal)
    verdict = _alpha(ratings.real, 2, reliability.nominal)
    pairs = (~np.isnan(ratings.realism)).sum(0) >= 2
    return Between(len(ratings.readers), int(pairs.sum()), realism, verdict)


def _alpha(ratings: np.ndarray, values: int, difference: reliability.Difference) -> Estimate:
    ratings = ratings[:, (~np.isnan(ratings)).sum(0) >= 2]

    def alpha(readers: np.ndarray, images: np.ndarray) -> float:
        kept = ratings[np.ix_(readers, images)]
        return reliability.krippendorff_alpha(kept, values, difference)

    return of_mean(measure(alpha, len(ratings), np.zeros(ratings.shape[1], int)), -1, 1)


def within(ratings: Ratings) -> list[Within]:
    """Of all readers together, then of each."""
    rows = [_within(ratings, ALL)]
    if len(ratings.readers) > 1:
        rows += [_within(ratings, reader) for reader in ratings.readers]
    return [row for row in rows if row.pairs]


def _within(ratings: Ratings, reader: str) -> Within:
    again = [pair for pair in ratings.again if reader in (ALL, ratings.readers[pair.reader])]
    rows, columns = sorted({pair.reader for pair in again}), sorted({pair.picture for pair in again})
    grades, verdicts = np.full((2, 2, len(rows), len(columns)), np.nan)  # each: showing, reader, picture
    for pair in again:
        place = (slice(None), rows.index(pair.reader), columns.index(pair.picture))
        grades[place], verdicts[place] = np.array(pair.realism) - SCALE[0], pair.real
    return Within(
        reader, len(again), _same(grades), _same(verdicts), _kappa(grades, len(SCALE)), _kappa(verdicts, 2)
    )


def _same(twice: np.ndarray) -> Estimate:
    """Share of pairs that are equal, of (2, readers, pictures)."""
    same = np.where(np.isnan(twice[0]), np.nan, twice[0] == twice[1])
    return of_share(_mean_of(same), same.shape[1])


def _kappa(twice: np.ndarray, values: int) -> Estimate:
    """Weighted kappa of all pairs together, of (2, readers, pictures)."""

    def kappa(readers: np.ndarray, pictures: np.ndarray) -> float:
        first, again = twice[:, readers][:, :, pictures]
        known = ~np.isnan(first)
        return reliability.weighted_kappa(first[known].astype(int), again[known].astype(int), values)

    return of_mean(measure(kappa, twice.shape[1], np.zeros(twice.shape[2], int)), -1, 1)


def _judged(values: np.ndarray) -> np.ndarray:
    """The columns that at least one reader judged."""
    return values[:, ~np.isnan(values).all(0)]


def _mean_of(values: np.ndarray) -> Measured:
    groups = np.zeros(values.shape[1], int)
    return measure(_of_groups(values, groups, 1, lambda mean: mean), len(values), groups)


def _of_groups(values: np.ndarray, groups: np.ndarray, count: int, join: Callable[..., float]) -> Statistic:
    """`join` of the means of all answers in each of `count` groups of images."""
    known = (~np.isnan(values)).astype(float)
    filled, members = np.nan_to_num(values), [(groups == group).astype(float) for group in range(count)]

    def statistic(readers: np.ndarray, images: np.ndarray) -> float:
        weights = readers.astype(float)
        sums, counts = weights @ filled, weights @ known  # (images,)
        means = []
        for of_group in members:
            answers = float(counts @ (of_group * images))
            means.append(float(sums @ (of_group * images)) / answers if answers else math.nan)
        return join(*means)

    return statistic
