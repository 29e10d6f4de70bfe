"""Overlap of predicted and true masks, under exact names."""

import torch
from monai.metrics.meandice import DiceMetric


def dice_per_image(predicted: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Dice of the foreground of each image, float (N,): 2 |P and M| / (|P| + |M|).

    Args:
        predicted: probabilities (N, 1, H, W) in [0, 1]; a pixel is foreground from 0.5 on.
        masks: (N, 1, H, W) in {0, 1}. An image whose mask is empty has no foreground Dice: NaN.
    """
    metric = DiceMetric(
        include_background=True, reduction="none", ignore_empty=True
    )  # the one channel is foreground
    return torch.as_tensor(metric((predicted >= 0.5).float(), masks)).flatten()  # (N,)
