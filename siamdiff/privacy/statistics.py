"""Intervals of shares, and how well a score tells training images from others, by bootstrap over groups."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import beta

from siamdiff.evaluation.resampling import CONFIDENCE, draw_weights, percentiles
from siamdiff.privacy.record import Attack, Share, Verdict

RESAMPLES = 1000
FALSE_POSITIVES = 0.01  # at which true positives are told (Carlini et al. 2022)
SUBSTANTIAL = 0.6  # an AUC wholly above it fails; one that may reach it is to be looked at
FEW = 30  # images a side, below which an attack that fails says nothing
# Groups a side, below which an interval, of resamples of groups, hardly knows how much people differ.
FEW_GROUPS = 10
MOST = 2000  # images a side that an attack is reckoned on: pairs of them are held at once


@dataclass(frozen=True)
class Scores:
    """A score of N images, lower for members, and their groups."""

    values: np.ndarray  # float (N,)
    groups: list[str]

    def some(self, rng: np.random.Generator) -> "Scores":
        """At most MOST of them, drawn at random."""
        if len(self.values) <= MOST:
            return self
        chosen = np.sort(rng.choice(len(self.values), MOST, replace=False))
        return Scores(self.values[chosen], [self.groups[i] for i in chosen])


def share_of(count: int, of: int) -> Share:
    """A share with its exact binomial interval."""
    tail = (1 - CONFIDENCE) / 2
    low = float(beta.ppf(tail, count, of - count + 1)) if count else 0.0
    high = float(beta.ppf(1 - tail, count + 1, of - count)) if count < of else 1.0
    return Share(count=count, of=of, low=low, high=high)


def attack(name: str, members: Scores, others: Scores, seed: int) -> Attack:
    """AUC of "the lower score is the member's", ties counted half, with its interval, and the true positive rate.

    Args:
        name: of the score.
        members: of training images, at least one.
        others: of held-out ones, at least one.
        seed: of the resamples.
    """
    rng = np.random.default_rng(seed)
    members, others = members.some(rng), others.some(rng)
    x, y = members.values[:, None], others.values[None]
    wins = (x < y) + 0.5 * (x == y)  # (n, m)
    u, v = _weights(members.groups, rng), _weights(others.groups, rng)
    resampled = ((u @ wins) * v).sum(1) / (u.sum(1) * v.sum(1))
    low, high = percentiles(resampled)
    return Attack(
        name=name,
        auc=float(wins.mean()),
        low=low,
        high=high,
        true_positive_rate=_true_positives(members.values, others.values),
        members=len(members.values),
        others=len(others.values),
        member_groups=len(set(members.groups)),
        other_groups=len(set(others.groups)),
    )


def verdict_of(attacks: Sequence[Attack]) -> Verdict:
    """fail: an interval lies above SUBSTANTIAL; pass: all hold 0.5 or less and end below SUBSTANTIAL; else look.

    With fewer than FEW images a side none passes; with fewer than FEW_GROUPS groups a side none passes or fails.
    """
    if any(one.low > SUBSTANTIAL and not has_few_groups(one) for one in attacks):
        return "fail"
    if any(min(one.members, one.others) < FEW or has_few_groups(one) for one in attacks):
        return "look"
    return "pass" if all(one.low <= 0.5 and one.high <= SUBSTANTIAL for one in attacks) else "look"


def has_few_groups(of: Attack) -> bool:
    """Whether the groups of a side are too few for its interval to be gone by."""
    return min(of.member_groups, of.other_groups) < FEW_GROUPS


def _weights(groups: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    """How often each image is in a resample of groups, (RESAMPLES, N)."""
    _, of_group = np.unique(np.array(groups), return_inverse=True)
    return draw_weights(int(of_group.max()) + 1, RESAMPLES, rng)[:, of_group]


def _true_positives(members: np.ndarray, others: np.ndarray) -> float | None:
    """Share of members with a lower score than all but FALSE_POSITIVES of the others; None with too few of these."""
    allowed = int(FALSE_POSITIVES * len(others) + 1e-9)
    if not allowed:
        return None
    return float((members < np.sort(others)[allowed]).mean())
