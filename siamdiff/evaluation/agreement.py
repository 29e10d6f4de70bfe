"""Mask agreement: does a segmenter that knows real images find, in synthetic ones, the masks they were made from?"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from siamdiff.data.shardset import ShardSet
from siamdiff.errors import SiamdiffError
from siamdiff.evaluation.sizes import SIZES
from siamdiff.segmentation.metrics import dice_per_image
from siamdiff.segmentation.networks import SMALL_UNET, unet
from siamdiff.segmentation.train import predict, to_tensors, train_segmenter

MAX_SIDE = 128  # larger images are shrunk: the question is where the lesion is, not its border to the pixel
BATCH_SIZE = 16
DEFINITION = (
    "mean over images of the foreground Dice at threshold 0.5; images without foreground are left out"
)
NETWORK = f"MONAI BasicUNet {SMALL_UNET}"
_CACHED_PAIRS = 2048  # at most 128 MiB; decoding them again at every step would take longer than training


class Pairs(Protocol):
    """Image/mask pairs by position."""

    keys: Sequence[str]

    def read(self, positions: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 (n, H, W, 3) RGB and masks uint8 (n, H, W) in {0, 255}."""
        ...


class ShardPairs:
    """Pairs of a shard set, shrunk to at most MAX_SIDE pixels a side."""

    def __init__(self, shard_set: ShardSet, keys: Sequence[str]) -> None:
        self.keys = keys
        self._set = shard_set
        self._one = functools.lru_cache(_CACHED_PAIRS)(self._read_one)

    def read(self, positions: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 (n, side, side, 3) RGB and masks uint8 (n, side, side) in {0, 255}."""
        images, masks = zip(*(self._one(self.keys[i]) for i in positions), strict=True)
        return np.stack(images), np.stack(masks)

    def _read_one(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        sample = self._set.read(key)
        return shrink(sample.image, sample.mask)


@dataclass(frozen=True)
class OfSize:
    """Agreement on masks of one size."""

    name: str
    up_to: float  # share of the image's pixels; more than the size before
    synthetic: float | None  # None: no synthetic pair of that size
    n_synthetic: int
    real: float | None  # None: no held-out real pair of that size
    n_real: int


@dataclass(frozen=True)
class Agreement:
    """Dice of one segmenter on held-out real pairs (its ceiling) and on synthetic ones."""

    synthetic: float | None  # None: no synthetic pair with foreground
    n_synthetic: int
    real: float | None  # None: no held-out real pair
    n_real: int
    n_train: int
    steps: int
    batch_size: int
    seed: int
    max_side: int  # pixels; larger images were shrunk to it
    network: str
    definition: str
    by_size: list[OfSize]
    per_sample: dict[str, float]  # synthetic key -> Dice; NaN where the mask is empty

    def as_dict(self) -> dict[str, Any]:
        """The summary as plain values for JSON, without the samples."""
        values = asdict(self)
        del values["per_sample"]
        return values


@dataclass(frozen=True)
class Judge:
    """A small segmenter that was trained on real pairs, and how."""

    network: nn.Module
    n_train: int
    steps: int
    seed: int

    @classmethod
    def train(cls, pairs: Pairs, *, steps: int, seed: int, device: str = "cpu") -> "Judge":
        """Trains one; it depends on the arguments alone.

        Raises:
            SiamdiffError: no training pair.
        """
        if not pairs.keys:
            raise SiamdiffError("mask agreement needs real training pairs; the train split is empty")
        network = train_segmenter(
            unet, pairs.read, len(pairs.keys), steps=steps, seed=seed, batch_size=BATCH_SIZE, device=device
        )
        return cls(network, len(pairs.keys), steps, seed)


def measure_agreement(
    judge: Judge, held_out: Pairs, synthetic: Mapping[str, Pairs], device: str = "cpu"
) -> dict[str, Agreement]:
    """The agreement of every named synthetic set; held-out real pairs are scored once for all of them."""
    real = _score(judge.network, held_out, device)
    return {
        name: _agreement(judge, real, _score(judge.network, pairs, device))
        for name, pairs in synthetic.items()
    }


@dataclass(frozen=True)
class _Scores:
    """Dice of each pair, and the share of the image that its mask covers."""

    dice: dict[str, float]
    shares: dict[str, float]

    def mean(self, above: float = 0.0, up_to: float = 1.0) -> tuple[float | None, int]:
        """Over pairs whose masks cover more than `above`, and their count."""
        found = [
            dice
            for key, dice in self.dice.items()
            if not math.isnan(dice) and above < self.shares[key] <= up_to
        ]
        return (float(np.mean(found)), len(found)) if found else (None, 0)


def _agreement(judge: Judge, real: _Scores, synthetic: _Scores) -> Agreement:
    mean, count = synthetic.mean()
    mean_real, n_real = real.mean()
    by_size = []
    above = 0.0
    for name, up_to in SIZES:
        by_size.append(OfSize(name, up_to, *synthetic.mean(above, up_to), *real.mean(above, up_to)))
        above = up_to
    return Agreement(
        synthetic=mean,
        n_synthetic=count,
        real=mean_real,
        n_real=n_real,
        n_train=judge.n_train,
        steps=judge.steps,
        batch_size=BATCH_SIZE,
        seed=judge.seed,
        max_side=MAX_SIDE,
        network=NETWORK,
        definition=DEFINITION,
        by_size=by_size,
        per_sample=synthetic.dice,
    )


def shrink(image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A square pair, uint8 (S, S, 3) and (S, S), by area means to MAX_SIDE pixels a side; smaller ones as they are."""
    if image.shape[0] <= MAX_SIDE:
        return image, mask
    x = torch.from_numpy(np.concatenate([image, mask[..., None]], 2)).permute(2, 0, 1)[None].float()
    small = F.interpolate(x, size=(MAX_SIDE, MAX_SIDE), mode="area")[0].permute(1, 2, 0).round().numpy()
    return small[..., :3].astype(np.uint8), np.where(small[..., 3] >= 128, 255, 0).astype(np.uint8)


def _score(network: nn.Module, pairs: Pairs, device: str) -> _Scores:
    scores = _Scores({}, {})
    for start in range(0, len(pairs.keys), BATCH_SIZE):
        positions = range(start, min(start + BATCH_SIZE, len(pairs.keys)))
        images, masks = pairs.read(positions)
        dice = dice_per_image(predict(network, images, device), to_tensors(images, masks, "cpu")[1])
        keys = [pairs.keys[i] for i in positions]
        scores.dice.update(zip(keys, dice.tolist(), strict=True))
        scores.shares.update(zip(keys, (masks >= 128).mean((1, 2)).tolist(), strict=True))
    return scores
