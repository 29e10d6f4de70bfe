"""Deals groups of samples to splits: what the source's layout names stays, the rest goes by shares and a seed."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence

from siamdiff.errors import UserError


def assign_splits(
    groups: Sequence[str],
    named: Sequence[str | None],
    shares: Mapping[str, float],
    seed: int,
    labels: Sequence[str],
) -> list[str]:
    """The split of every sample.

    A group is never divided. Where the layout names the split of a member, the whole group goes there. The other
    groups are dealt so that the number of their samples comes as near to the shares as whole groups allow: the large
    ones first, among equals in an order that only the seed and the group decide.

    Args:
        groups: group of each sample.
        named: split that the source's layout names for each sample, or None.
        shares: share of each split; they add up to 1.
        seed: of the order.
        labels: how each sample is called in a message.

    Raises:
        UserError: the layout divides a group; the message names one.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for position, group in enumerate(groups):
        members[group].append(position)
    split_of_group: dict[str, str] = {}
    for group, positions in members.items():
        splits = {named[i]: labels[i] for i in positions if named[i] is not None}
        if len(splits) > 1:
            (one, first), (other, second) = sorted((str(name), label) for name, label in splits.items())[:2]
            raise UserError(
                f"the source's layout divides a group: {first} is in {one}, {second} in {other}; "
                "move one, or correct data.groups"
            )
        for split in splits:
            split_of_group[group] = str(split)
    free = {group: len(positions) for group, positions in members.items() if group not in split_of_group}
    split_of_group |= _deal(free, shares, seed)
    return [split_of_group[group] for group in groups]


def _deal(sizes: Mapping[str, int], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    quotas = _quotas(sum(sizes.values()), shares)
    order = sorted(sizes, key=lambda group: (-sizes[group], _shuffled(seed, group)))
    dealt: dict[str, str] = {}
    for group in order:
        split = max(quotas, key=lambda name: quotas[name])
        dealt[group] = split
        quotas[split] -= sizes[group]
    return dealt


def _quotas(total: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Whole numbers that add up to `total`, by largest remainder; splits of share 0 get no place."""
    exact = {name: total * share for name, share in shares.items() if share > 0}
    quotas = {name: int(value + 1e-9) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: quotas[name] - exact[name])
    for name in by_remainder[: total - sum(quotas.values())]:
        quotas[name] += 1
    return quotas


def _shuffled(seed: int, group: str) -> bytes:
    return hashlib.sha256(f"{seed}/{group}".encode()).digest()
