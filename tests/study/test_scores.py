"""Simulated readers of known bias and agreement: intervals hold the truth about as often as they say."""

import math

import numpy as np
import pytest

from siamdiff.study import reliability
from siamdiff.study.intervals import Estimate, measure, of_mean, of_share
from siamdiff.study.ratings import Ratings
from siamdiff.study.scores import ALL, between, differences, opinions, recognitions, within
from tests.study.simulated import MEANS, Model

STUDIES = 20


@pytest.fixture(scope="module")
def truth() -> Ratings:
    """Of so many readers and images that what they say is the truth."""
    return Model(readers=150, images=400, repeats=200).draw(np.random.default_rng(0))


@pytest.fixture(scope="module", params=[STUDIES, pytest.param(10 * STUDIES, marks=pytest.mark.soak)])
def studies(request: pytest.FixtureRequest) -> list[Ratings]:
    rng = np.random.default_rng(1)
    return [Model().draw(rng, missing=0.1 * (i % 2)) for i in range(request.param)]


def share_within(estimates: list[Estimate], value: float) -> float:
    found = [of.low is not None and of.high is not None and of.low <= value <= of.high for of in estimates]
    return float(np.mean(found))


def test_opinion_scores_hold_the_truth(studies: list[Ratings], truth: Ratings):
    held, called = [], []
    for method in MEANS:
        rows = [
            next(row for row in opinions(of) if (row.method, row.lesion) == (method, ALL)) for of in studies
        ]
        held.append(
            share_within([row.mos for row in rows], np.nanmean(truth.realism[:, truth.method == method]))
        )
        called.append(
            share_within([row.called_real for row in rows], np.nanmean(truth.real[:, truth.method == method]))
        )
    assert 0.88 <= np.mean(held) <= 1 and 0.88 <= np.mean(called) <= 1
    widths = [row.mos.high - row.mos.low for row in opinions(studies[0]) if row.lesion == ALL]  # type: ignore[operator]
    assert max(widths) < 3  # they hold something because they are right, not because they hold everything


def test_differences_hold_the_truth_and_find_the_better_method(studies: list[Ratings], truth: Ratings):
    means = {method: float(np.mean(truth.realism[:, truth.method == method])) for method in MEANS}
    held, found = [], []
    for of in studies:
        for row in differences(of):
            held.append(share_within([row.difference], means[row.method] - means[row.other]))
            if {row.method, row.other} == {"real", "other"}:
                found.append(row.p is not None and row.p < 0.05)
    assert np.mean(held) >= 0.88 and np.mean(found) > 0.8


def test_accuracy_holds_the_truth_and_chance_is_chance(studies: list[Ratings], truth: Ratings):
    right = [np.mean(truth.real[:, truth.is_real]), 1 - np.mean(truth.real[:, ~truth.is_real])]
    rows = [recognitions(of)[0] for of in studies]
    assert share_within([row.accuracy for row in rows], float(np.mean(right))) >= 0.88
    assert share_within([row.specificity for row in rows], float(right[0])) >= 0.88
    assert share_within([row.sensitivity for row in rows], float(right[1])) >= 0.88
    assert np.mean([row.p is not None and row.p < 0.05 for row in rows]) > 0.6
    rng = np.random.default_rng(2)
    blind = [recognitions(Model(blind=True).draw(rng))[0] for _ in range(STUDIES)]
    assert share_within([row.accuracy for row in blind], 0.5) >= 0.88
    assert np.mean([row.p is not None and row.p < 0.05 for row in blind]) <= 0.12


def test_whoever_always_says_real_is_at_chance(studies: list[Ratings]):
    said = np.ones_like(studies[0].real)
    (row, *_) = recognitions(Ratings(**vars(studies[0]) | {"real": said}))
    assert row.accuracy.value == 0.5
    assert (row.sensitivity.value, row.specificity.value) == (0, 1)
    assert row.specificity.low is not None and 0.7 < row.specificity.low < 1  # twenty images say no more


def test_agreement_holds_the_truth(studies: list[Ratings], truth: Ratings):
    alpha = reliability.krippendorff_alpha(truth.realism[:40] - 1, 5, reliability.ordinal)
    assert share_within([between(of).realism for of in studies], alpha) >= 0.88
    pairs = np.array([pair.realism for pair in truth.again]) - 1
    rows = [within(of)[0] for of in studies]
    assert (
        share_within([row.same_realism for row in rows], float(np.mean(pairs[:, 0] == pairs[:, 1]))) >= 0.88
    )
    kappa = reliability.weighted_kappa(pairs[:, 0], pairs[:, 1], 5)
    assert share_within([row.kappa_realism for row in rows], kappa) >= 0.88
    assert {row.pairs for row in rows} == {24}


def test_known_bias_is_recovered():
    leaning = Model(readers=4, images=60, leaning=0).draw(np.random.default_rng(3))
    shifted = Ratings(
        **vars(leaning) | {"realism": np.clip(leaning.realism + np.array([1, 0, 0, -1])[:, None], 1, 5)}
    )
    one, other = (opinions(of)[0].mos for of in (leaning, shifted))
    assert one.high is not None and one.low is not None and other.high is not None and other.low is not None
    assert other.high - other.low > 3 * (
        one.high - one.low
    )  # readers who differ make other readers uncertain
    assert between(shifted).realism.value < between(leaning).realism.value - 0.1  # type: ignore[operator]


def test_incomplete_readers_count_with_what_they_gave():
    ratings = Model(readers=3, images=6).draw(np.random.default_rng(4))
    realism, real = ratings.realism.copy(), ratings.real.copy()
    realism[2, 3:], real[2, 3:] = np.nan, np.nan
    realism[:, 20], real[:, 20] = np.nan, np.nan  # nobody saw this one
    part = Ratings(**vars(ratings) | {"realism": realism, "real": real})
    rows = {(row.method, row.lesion): row for row in opinions(part)}
    assert rows["real", ALL].ratings == 2 * 12 + 3
    assert sum(row.ratings for (_, lesion), row in rows.items() if lesion == ALL) == int(
        (~np.isnan(realism)).sum()
    )
    assert recognitions(part)[-1].reader == "reader-3" and recognitions(part)[-1].sensitivity.value is None


def test_few_readers_say_little_of_others():
    one = opinions(Model(readers=1).draw(np.random.default_rng(5)))[0].mos
    assert (one.low, one.high) == (one.low_these, one.high_these)
    two = opinions(Model(readers=2).draw(np.random.default_rng(6)))[0].mos
    assert None not in (two.low, two.high, two.low_these, two.high_these)
    assert two.high - two.low > two.high_these - two.low_these  # type: ignore[operator]


def test_intervals_of_nothing_and_of_certainty():
    nothing = measure(lambda *_: math.nan, 2, np.zeros(3, int))
    assert of_mean(nothing) == of_share(nothing, 3) == Estimate(None)
    same = measure(lambda *_: 4.0, 2, np.zeros(3, int))
    assert of_mean(same) == Estimate(4.0)  # no spread was seen: that is no interval of width 0
