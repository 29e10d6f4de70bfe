"""Intervals that hold what they promise, and attacks that succeed, fail, and cannot be told."""

import numpy as np
import pytest

from siamdiff.privacy.neighbours import Real, membership_of
from siamdiff.privacy.record import worst
from siamdiff.privacy.spaces import Views
from siamdiff.privacy.statistics import FEW_GROUPS, MOST, Scores, attack, share_of, verdict_of


def scores(values: np.ndarray) -> Scores:
    return Scores(values, [str(i // 2) for i in range(len(values))])


def drawn(shift: float, members: int = 300, others: int = 120, seed: int = 0) -> tuple[Scores, Scores]:
    rng = np.random.default_rng(seed)
    return scores(rng.normal(-shift, 1, members)), scores(rng.normal(0, 1, others))


def test_shares_have_exact_intervals():
    of = share_of(8, 900)
    assert (of.count, of.of) == (8, 900) and of.low == pytest.approx(0.00385, abs=1e-4)
    assert of.high == pytest.approx(0.01744, abs=1e-4)
    assert share_of(0, 20).low == 0.0 and share_of(20, 20).high == 1.0


def test_members_with_lower_scores_are_told_from_others():
    found = attack("score", *drawn(2.0), seed=0)
    assert found.auc == pytest.approx(0.92, abs=0.03) and found.low < found.auc < found.high
    assert found.true_positive_rate and found.true_positive_rate > 0.1
    assert verdict_of([found]) == "fail"


def test_members_like_others_are_not():
    found = attack("score", *drawn(0.0), seed=0)
    assert found.low <= 0.5 <= found.high and verdict_of([found]) == "pass"
    assert attack("score", *drawn(0.0), seed=0) == found  # the same each time


def test_too_few_images_are_to_be_looked_at():
    found = attack("score", *drawn(0.0, 8, 6), seed=0)
    assert found.true_positive_rate is None and verdict_of([found]) == "look"


@pytest.mark.parametrize("shift", [0.0, 3.0])
@pytest.mark.parametrize(("members", "others"), [(60, 1), (60, FEW_GROUPS - 1), (FEW_GROUPS - 1, 60)])
def test_many_images_of_few_groups_are_to_be_looked_at(shift: float, members: int, others: int):
    rng = np.random.default_rng(0)
    sides = [
        Scores(rng.normal(centre, 1, 120), [str(i % groups) for i in range(120)])
        for centre, groups in ((-shift, members), (0.0, others))
    ]
    found = attack("score", *sides, seed=0)
    assert (found.member_groups, found.other_groups) == (members, others)
    assert verdict_of([found]) == "look"


def test_the_frames_of_one_held_out_patient_are_told_as_one():
    rng = np.random.default_rng(0)
    groups = [str(i) for i in range(60)] + ["patient"] * 60
    nothing = Views(np.empty((0, 1, 1)), np.empty((0, 1, 1)))
    real = Real([str(i) for i in range(120)], groups, 60, nothing, frozenset(), 0)
    sides = Scores(rng.normal(-3, 1, 60), groups[:60]), Scores(rng.normal(0, 1, 60), groups[60:])
    found = membership_of([attack("score", *sides, seed=0)], real, "nearer")
    assert found.verdict == "look" and "60 training and 1 held-out groups" in found.said


def test_as_many_groups_as_are_asked_for_are_enough():
    members, others = drawn(3.0, 40, 40)
    of_ten = Scores(others.values, [str(i % FEW_GROUPS) for i in range(40)])
    assert verdict_of([attack("score", members, of_ten, seed=0)]) == "fail"


def test_equal_scores_are_chance():
    found = attack("score", scores(np.zeros(10)), scores(np.zeros(200)), seed=0)
    assert found.auc == found.low == found.high == 0.5 and found.true_positive_rate == 0.0


def test_groups_count_once():
    rng = np.random.default_rng(0)
    values = np.repeat(rng.normal(size=15), 20)  # twenty equal images of each
    alone = [str(i) for i in range(300)]
    together = [str(i // 20) for i in range(300)]
    others = scores(rng.normal(size=200))
    narrow, wide = (attack("s", Scores(values, groups), others, seed=0) for groups in (alone, together))
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_large_sets_are_drawn_from():
    members, others = drawn(0.5, MOST + 10, 40)
    assert attack("score", members, others, seed=0).members == MOST


def test_the_worst_verdict_counts():
    assert worst([]) == worst(["pass"]) == "pass"
    assert worst(["pass", "not done"]) == "not done"
    assert worst(["not done", "look", "pass"]) == "look"
    assert worst(["look", "fail", "not done"]) == "fail"
