"""Which images a study shows, and in which order."""

from collections import Counter

import numpy as np
import pytest

from siamdiff.errors import UserError
from siamdiff.study.design import Candidate, choose_repeats, draw, order, spread


def pool(method: str, counts: dict[str, int], family: str = "") -> list[Candidate]:
    return [
        Candidate(f"{method}-{lesion}-{i}", lesion, 0.1, frozenset((family or f"{method}{lesion}{i}",)))
        for lesion, count in counts.items()
        for i in range(count)
    ]


EVEN = {"small": 9, "medium": 9, "large": 9}


def test_methods_and_lesion_sizes_are_balanced():
    chosen = draw({"real": pool("r", EVEN), "a": pool("a", EVEN), "b": pool("b", EVEN)}, 20).chosen
    counts = {method: Counter(candidate.lesion for candidate in of) for method, of in chosen.items()}
    assert {method: counts[method].total() for method in counts} == {"real": 10, "a": 5, "b": 5}
    assert counts["a"] == counts["b"]
    assert counts["real"] == counts["a"] + counts["b"]
    assert len({candidate.key for of in chosen.values() for candidate in of}) == 20


def test_what_one_set_lacks_is_not_taken_of_the_others():
    few = {"small": 0, "medium": 2, "large": 9}
    chosen = draw({"real": pool("r", EVEN), "a": pool("a", few)}, 12).chosen
    assert Counter(candidate.lesion for candidate in chosen["real"]) == {"medium": 2, "large": 4}
    assert spread({"small": 1, "medium": 5, "large": 2}, 6) == {"small": 1, "medium": 3, "large": 2}


def test_images_of_one_patient_are_avoided_and_counted_where_they_cannot_be():
    shared = [Candidate(f"a{i}", "small", 0.01, frozenset((f"p{i}",))) for i in range(4)]
    real = [Candidate(f"r{i}", "small", 0.01, frozenset((f"p{i}",))) for i in range(8)]
    apart = draw({"real": real, "a": shared}, 8)
    assert apart.related == 0
    families = [family for of in apart.chosen.values() for candidate in of for family in candidate.family]
    assert len(set(families)) == 8
    assert draw({"real": real[:4], "a": shared}, 8).related == 4


def test_a_method_without_masks_is_taken_as_it_is():
    chosen = draw({"real": pool("r", EVEN), "a": pool("a", {"unknown": 6}), "b": pool("b", EVEN)}, 12).chosen
    assert Counter(candidate.lesion for candidate in chosen["a"]) == {"unknown": 3}
    assert Counter(candidate.lesion for candidate in chosen["b"]) == dict.fromkeys(EVEN, 1)


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (21, "give a multiple of 4, such as 20"),
        (2, "give a multiple of 4, such as 4"),
        (60, "give at most --images 48"),
    ],
)
def test_what_cannot_be_balanced_is_refused(images: int, told: str):
    with pytest.raises(UserError, match=told):
        draw({"real": pool("r", EVEN), "a": pool("a", EVEN), "b": pool("b", EVEN)}, images)


@pytest.mark.parametrize(("pairs", "others"), [(0, 5), (1, 1), (4, 12), (30, 30)])
def test_repeats_come_long_after_and_orders_differ(pairs: int, others: int):
    twice = [(f"x{i}", f"y{i}") for i in range(pairs)]
    once = [f"z{i}" for i in range(others)]
    seen = set()
    for seed in range(5):
        names = order(twice, once, np.random.default_rng(seed))
        assert sorted(names) == sorted([name for pair in twice for name in pair] + once)
        gap = len(names) // 3
        assert all(abs(names.index(one) - names.index(other)) >= gap for one, other in twice)
        assert names == order(twice, once, np.random.default_rng(seed))
        seen.add(tuple(names))
    assert len(seen) > 1


def test_repeats_are_of_real_and_synthetic_images_alike():
    methods = ["real"] * 8 + ["a"] * 4 + ["b"] * 4
    chosen = choose_repeats(methods, 8, np.random.default_rng(0))
    assert len(set(chosen)) == 8
    assert Counter(methods[i] for i in chosen) == {"real": 4, "a": 2, "b": 2}
