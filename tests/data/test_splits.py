"""Splits: whole groups, shares kept to rounding, and nothing but the seed and the groups decides."""

from collections import Counter

import pytest

from siamdiff.data.splits import assign_splits
from siamdiff.errors import UserError

SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}


def deal(
    groups: list[str], shares: dict[str, float] = SHARES, seed: int = 0, named: dict[int, str] | None = None
):
    names = [(named or {}).get(i) for i in range(len(groups))]
    return assign_splits(groups, names, shares, seed, [f"file{i}" for i in range(len(groups))])


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, (1, 0, 0)), (10, (8, 1, 1)), (13, (11, 1, 1)), (900, (720, 90, 90)), (1003, (803, 100, 100))],
)
def test_shares_are_exact_to_rounding(count: int, expected: tuple[int, int, int]) -> None:
    counted = Counter(deal([f"g{i}" for i in range(count)]))
    assert sum(abs(counted[name] - n) for name, n in zip(SHARES, expected, strict=True)) <= 1
    assert all(abs(counted[name] - share * count) < 1 for name, share in SHARES.items())


def test_a_share_of_zero_gets_nothing() -> None:
    assert set(deal([str(i) for i in range(50)], {"train": 0.9, "val": 0.1, "test": 0.0})) == {"train", "val"}


def test_groups_are_never_divided_and_shares_still_kept() -> None:
    groups = [f"g{i * i // 60}" for i in range(600)]
    splits = deal(groups)
    assert all(len({s for g, s in zip(groups, splits, strict=True) if g == group}) == 1 for group in groups)
    counted = Counter(splits)
    assert all(abs(counted[name] - 600 * share) <= 10 for name, share in SHARES.items())


def test_the_seed_decides_and_the_order_does_not() -> None:
    groups = [f"g{i}" for i in range(100)]
    assert deal(groups) == deal(groups)
    assert deal(groups) != deal(groups, seed=1)
    assert dict(zip(groups, deal(groups), strict=True)) == dict(
        zip(groups[::-1], deal(groups[::-1]), strict=True)
    )


def test_what_the_layout_names_stays_and_takes_its_group_along() -> None:
    splits = deal(["a", "a", "b", *"cdefghij"], named={0: "test", 2: "val"})
    assert splits[:3] == ["test", "test", "val"]


def test_a_group_that_the_layout_divides_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match="file0 is in test, file1 in train"):
        deal(["a", "a", "b"], named={0: "test", 1: "train"})
