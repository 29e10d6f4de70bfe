"""Image/mask pairs of shard sets, at the side at which the networks see them."""

import functools
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from siamdiff.data.shardset import ShardSet
from siamdiff.segmentation.metrics import scores_per_image
from siamdiff.segmentation.train import predict, to_tensors

CACHE_BYTES = (
    2**30
)  # of decoded pairs in one process; decoding them at every step would take longer than a small net
_SCORED_AT_A_TIME = 16


class Pairs:
    """Pairs of several shard sets by position, resized; the same pair may come several times.

    Args:
        parts: sets and keys, one after the other.
        side: of the arrays, pixels.
    """

    def __init__(self, parts: Sequence[tuple[ShardSet, Sequence[str]]], side: int) -> None:
        self._sets = [shard_set for shard_set, _ in parts]
        self._places = [(i, key) for i, (_, keys) in enumerate(parts) for key in keys]
        self._side = side
        self._one = functools.lru_cache(max(1, CACHE_BYTES // (4 * side * side)))(self._read_one)

    def __len__(self) -> int:
        return len(self._places)

    def read(self, positions: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 (n, side, side, 3) RGB and masks uint8 (n, side, side) in {0, 255}."""
        images, masks = zip(*(self._one(*self._places[i]) for i in positions), strict=True)
        return np.stack(images), np.stack(masks)

    def in_parts(self, size: int = _SCORED_AT_A_TIME) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All pairs in order, `size` at a time."""
        for start in range(0, len(self), size):
            yield self.read(range(start, min(start + size, len(self))))

    def _read_one(self, number: int, key: str) -> tuple[np.ndarray, np.ndarray]:
        sample = self._sets[number].read(key)
        return resized(sample.image, sample.mask, self._side)


def resized(image: np.ndarray, mask: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """A square pair, uint8 (S, S, 3) and (S, S), at another side: bilinear with antialias, the mask cut at a half."""
    if image.shape[0] == side:
        return image, mask
    size, bilinear = (side, side), Image.Resampling.BILINEAR
    small = np.asarray(Image.fromarray(mask).resize(size, bilinear))
    return np.asarray(Image.fromarray(image).resize(size, bilinear)), np.where(small >= 128, 255, 0).astype(
        np.uint8
    )


def score(
    network: nn.Module, shard_set: ShardSet, keys: Sequence[str], side: int, device: str
) -> tuple[dict[str, list[float]], int]:
    """Every score of each image, NaN where its mask is empty, and in how many of those a lesion was seen at 0.5.

    The network sees images of `side` pixels; its probabilities are brought to the stored size (bilinear) and compared
    with the stored masks.
    """
    scores: dict[str, list[float]] = {}
    false_alarms = 0
    for start in range(0, len(keys), _SCORED_AT_A_TIME):
        samples = [shard_set.read(key) for key in keys[start : start + _SCORED_AT_A_TIME]]
        seen = np.stack([resized(sample.image, sample.mask, side)[0] for sample in samples])
        masks = np.stack([sample.mask for sample in samples])
        predicted = predict(network, seen, device)
        if predicted.shape[2:] != masks.shape[1:]:
            predicted = F.interpolate(predicted, size=masks.shape[1:], mode="bilinear", align_corners=False)
        truth = to_tensors(seen[:0], masks, "cpu")[1]
        for name, values in scores_per_image(predicted, truth).items():
            scores.setdefault(name, []).extend(values.double().tolist())
        is_empty = truth.flatten(1).sum(1) == 0
        false_alarms += int((predicted[is_empty] >= 0.5).flatten(1).any(1).sum())
    return scores, false_alarms


def parameter_count(network: nn.Module) -> int:
    """Number of trained values."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def scores_as_arrays(scores: dict[str, list[float | None]]) -> dict[str, np.ndarray]:
    """Scores as JSON has them, None for no score, as float (images,) with NaN."""
    return {
        name: torch.tensor([torch.nan if value is None else value for value in values]).double().numpy()
        for name, values in scores.items()
    }
