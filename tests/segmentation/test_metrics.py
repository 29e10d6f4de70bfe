"""Overlap scores against loops over pixels and thresholds."""

import math

import numpy as np
import pytest
import torch

from siamdiff.segmentation.metrics import (
    DEFINITIONS,
    dice_per_image,
    iou_per_image,
    over_thresholds,
    scores_per_image,
)


def some(seed: int = 0, count: int = 4, side: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities and masks, both (N, 1, H, W)."""
    rng = np.random.default_rng(seed)
    masks = rng.random((count, 1, side, side)) < 0.3
    predicted = np.clip(0.4 * masks + rng.random(masks.shape) * 0.6, 0, 1)
    return torch.from_numpy(predicted).float(), torch.from_numpy(masks).float()


def overlap(found: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Dice and IoU by counting."""
    both = sum(bool(f and t) for f, t in zip(found.flat, truth.flat, strict=True))
    either = sum(bool(f or t) for f, t in zip(found.flat, truth.flat, strict=True))
    return 2 * both / (found.sum() + truth.sum()), both / either


def by_loops(predicted: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Mean Dice and IoU over 256 thresholds of one image, as its definition reads."""
    low, high = predicted.min(), predicted.max()
    grey = np.zeros_like(predicted) if high == low else (predicted - low) / (high - low)
    saved = np.round(grey * 255).astype(int)
    pairs = [overlap(saved >= t, truth) for t in range(256)]
    return float(np.mean([dice for dice, _ in pairs])), float(np.mean([iou for _, iou in pairs]))


def test_scores_at_one_half_are_those_of_a_loop() -> None:
    predicted, masks = some()
    for i, (dice, iou) in enumerate(
        zip(dice_per_image(predicted, masks), iou_per_image(predicted, masks), strict=True)
    ):
        expected = overlap(predicted[i].numpy() >= 0.5, masks[i].numpy() > 0)
        assert (float(dice), float(iou)) == pytest.approx(expected)


@pytest.mark.parametrize("change", ["as it is", "constant", "narrow", "certain", "nothing in common"])
def test_scores_over_256_thresholds_are_those_of_a_loop(change: str) -> None:
    predicted, masks = some(seed=1)
    if change == "constant":
        predicted[:] = 0.7
    if change == "narrow":
        predicted = 0.2 + predicted / 50
    if change == "certain":
        predicted = masks.clone()
    if change == "nothing in common":
        predicted = 1 - masks
    dice, iou = over_thresholds(predicted, masks)
    for i in range(len(masks)):
        expected = by_loops(predicted[i].numpy(), masks[i].numpy() > 0)
        assert (float(dice[i]), float(iou[i])) == pytest.approx(expected, rel=1e-9)
    if change == "certain":  # but for t = 0, at which everything is foreground
        assert float(dice[0]) > 0.99


def test_a_certain_answer_has_the_dice_of_its_own_mask_but_for_the_lowest_threshold() -> None:
    masks = torch.zeros(1, 1, 4, 4)
    masks[..., :2] = 1
    dice, iou = over_thresholds(masks, masks)
    assert float(dice[0]) == pytest.approx((255 * 1 + 2 / 3) / 256)
    assert float(iou[0]) == pytest.approx((255 * 1 + 1 / 2) / 256)


def test_images_without_a_lesion_have_no_score() -> None:
    predicted, masks = some()
    masks[1] = 0
    predicted[2] = 0
    scores = scores_per_image(predicted, masks)
    assert list(scores) == list(DEFINITIONS)
    for values in scores.values():
        assert [math.isnan(value) for value in values] == [False, True, False, False]
    assert float(scores["dice_at_0.5"][2]) == float(scores["iou_at_0.5"][2]) == 0
