"""Pairs of shard sets as the networks see them, and their scores at the size at which they are stored."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from siamdiff.data.shards import shard_name
from siamdiff.segmentation.metrics import DEFINITIONS
from siamdiff.segmentation.pairs import Pairs, resized, score
from siamdiff.segmentation.train import mean_dice
from tests.segmentation.sets import SIDE, finish, pair, real_set


class Bright(nn.Module):
    """Sees a lesion where an image is bright."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 20 * x.mean(1, keepdim=True)


def test_pairs_come_in_order_resized_and_as_often_as_named(tmp_path: Path) -> None:
    real = real_set(f"{tmp_path}/real")
    train, val = real.keys("train"), real.keys("val")
    pairs = Pairs([(real, train * 2), (real, val)], 16)
    assert len(pairs) == 2 * len(train) + len(val)
    images, masks = pairs.read([1, len(train) + 1, 2 * len(train)])
    assert images.shape == (3, 16, 16, 3) and masks.shape == (3, 16, 16)
    assert np.array_equal(images[0], images[1])
    last = real.read(val[0])
    assert np.array_equal(images[2], resized(last.image, last.mask, 16)[0])
    assert sum(len(part[0]) for part in pairs.in_parts(4)) == len(pairs)


def test_scores_are_taken_at_the_stored_size(tmp_path: Path) -> None:
    samples = [pair(i, "test") for i in range(3)]
    real = finish(f"{tmp_path}/real", {shard_name("test", 0): samples}, "real")
    whole, _ = score(Bright(), real, real.keys(), SIDE, "cpu")
    assert list(whole) == list(DEFINITIONS)
    small, _ = score(Bright(), real, real.keys(), SIDE // 2, "cpu")
    sample = real.read(real.keys()[0])
    seen = resized(sample.image, sample.mask, SIDE // 2)[0]
    x = torch.from_numpy(seen.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    up = nn.functional.interpolate(Bright()(x).sigmoid(), size=(SIDE, SIDE), mode="bilinear")
    found, truth = up[0, 0].numpy() >= 0.5, sample.mask > 0
    expected = 2 * (found & truth).sum() / (found.sum() + truth.sum())
    assert small["dice_at_0.5"][0] == pytest.approx(expected)
    assert small["dice_at_0.5"] != whole["dice_at_0.5"]


def test_false_alarms_are_lesions_seen_where_there_is_none(tmp_path: Path) -> None:
    samples = []
    for seed, level in enumerate((0, 255, 255)):
        image = np.full((SIDE, SIDE, 3), level, np.uint8)
        image[0, 0] = seed  # no two alike
        samples.append(pair(0, "test", arrays=(image, np.zeros((SIDE, SIDE), np.uint8))))
    samples.append(pair(1, "test"))
    real = finish(f"{tmp_path}/real", {shard_name("test", 0): samples}, "real")
    scores, false_alarms = score(Bright(), real, real.keys(), SIDE, "cpu")
    assert false_alarms == 2
    assert sum(math.isnan(value) for value in scores["dice_at_0.5"]) == 3
    assert mean_dice(Bright(), Pairs([(real, real.keys())], SIDE).in_parts) == pytest.approx(
        next(value for value in scores["dice_at_0.5"] if not math.isnan(value))
    )
    empty = [key for key, value in zip(real.keys(), scores["dice_at_0.5"], strict=True) if math.isnan(value)]
    assert mean_dice(Bright(), Pairs([(real, empty)], SIDE).in_parts) == 0
