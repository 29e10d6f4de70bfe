"""Nearest training images of a synthetic set, and nearest synthetic images of real ones, in one pass over the set."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from siamdiff.data.shardset import ShardSet
from siamdiff.privacy.inputs import TRAIN
from siamdiff.privacy.record import Attack, Membership, Nearness, Pair, Share, Spread
from siamdiff.privacy.spaces import CHUNK, Compared, Distances, Embedder, Views, calibrate, of_other_groups
from siamdiff.privacy.spaces import joined as joined_views
from siamdiff.privacy.statistics import (
    FALSE_POSITIVES,
    FEW,
    FEW_GROUPS,
    SUBSTANTIAL,
    Scores,
    attack,
    has_few_groups,
    share_of,
    verdict_of,
)
from siamdiff.privacy.text import text_suspicion
from siamdiff.report.pictures import annotation

PERCENTILES = (1, 5, 25, 50, 75, 95)
SHOWN = 12  # nearest pairs that the record names, at least; all that are over are named in `over_keys`


@dataclass(frozen=True)
class Real:
    """The real images of a set: first the training images, then the held-out ones, each sorted by key."""

    keys: list[str]
    groups: list[str]
    members: int  # how many of them are training images
    views: Views
    annotations: frozenset[bytes]  # masks of the training images, in whichever position
    suspected: int  # training images that look as if they bore text


@dataclass(frozen=True)
class _Nearest:
    """Of n synthetic images."""

    features: np.ndarray  # smallest distance to a training image, (n,)
    pixels: np.ndarray
    closeness: np.ndarray  # the smaller of both by its limit, rounded
    row: np.ndarray  # the training image of that, (n,)


def read_real(real: ShardSet, embed: Embedder) -> Real:
    """All images of a real set in both spaces; one chunk of them is held as pixels."""
    train = real.keys(TRAIN)
    keys = train + sorted(set(real.keys()) - set(train))
    parts, annotations, suspected = [], set(), 0
    for start in range(0, len(keys), CHUNK):
        samples = [real.read(key) for key in keys[start : start + CHUNK]]
        parts.append(embed(np.stack([sample.image for sample in samples])))
        for sample in samples[: max(0, len(train) - start)]:
            annotations.add(annotation(sample.mask))
            suspected += text_suspicion(sample.image).is_suspected
    columns = zip(real.index["key"].to_pylist(), real.index["group"].to_pylist(), strict=True)
    group_of = dict(columns)
    groups = [group_of[key] for key in keys]
    return Real(keys, groups, len(train), joined_views(parts), frozenset(annotations), suspected)


class Neighbours:
    """Takes a synthetic set chunk by chunk, and keeps the nearest of all.

    Args:
        real: what it is compared with.
        quantile: share of new groups that may be over the threshold, in each space.
        device: "cpu" or "cuda".
    """

    def __init__(self, real: Real, quantile: float, device: str) -> None:
        self.real, self.quantile = real, quantile
        self._compared = Compared(real.views, device)
        training = Compared(real.views[: real.members], device)
        groups = real.groups[: real.members]
        self._of_others = of_other_groups(training, groups)
        self.limits = calibrate(self._of_others, groups, quantile)
        self._keys: list[str] = []
        self._found: list[_Nearest] = []
        # of each real image to the nearest synthetic one
        self._from_real = Distances(*(np.full(len(real.keys), np.inf, np.float32) for _ in range(2)))

    def add(self, keys: Sequence[str], views: Views) -> None:
        """Takes some images of the synthetic set."""
        found = self._compared.distances(views)
        self._keys += keys
        self._found.append(self._nearest(found))
        for nearest, of in (
            (self._from_real.features, found.features),
            (self._from_real.pixels, found.pixels),
        ):
            np.minimum(nearest, of.min(0), out=nearest)

    def _nearest(self, found: Distances) -> _Nearest:
        to_training = Distances(found.features[:, : self.real.members], found.pixels[:, : self.real.members])
        closeness = to_training.closeness(self.limits)
        row = closeness.argmin(1)
        return _Nearest(
            to_training.features.min(1), to_training.pixels.min(1), closeness[np.arange(len(row)), row], row
        )

    def nearness(self, doubt: str) -> tuple[Nearness, list[Pair]]:
        """The check, and all pairs that are over the threshold, nearest first; at least SHOWN pairs.

        Args:
            doubt: why the training set may be the wrong one; "" if it is not.
        """
        found = self._all()
        over = found.closeness <= 1
        order = np.argsort(found.closeness, kind="stable")
        shown = order[: max(SHOWN, int(over.sum()))]
        pairs = [self._pair(found, int(i)) for i in shown]
        keys = [self._keys[i] for i in order[: int(over.sum())]]
        held_out = self._held_out_over()
        share = share_of(int(over.sum()), len(over))
        verdict = "fail" if keys else "look" if doubt or not self.limits.rank else "pass"
        nearness = Nearness(
            verdict=verdict,
            said=self._said(len(keys), len(over), doubt),
            quantile=self.quantile,
            limit_features=rounded(self.limits.features),
            limit_pixels=rounded(self.limits.pixels),
            basis=self._basis(),
            over=share,
            over_keys=keys,
            held_out_over=held_out,
            synthetic_spread=_spread(found.features, found.pixels),
            real_spread=_spread(*self._of_others) if self.limits.groups > 1 else None,
            nearest=pairs[:SHOWN],
        )
        return nearness, pairs

    def _all(self) -> _Nearest:
        parts = self._found
        return _Nearest(
            *(
                np.concatenate([getattr(one, name) for one in parts])
                for name in ("features", "pixels", "closeness", "row")
            )
        )

    def _pair(self, found: _Nearest, place: int) -> Pair:
        return Pair(
            key=self._keys[place],
            training=self.real.keys[found.row[place]],
            features=rounded(found.features[place]),
            pixels=rounded(found.pixels[place]),
            closeness=rounded(found.closeness[place]),
            over=bool(found.closeness[place] <= 1),
        )

    def _held_out_over(self) -> Share | None:
        real, over = self.real, 0
        held = len(real.keys) - real.members
        if not held:
            return None
        for start in range(real.members, len(real.keys), CHUNK):
            found = self._compared.distances(real.views[start : start + CHUNK])
            over += int((self._nearest(found).closeness <= 1).sum())
        return share_of(over, held)

    def _basis(self) -> str:
        if 1 < self.limits.groups == self.limits.images:
            return f"{self.limits.basis}; every training image is a group of its own"
        return self.limits.basis

    def _said(self, over: int, of: int, doubt: str) -> str:
        told = f"No image of {of:,} comes" if not over else f"{over:,} of {of:,} images come"
        told += " nearer to a training image than real images of different groups come to each other."
        if over:
            told += " Look at them, or write a set without them."
        if not self.limits.rank:
            told += (
                f" There are {self.limits.groups} groups of training images, too few for the threshold that was asked "
                "for: it is a makeshift."
            )
        return f"{told} {doubt}".strip()

    def membership(self) -> Membership:
        """Whether training images are nearer to the synthetic set than held-out ones are."""
        real, members = self.real, self.real.members
        held = len(real.keys) - members
        if not held:
            return Membership(verdict="not done", said="The real set has no held-out images (val or test).")
        attacks = [
            attack(
                name,
                Scores(values[:members], real.groups[:members]),
                Scores(values[members:], real.groups[members:]),
                seed=0,
            )
            for name, values in (
                ("nearest in features", self._from_real.features),
                ("nearest in pixels", self._from_real.pixels),
            )
        ]
        return membership_of(attacks, real, "nearer to the synthetic set")


def membership_of(attacks: Sequence[Attack], real: Real, how: str) -> Membership:
    """What attacks say; `how`: what a training image would be, "nearer to the synthetic set"."""
    groups = len(set(real.groups[: real.members]))
    held_out = len(set(real.groups[real.members :]))
    verdict = verdict_of(attacks)
    leading = max(attacks, key=lambda one: one.auc)
    told = (
        f"Of a training image and a held-out one, the first is {how} in {leading.auc:.0%} of pairs "
        f"({leading.low:.0%} to {leading.high:.0%}); half would be chance."
    )
    if verdict == "pass":
        told += " That is evidence of no leak on average, no proof for each image."
    elif min(leading.members, leading.others) < FEW:
        told += f" With fewer than {FEW} images a side that says nothing."
    elif has_few_groups(leading):
        told += (
            f" These are images of {leading.member_groups:,} training and {leading.other_groups:,} held-out groups "
            f"(patients, videos); with fewer than {FEW_GROUPS} a side the interval says little about people."
        )
    elif verdict == "look" and leading.low <= 0.5:
        told += f" There are too few images to exclude {SUBSTANTIAL:.0%}."
    if leading.true_positive_rate is None:
        told += (
            f" {leading.others} held-out images are too few to tell how many training images would be named at "
            f"{FALSE_POSITIVES:.0%} of false alarms."
        )
    return Membership(
        verdict=verdict, said=told, attacks=list(attacks), groups=groups, held_out_groups=held_out
    )


def rounded(value: float) -> float:
    """Four places: further ones depend on the machine."""
    return round(float(value), 4) + 0.0


def _spread(features: np.ndarray, pixels: np.ndarray) -> Spread:
    return Spread(
        features=tuple(rounded(value) for value in np.percentile(features, PERCENTILES)),
        pixels=tuple(rounded(value) for value in np.percentile(pixels, PERCENTILES)),
    )
