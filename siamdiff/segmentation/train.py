"""Training and use of a segmentation network."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import nn

from siamdiff.errors import SiamdiffError
from siamdiff.segmentation.metrics import dice_per_image

Arrays = tuple[np.ndarray, np.ndarray]
Batch = Callable[[Sequence[int]], Arrays]
"""Reads samples by position: images uint8 (n, H, W, 3) RGB and masks uint8 (n, H, W) in {0, 255}."""

PEAK_LEARNING_RATE = 5e-3
RECIPE = (
    "Dice plus cross-entropy (MONAI DiceCELoss), AdamW under a one-cycle schedule; every pair once per pass in a "
    "random order, turned and mirrored to one of its 8 positions"
)


@dataclass(frozen=True)
class Settings:
    """What a training depends on beside its pairs and its network."""

    steps: int
    batch_size: int
    learning_rate: float  # peak of the one-cycle schedule
    validations: int  # looks at the held-out pairs, evenly over the steps; 0: the last weights are kept
    seed: int


@dataclass(frozen=True)
class Trained:
    """A trained network and how it came to be."""

    network: nn.Module  # with the weights that were kept
    step: int  # after which they were taken
    history: list[
        dict[str, float]
    ]  # of every look: step, loss (mean since the last look), dice on held-out pairs


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

    def drawn() -> Iterator[Arrays]:
        while True:
            images, masks = read([int(i) for i in rng.integers(count, size=batch_size)])
            flips = tuple(axis for axis in (1, 2) if rng.random() < 0.5)
            yield np.flip(images, flips), np.flip(masks, flips)

    with _seeded(seed, device):
        network = build().to(device)
        for _ in _optimized(network, islice(drawn(), steps), steps, PEAK_LEARNING_RATE, device):
            pass
    return network.eval()


def train_and_choose(
    build: Callable[[], nn.Module],
    read: Batch,
    count: int,
    settings: Settings,
    held_out: Callable[[nn.Module], float] | None = None,
    device: str = "cpu",
) -> Trained:
    """Trains a network as RECIPE says and keeps the weights that did best on held-out pairs, else the last ones.

    Of several that did equally well, the latest are kept.

    The result depends on the arguments alone, on one type of device.

    Args:
        build: makes the network, (n, 3, H, W) in [-1, 1] to logits (n, 1, H, W), with the seed set.
        read: the training samples, square.
        count: how many there are.
        settings: see there.
        held_out: score of a network in eval mode; the larger the better. None: there is nothing to choose by.

    Raises:
        SiamdiffError: the loss is not finite.
    """
    looks = _looks(settings.steps, settings.validations if held_out else 0)
    history: list[dict[str, float]] = []
    best, best_step, best_score, losses = None, settings.steps, -math.inf, []
    with _seeded(settings.seed, device):
        network = build().to(device)
        stream = islice(batches(read, count, settings.batch_size, settings.seed), settings.steps)
        optimized = _optimized(network, stream, settings.steps, settings.learning_rate, device)
        for step, loss in enumerate(optimized, 1):
            losses.append(loss)
            if step not in looks:
                continue
            entry = {"step": step, "loss": _finite(losses, step)}
            losses = []
            if held_out:
                entry["dice"] = score = held_out(network.eval())
                network.train()
                if score >= best_score:
                    best, best_step, best_score = copy.deepcopy(network.state_dict()), step, score
            history.append(entry)
    if best is not None:
        network.load_state_dict(best)
    return Trained(network.eval(), best_step, history)


def batches(read: Batch, count: int, batch_size: int, seed: int) -> Iterator[Arrays]:
    """Endless batches: pass after pass over all samples in a random order, each in one of its 8 positions.

    A batch may begin in one pass and end in the next. Depends on the arguments alone.
    """
    rng = np.random.default_rng([seed, 0x5E7])
    waiting: list[int] = []
    while True:
        while len(waiting) < batch_size:
            waiting += rng.permutation(count).tolist()
        chosen, waiting = waiting[:batch_size], waiting[batch_size:]
        images, masks = read(chosen)
        turned = [
            (turn(image, int(k)), turn(mask, int(k)))
            for image, mask, k in zip(images, masks, rng.integers(8, size=batch_size), strict=True)
        ]
        yield np.stack([image for image, _ in turned]), np.stack([mask for _, mask in turned])


def turn(array: np.ndarray, position: int) -> np.ndarray:
    """A square array (H, H, ...) in one of its 8 positions: turned by `position` quarters, from 4 on mirrored too."""
    turned = np.rot90(array, position % 4)
    return turned[:, ::-1] if position >= 4 else turned


def mean_dice(network: nn.Module, parts: Callable[[], Iterable[Arrays]], device: str = "cpu") -> float:
    """Mean foreground Dice at 0.5 over the images of all parts that have foreground; 0 where none has."""
    scores = [dice_per_image(predict(network, part[0], device), _truth(part[1])) for part in parts()]
    dice = torch.cat(scores) if scores else torch.empty(0)
    finite = dice[~dice.isnan()]
    return float(finite.mean()) if len(finite) else 0.0


def _truth(masks: np.ndarray) -> torch.Tensor:
    return to_tensors(np.empty((0, 1, 1, 3), np.uint8), masks, "cpu")[1]


def _looks(steps: int, count: int) -> set[int]:
    """After which steps is looked: `count` times, evenly, and at the end in any case."""
    return {round(steps * (i + 1) / count) for i in range(count)} | {steps}


def _finite(losses: list[torch.Tensor], step: int) -> float:
    mean = float(torch.stack(losses).mean())
    if not math.isfinite(mean):
        raise SiamdiffError(
            f"the segmenter's loss is {mean} before step {step}; lower segment.learning_rate, or raise "
            "segment.batch_size"
        )
    return mean


@contextmanager
def _seeded(seed: int, device: str) -> Iterator[None]:
    """Weights and dropout from a seed; the generators of the process are afterwards as they were."""
    cuda = [torch.cuda.current_device()] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        yield


def _optimized(
    network: nn.Module, stream: Iterable[Arrays], steps: int, learning_rate: float, device: str
) -> Iterator[torch.Tensor]:
    """Takes one step per batch of the stream and yields its loss, a scalar on the device."""
    from monai.losses.dice import DiceCELoss  # seconds, which whoever asks for settings need not wait for

    network.train()
    criterion = DiceCELoss(sigmoid=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=max(steps, 2))
    for images, masks in stream:
        x, y = to_tensors(images, masks, device)
        optimizer.zero_grad()
        loss = criterion(network(x), y)
        loss.backward()
        optimizer.step()
        schedule.step()
        yield loss.detach()


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
