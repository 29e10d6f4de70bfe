"""Intervals of what readers said of images, where another study would have other readers and other images.

Both are left out one at a time (a two-way jackknife). The variance is what readers bring plus what images bring; each
of them holds the noise of single answers, which is therefore counted twice: intervals are a little too wide, not too
narrow. Few readers make few degrees of freedom (Satterthwaite), so three readers get the interval that three deserve:
a percentile bootstrap of three readers would be far too narrow (docs/study.md has the numbers).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import special  # scipy.stats says the same a hundred times slower

CONFIDENCE = 0.95
_TAIL = (1 - CONFIDENCE) / 2

# Of the readers kept, bool (R,), and the images kept, bool (I,); NaN where there is nothing to tell.
Statistic = Callable[[np.ndarray, np.ndarray], float]
Ends = tuple[float | None, float | None]


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95% intervals: for other readers and other images, and for these very readers."""

    value: float | None  # None: nothing to tell
    low: float | None = None  # None: it cannot be reckoned
    high: float | None = None
    low_these: float | None = None  # with these readers, for other images
    high_these: float | None = None


@dataclass(frozen=True)
class Spread:
    """How far a figure would be off in another study."""

    error: float  # standard error, above 0
    freedom: float  # degrees of it

    @property
    def quantile(self) -> float:
        """Of Student's t, for an interval of CONFIDENCE."""
        return float(special.stdtrit(self.freedom, 1 - _TAIL))


@dataclass(frozen=True)
class Measured:
    """A figure with its spreads."""

    value: float  # NaN: nothing to tell
    both: Spread | None  # over readers and images; None: it cannot be reckoned
    images: Spread | None  # over images alone

    @property
    def p(self) -> float | None:
        """Two-sided, that the figure is 0; None: it cannot be reckoned."""
        if self.both is None or math.isnan(self.value):
            return None
        return float(2 * special.stdtr(self.both.freedom, -abs(self.value) / self.both.error))


def measure(statistic: Statistic, readers: int, groups: np.ndarray) -> Measured:
    """A figure, and its standard errors by leaving out readers and images.

    Args:
        statistic: the figure.
        readers: R; of 1 nothing is known about others, and both spreads are over images.
        groups: int (I,); images are drawn within these (real and synthetic, say), not over them.
    """
    every_reader, every_image = np.ones(readers, bool), np.ones(len(groups), bool)
    value = statistic(every_reader, every_image)
    if math.isnan(value):
        return Measured(value, None, None)
    of_images = _part(groups, lambda keep: statistic(every_reader, keep))
    parts = [of_images]
    if readers > 1:
        parts.append(_part(np.zeros(readers, int), lambda keep: statistic(keep, every_image)))
    return Measured(value, _added(parts), _added([of_images]))


def _part(groups: np.ndarray, statistic: Callable[[np.ndarray], float]) -> tuple[float, int]:
    """Jackknife variance of a figure over units within groups, and its degrees of freedom; NaN: it cannot be told."""
    variance, freedom = 0.0, 0
    for group in np.unique(groups):
        without = []
        for unit in np.flatnonzero(groups == group):
            keep = np.ones(len(groups), bool)
            keep[unit] = False
            without.append(statistic(keep))
        count = len(without)
        if count < 2:
            return math.nan, 0
        variance += (count - 1) / count * float(((np.array(without) - np.mean(without)) ** 2).sum())
        freedom += count - 1
    return variance, freedom


def _added(parts: list[tuple[float, int]]) -> Spread | None:
    """Variances added, with Satterthwaite's degrees of freedom; None: there is none, or one cannot be told."""
    variances, freedoms = np.array(parts, float).T
    total = float(variances.sum())
    if not np.isfinite(total) or total <= 0:
        return None
    return Spread(math.sqrt(total), total**2 / float((variances**2 / freedoms).sum()))


def of_mean(found: Measured, low: float = -math.inf, high: float = math.inf) -> Estimate:
    """Student's intervals of a figure that lies in [low, high]."""

    def ends(spread: Spread | None) -> Ends:
        if spread is None:
            return None, None
        half = spread.quantile * spread.error
        return max(low, found.value - half), min(high, found.value + half)

    return _estimate(found, ends)


def of_share(found: Measured, images: int) -> Estimate:
    """Korn and Graubard's intervals of a share: Clopper and Pearson's of as many answers as its spread is worth.

    E. L. Korn and B. I. Graubard, "Confidence Intervals For Proportions With Small Expected Number of Positive Counts
    Estimated From Survey Data", Survey Methodology 24 (1998). At 0 and 1, where answers do not differ, they are worth
    as many as there are images.
    """

    def ends(spread: Spread | None) -> Ends:
        value, worth = found.value, float(images)
        if spread is None and 0 < value < 1:
            return None, None
        if spread is not None:
            narrow = (special.ndtri(1 - _TAIL) / spread.quantile) ** 2
            worth = value * (1 - value) / spread.error**2 * narrow
        yes, no = value * worth, (1 - value) * worth
        low = float(special.betaincinv(yes, no + 1, _TAIL)) if yes > 0 else 0.0
        return low, float(special.betaincinv(yes + 1, no, 1 - _TAIL)) if no > 0 else 1.0

    return _estimate(found, ends)


def _estimate(found: Measured, ends: Callable[[Spread | None], Ends]) -> Estimate:
    if math.isnan(found.value):
        return Estimate(None)
    return Estimate(found.value, *ends(found.both), *ends(found.images))
