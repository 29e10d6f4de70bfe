"""Scores of several seeds and test sets in a few numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from siamdiff.sections.segment import OVERALL

OVERALL_IS = (
    "over the images of all test sets together: the mean of the sets' means, weighted by their scored images"
)
TEST_IS = (
    "two-sided Wilcoxon signed-rank test over test images, each image's score averaged over the seeds; images without "
    "a difference are left out; not corrected for the number of comparisons"
)


@dataclass(frozen=True)
class Summary:
    """One score of one arm over its seeds."""

    mean: float | None  # over the seeds; None: no image was scored
    deviation: float | None  # of the seeds' means, with n - 1; None: fewer than two seeds
    per_seed: list[float]  # mean over images of each
    images: int  # scored: those with foreground


@dataclass(frozen=True)
class Comparison:
    """An arm against the baseline on the same images."""

    difference: float | None  # mean over images, this arm's minus the baseline's; None: no image was scored
    p: float | None  # None: no image, or none that differs
    better: int  # images
    worse: int


def summarize(scores: np.ndarray) -> Summary:
    """Mean and deviation over seeds of the mean over images.

    Args:
        scores: float (seeds, images); NaN: the image has no score, in every seed alike.
    """
    scored = scores[:, ~np.isnan(scores).any(0)]
    if not scored.size:
        return Summary(None, None, [], 0)
    means = scored.mean(1)
    deviation = float(means.std(ddof=1)) if len(means) > 1 else None
    return Summary(float(means.mean()), deviation, means.tolist(), scored.shape[1])


def compare(scores: np.ndarray, baseline: np.ndarray) -> Comparison:
    """The paired test of an arm against the baseline (TEST_IS).

    Args:
        scores, baseline: float (seeds, images) of the same images; NaN: the image has no score.
    """
    differences = scores.mean(0) - baseline.mean(0)
    differences = differences[~np.isnan(differences)]
    if not len(differences):
        return Comparison(None, None, 0, 0)
    better, worse = int((differences > 0).sum()), int((differences < 0).sum())
    p = None
    if better + worse:
        from scipy.stats import wilcoxon  # half a second

        tested: Any = wilcoxon(differences)  # its type says nothing of its fields
        p = float(tested.pvalue)
    return Comparison(float(differences.mean()), p, better, worse)


def with_overall(per_test: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Scores (seeds, images) by test set, and of all images together where there are several sets."""
    sets = dict(per_test)
    if len(sets) > 1:
        sets[OVERALL] = np.concatenate(list(per_test.values()), axis=1)
    return sets


def tabulate(
    scores: Mapping[str, Mapping[str, Sequence[Mapping[str, np.ndarray]]]], baseline: str | None
) -> list[dict[str, object]]:
    """Results of one network: a list of {arm, test, scores: {metric: {mean, ..., against_baseline}}}.

    Args:
        scores: arm -> test set -> a list by seed of {metric: float (images,)}; all have the same images in order.
        baseline: the arm that the others are compared with; None: none.
    """
    stacked = {
        arm: {
            metric: with_overall(
                {test: np.stack([seed[metric] for seed in seeds]) for test, seeds in tests.items()}
            )
            for metric in next(iter(tests.values()))[0]
        }
        for arm, tests in scores.items()
    }
    rows: list[dict[str, object]] = []
    for arm, metrics in stacked.items():
        for test in next(iter(metrics.values())):
            of_test: dict[str, object] = {}
            for metric, sets in metrics.items():
                entry: dict[str, object] = {**asdict(summarize(sets[test]))}
                if baseline in stacked and arm != baseline:
                    entry["against_baseline"] = asdict(compare(sets[test], stacked[baseline][metric][test]))
                of_test[metric] = entry
            rows.append({"arm": arm, "test": test, "scores": of_test})
    return rows
