"""Training and use of a segmentation network."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from monai.losses.dice import DiceCELoss
from torch import nn

Batch = Callable[[Sequence[int]], tuple[np.ndarray, np.ndarray]]
"""Reads samples by position: images uint8 (n, H, W, 3) RGB and masks uint8 (n, H, W) in {0, 255}."""

PEAK_LEARNING_RATE = 5e-3


def train_segmenter(
    build: Callable[[], nn.Module],
    read: Batch,
    count: int,
    *,
    steps: int,
    seed: int,
    batch_size: int = 16,
    device: str = "cpu",
) -> nn.Module:
    """Trains a network on Dice plus cross-entropy; the result depends on the arguments alone.

    Each step takes `batch_size` samples drawn with replacement, mirrored left to right and top to bottom with
    probability 1/2 each. AdamW under a one-cycle schedule.

    Args:
        build: makes the network, (n, 3, H, W) in [-1, 1] to logits (n, 1, H, W).
        read: the training samples.
        count: how many there are.
    """
    rng = np.random.default_rng([seed, 0x5E6])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build().to(device).train()
    loss = DiceCELoss(sigmoid=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=PEAK_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, total_steps=max(steps, 2))
    for _ in range(steps):
        images, masks = read([int(i) for i in rng.integers(count, size=batch_size)])
        flips = tuple(axis for axis in (1, 2) if rng.random() < 0.5)
        x, y = to_tensors(np.flip(images, flips), np.flip(masks, flips), device)
        optimizer.zero_grad()
        loss(network(x), y).backward()
        optimizer.step()
        schedule.step()
    return network.eval()


@torch.inference_mode()
def predict(network: nn.Module, images: np.ndarray, device: str = "cpu") -> torch.Tensor:
    """Probabilities of the lesion, (N, 1, H, W) in [0, 1] on the CPU, of images uint8 (N, H, W, 3)."""
    x, _ = to_tensors(images, np.empty((0, 1, 1), np.uint8), device)
    return network(x).sigmoid().cpu()


def to_tensors(images: np.ndarray, masks: np.ndarray, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Images uint8 (N, H, W, 3) as (N, 3, H, W) in [-1, 1], masks uint8 (N, H, W) as (N, 1, H, W) in {0, 1}."""
    x = torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    y = torch.from_numpy(np.ascontiguousarray(masks)).to(device)[:, None] >= 128
    return x, y.float()
