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
    mean_real, n_real = _mean(_score(judge.network, held_out, device))
    return {name: _agreement(judge, mean_real, n_real, pairs, device) for name, pairs in synthetic.items()}


def _agreement(judge: Judge, real: float | None, n_real: int, synthetic: Pairs, device: str) -> Agreement:
    per_sample = _score(judge.network, synthetic, device)
    mean, count = _mean(per_sample)
    return Agreement(
        synthetic=mean,
        n_synthetic=count,
        real=real,
        n_real=n_real,
        n_train=judge.n_train,
        steps=judge.steps,
        batch_size=BATCH_SIZE,
        seed=judge.seed,
        max_side=MAX_SIDE,
        network=NETWORK,
        definition=DEFINITION,
        per_sample=per_sample,
    )


def shrink(image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A square pair, uint8 (S, S, 3) and (S, S), by area means to MAX_SIDE pixels a side; smaller ones as they are."""
    if image.shape[0] <= MAX_SIDE:
        return image, mask
    x = torch.from_numpy(np.concatenate([image, mask[..., None]], 2)).permute(2, 0, 1)[None].float()
    small = F.interpolate(x, size=(MAX_SIDE, MAX_SIDE), mode="area")[0].permute(1, 2, 0).round().numpy()
    return small[..., :3].astype(np.uint8), np.where(small[..., 3] >= 128, 255, 0).astype(np.uint8)


def _score(network: nn.Module, pairs: Pairs, device: str) -> dict[str, float]:
    scores: dict[str, float] = {}
    for start in range(0, len(pairs.keys), BATCH_SIZE):
        positions = range(start, min(start + BATCH_SIZE, len(pairs.keys)))
        images, masks = pairs.read(positions)
        dice = dice_per_image(predict(network, images, device), to_tensors(images, masks, "cpu")[1])
        scores |= dict(zip((pairs.keys[i] for i in positions), dice.tolist(), strict=True))
    return scores


def _mean(scores: dict[str, float]) -> tuple[float | None, int]:
    finite = [score for score in scores.values() if not math.isnan(score)]
    return (float(np.mean(finite)), len(finite)) if finite else (None, 0)
