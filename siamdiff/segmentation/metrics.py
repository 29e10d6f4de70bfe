"""Overlap of predicted and true masks, of the foreground alone, under exact names.

An image whose true mask is empty has no foreground to overlap with: all its scores are NaN, and it counts elsewhere.
"""

import torch

LEVELS = 256
DEFINITIONS = {
    "dice_at_0.5": "mean over images of 2 |P and M| / (|P| + |M|), P: probability of at least 0.5",
    "iou_at_0.5": "mean over images of |P and M| / |P or M|, P: probability of at least 0.5",
    "dice_256_thresholds": "mean over images of the mean over t = 0..255 of the Dice of P(t): probabilities, stretched "
    "to [0, 1] in each image and rounded to k/255, of at least t/255 (meanDic of the polyp literature)",
    "iou_256_thresholds": "likewise of the IoU (meanIoU of the polyp literature)",
}
EMPTY = "images whose true mask is empty are left out of all four scores, and counted beside them"


def dice_per_image(predicted: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Dice of the foreground of each image, float (N,): 2 |P and M| / (|P| + |M|).

    Args:
        predicted: probabilities (N, 1, H, W) in [0, 1]; a pixel is foreground from 0.5 on.
        masks: (N, 1, H, W) in {0, 1}. An image whose mask is empty has no foreground Dice: NaN.
    """
    from monai.metrics.meandice import DiceMetric  # seconds, which definitions need not wait for

    metric = DiceMetric(
        include_background=True, reduction="none", ignore_empty=True
    )  # the one channel is foreground
    return torch.as_tensor(metric((predicted >= 0.5).float(), masks)).flatten()  # (N,)


def iou_per_image(predicted: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Intersection over union of the foreground of each image, float (N,); arguments as for `dice_per_image`."""
    from monai.metrics.meaniou import MeanIoU

    metric = MeanIoU(include_background=True, reduction="none", ignore_empty=True)
    return torch.as_tensor(metric((predicted >= 0.5).float(), masks)).flatten()  # (N,)


def over_thresholds(predicted: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Dice and IoU of each image, float (N,) each, averaged over 256 thresholds, as the polyp literature has them.

    The probabilities of an image are stretched to [0, 1] (a constant image becomes 0) and rounded to k/255, as they
    would be if saved as a grey image; P(t), t = 0..255, are the pixels of at least t/255. P(0) is the whole image.

    Args:
        predicted: probabilities (N, 1, H, W).
        masks: (N, 1, H, W) in {0, 1}.
    """
    low, high = predicted.amin((1, 2, 3), True), predicted.amax((1, 2, 3), True)
    span = torch.where(high > low, high - low, torch.ones_like(low))
    levels = ((predicted - low) / span * (LEVELS - 1)).round().long().flatten(1)  # (N, pixels) in 0..255
    truth = masks.flatten(1).bool()
    # One histogram per image and class instead of 256 comparisons: pixels of at least t are its sum from t on.
    bins = levels + LEVELS * (~truth)  # lesion first, then background
    counts = torch.stack([torch.bincount(row, minlength=2 * LEVELS) for row in bins]).double()  # (N, 512)
    above = counts.view(-1, 2, LEVELS).flip(2).cumsum(2).flip(2)  # (N, 2, 256): pixels of at least t
    hit, predicted_area, area = above[:, 0], above.sum(1), truth.sum(1, keepdim=True)
    dice = (2 * hit / (predicted_area + area)).mean(1)
    iou = (hit / (predicted_area + area - hit)).mean(1)
    nothing = torch.full_like(dice, torch.nan)
    is_empty = area[:, 0] == 0
    return torch.where(is_empty, nothing, dice), torch.where(is_empty, nothing, iou)


def scores_per_image(predicted: torch.Tensor, masks: torch.Tensor) -> dict[str, torch.Tensor]:
    """Every score of DEFINITIONS of each image, float (N,); arguments as for `dice_per_image`."""
    dice, iou = over_thresholds(predicted, masks)
    return {
        "dice_at_0.5": dice_per_image(predicted, masks),
        "iou_at_0.5": iou_per_image(predicted, masks),
        "dice_256_thresholds": dice,
        "iou_256_thresholds": iou,
    }
