"""The small segmenter: it learns what it is shown, and the same way each time."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from siamdiff.errors import SiamdiffError
from siamdiff.evaluation.agreement import MAX_SIDE, Judge, measure_agreement, shrink
from siamdiff.segmentation.metrics import dice_per_image
from siamdiff.segmentation.networks import unet
from siamdiff.segmentation.train import predict, train_segmenter


class Blobs:
    """Bright discs on dark noise; with `lie`, the mask is of a disc elsewhere."""

    def __init__(self, count: int, seed: int, lie: bool = False) -> None:
        self.keys = [f"{seed}-{i}" for i in range(count)]
        rng = np.random.default_rng(seed)
        rows, columns = np.mgrid[:32, :32]
        centres, radii = rng.uniform(8, 24, (count, 2, 1, 1)), rng.uniform(4, 8, (count, 1, 1))
        discs = np.hypot(rows - centres[:, 0], columns - centres[:, 1]) < radii
        noise = rng.integers(0, 90, (count, 32, 32, 3))
        self._images = np.where(discs[..., None], noise + 140, noise).astype(np.uint8)
        self.masks = np.where(np.roll(discs, 16, 2) if lie else discs, 255, 0).astype(np.uint8)

    def read(self, positions: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        chosen = list(positions)
        return self._images[chosen], self.masks[chosen]


def test_agreement_is_high_where_masks_fit_and_low_where_they_do_not() -> None:
    judge = Judge.train(Blobs(64, 0), steps=45, seed=0)
    sets = {"fitting": Blobs(24, 2), "lying": Blobs(24, 2, lie=True)}
    fitting, lying = measure_agreement(judge, Blobs(24, 1), sets).values()
    assert fitting.real is not None and fitting.real > 0.85
    assert fitting.synthetic is not None and fitting.synthetic > 0.85
    assert (fitting.n_train, fitting.n_real, fitting.n_synthetic) == (64, 24, 24)
    assert list(fitting.per_sample) == [f"2-{i}" for i in range(24)]
    assert fitting.synthetic == pytest.approx(np.mean(list(fitting.per_sample.values())))
    assert lying.synthetic is not None and lying.synthetic < 0.4
    assert lying.real == fitting.real


def test_pairs_without_foreground_are_left_out_and_counted_so() -> None:
    some, none = Blobs(5, 2), Blobs(5, 3)
    some.masks[1] = 0
    none.masks[:] = 0
    judge = Judge.train(Blobs(8, 0), steps=2, seed=0)
    of_some, of_none = measure_agreement(judge, Blobs(0, 1), {"some": some, "none": none}).values()
    assert (of_some.n_synthetic, of_some.n_real, of_some.real) == (4, 0, None)
    assert math.isnan(of_some.per_sample["2-1"])
    assert (of_none.n_synthetic, of_none.synthetic) == (0, None)
    with pytest.raises(SiamdiffError, match="train split is empty"):
        Judge.train(Blobs(0, 0), steps=2, seed=0)


def test_the_seed_alone_decides_what_is_learnt() -> None:
    blobs = Blobs(16, 0)
    images, _ = blobs.read(range(4))

    def after(seed: int) -> torch.Tensor:
        return predict(train_segmenter(unet, blobs.read, 16, steps=3, seed=seed, batch_size=4), images)

    first = after(0)
    torch.rand(3)  # the global generator plays no part
    assert torch.equal(after(0), first)
    assert not torch.equal(after(1), first)


def test_training_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    train_segmenter(unet, Blobs(4, 0).read, 4, steps=1, seed=0, batch_size=2)
    assert torch.equal(torch.rand(2), expected)


def test_dice_is_that_of_the_formula() -> None:
    predicted = torch.tensor([[0.9, 0.5, 0.4, 0.1], [0.0, 0.0, 0.0, 0.0], [0.0, 0.9, 0.0, 0.0]])
    truth = torch.tensor([[1.0, 0.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    dice = dice_per_image(predicted.view(3, 1, 2, 2), truth.view(3, 1, 2, 2))
    assert dice[:2].tolist() == pytest.approx([2 * 1 / (2 + 2), 0.0])
    assert torch.isnan(dice[2])


def test_large_pairs_are_shrunk_and_small_ones_kept() -> None:
    mask = np.zeros((400, 400), np.uint8)
    mask[100:300, 100:300] = 255
    image = np.repeat(mask[..., None], 3, 2)
    small_image, small_mask = shrink(image, mask)
    assert small_image.shape == (MAX_SIDE, MAX_SIDE, 3)
    assert set(np.unique(small_mask)) == {0, 255}
    assert (small_mask > 0).mean() == pytest.approx(0.25, abs=0.01)
    kept = shrink(image[:64, :64], mask[:64, :64])
    assert kept[0].shape == (64, 64, 3)
