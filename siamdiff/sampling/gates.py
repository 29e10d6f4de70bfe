"""What a sample must pass: no copy of a training image, not blank, and its mask where a segmenter sees it.

A gate tells its figure, and `rejected_GATE` with the value 1 where the sample did not pass. A rejected sample is drawn
again from further noise, `Gates.redraws` times at most; the last draw stays, marked, since every planned sample is
there once. How many may stay so is `generate.max_rejected`.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from siamdiff.data.sample import REJECTED, SampleMeta, Synthetic
from siamdiff.evaluation.copies import CopyFilter
from siamdiff.sections import Gates

DIGITS = 4  # of the figures, by which also is judged: further ones depend on the device

Scores = dict[str, float]
Finder = Callable[[np.ndarray, np.ndarray], list[float]]
"""Dice of what a segmenter finds in images (N, H, W, 3) and of masks (N, H, W); NaN for an empty mask."""


class Gatekeeper:
    """Judges images as they are drawn.

    Args:
        settings: which gates there are, and their limits.
        copies: the copy filter, where that gate is on.
        finder: such as `siamdiff.evaluation.mask_finder.MaskFinder`, where that gate is on.
    """

    def __init__(
        self, settings: Gates, copies: CopyFilter | None = None, finder: Finder | None = None
    ) -> None:
        self.settings, self._copies, self._finder = settings, copies, finder

    def __call__(self, images: np.ndarray, masks: np.ndarray) -> list[Scores]:
        """The scores of each of the images, uint8 (N, H, W, 3), with masks uint8 (N, H, W) in {0, 255}."""
        scores: list[Scores] = [self._blank(image) for image in images]
        if self._copies:
            limits = self._copies.limits
            for of_one, *distances in zip(scores, *self._copies(images), strict=True):
                features, pixels = map(_rounded, distances)
                of_one |= {"copy_distance": features, "copy_pixels": pixels}
                of_one |= _rejected("copy", features <= limits.features or pixels <= limits.pixels)
        if self._finder:
            for of_one, dice in zip(scores, self._finder(images, masks), strict=True):
                if not math.isnan(dice):  # an empty mask has none
                    found = _rounded(dice)
                    of_one |= {"dice": found} | _rejected("dice", found < self.settings.min_dice)
        return scores

    def _blank(self, image: np.ndarray) -> Scores:
        deviation = _rounded(
            image.std((0, 1)).max()
        )  # of the channel that varies most: a flat colour has none
        saturated = _rounded(((image == 0) | (image == 255)).all(-1).mean())
        is_blank = deviation < self.settings.min_deviation or saturated > self.settings.max_saturated
        return {"deviation": deviation, "saturated": saturated} | _rejected("blank", is_blank)


@dataclass
class Tally:
    """How samples fared at the gates."""

    samples: int = 0
    redrawn: int = 0  # samples that took more than one draw
    draws: int = 0  # all of them
    rejected: int = 0  # samples whose last draw did not pass
    by_gate: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, metas: Iterable[SampleMeta]) -> "Tally":
        """Of some samples drawn here."""
        tally = cls()
        for meta in metas:
            origin = meta.synthetic
            assert isinstance(origin, Synthetic), "it was drawn here"
            tally.samples += 1
            tally.redrawn += origin.draw > 0
            tally.draws += 1 + origin.draw
            tally.rejected += bool(origin.rejected)
            tally.by_gate |= {gate: tally.by_gate.get(gate, 0) + 1 for gate in origin.rejected}
        return tally

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.samples + other.samples,
            self.redrawn + other.redrawn,
            self.draws + other.draws,
            self.rejected + other.rejected,
            dict(Counter(self.by_gate) + Counter(other.by_gate)),
        )

    @property
    def reasons(self) -> str:
        """What stayed rejected by gate, most first: "12 copy, 3 blank"; "" if nothing did."""
        return ", ".join(f"{count} {gate}" for gate, count in Counter(self.by_gate).most_common())

    def as_dict(self) -> dict[str, Any]:
        """As plain values for JSON, which make the same tally again."""
        return asdict(self)


def _rounded(value: float) -> float:
    return round(float(value), DIGITS) + 0.0  # not -0.0, of a distance that rounding made negative


def _rejected(gate: str, is_so: bool) -> Scores:
    return {REJECTED + gate: 1.0} if is_so else {}
