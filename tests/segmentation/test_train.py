"""Training for comparison: what a seed decides, which weights are kept, what a pass is."""

import itertools
from collections import Counter
from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from siamdiff.errors import SiamdiffError
from siamdiff.segmentation.networks import build_network
from siamdiff.segmentation.pairs import resized
from siamdiff.segmentation.train import Settings, batches, mean_dice, predict, train_and_choose, turn
from tests.segmentation.test_segmenter import Blobs

SETTINGS = Settings(steps=6, batch_size=4, learning_rate=1e-3, validations=3, seed=0)


def trained(
    network: str = "unet-small", held_out: Blobs | None = None, **settings: float
) -> tuple[nn.Module, list]:
    blobs = Blobs(10, 0)
    look = None
    if held_out:
        look = partial(mean_dice, parts=lambda: [held_out.read(range(len(held_out.keys)))])
    chosen = Settings(**(SETTINGS.__dict__ | settings))
    result = train_and_choose(partial(build_network, network), blobs.read, 10, chosen, look)
    return result.network, [result.step, result.history]


@pytest.mark.parametrize("network", ["unet-small", "segformer-b0"])
def test_settings_and_seed_alone_decide_what_is_learnt(network: str) -> None:
    images = Blobs(2, 5).read([0, 1])[0]
    first = predict(trained(network)[0], images)
    torch.rand(3)  # the global generator plays no part, and dropout has the seed's
    assert torch.equal(predict(trained(network)[0], images), first)
    assert not torch.equal(predict(trained(network, seed=1)[0], images), first)


def test_training_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    trained("segformer-b0", steps=1)
    assert torch.equal(torch.rand(2), expected)


def test_the_weights_that_did_best_on_held_out_pairs_are_kept() -> None:
    held_out = Blobs(6, 1)
    network, (step, history) = trained(held_out=held_out, steps=30, learning_rate=5e-3)
    assert [entry["step"] for entry in history] == [10, 20, 30]
    best = max(history, key=lambda entry: entry["dice"])
    assert step == best["step"]
    assert mean_dice(network, lambda: [held_out.read(range(6))]) == best["dice"]
    _, (last, seen) = trained(steps=30)
    assert (last, [entry["step"] for entry in seen]) == (30, [30])


def test_every_sample_comes_once_in_a_pass() -> None:
    asked: list[int] = []

    def read(positions: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        asked.extend(positions)
        return np.zeros((len(positions), 4, 4, 3), np.uint8), np.zeros((len(positions), 4, 4), np.uint8)

    list(itertools.islice(batches(read, 10, 4, 0), 10))
    assert [len(set(asked[start : start + 10])) for start in range(0, 40, 10)] == [10] * 4
    assert asked[:10] != asked[10:20]
    asked.clear()
    list(itertools.islice(batches(read, 3, 8, 0), 3))  # fewer samples than a batch
    assert set(Counter(asked).values()) == {8}


def test_image_and_mask_turn_together_into_all_eight_positions() -> None:
    image = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    turned = [turn(image, position) for position in range(8)]
    assert len({array.tobytes() for array in turned}) == 8
    assert all(np.array_equal(turn(image[..., 0], k), turned[k][..., 0]) for k in range(8))
    blobs = Blobs(2, 0)
    images, masks = next(batches(blobs.read, 2, 8, 0))
    assert images.shape == (8, 32, 32, 3)
    # the lesion is where it is brightest, in every position
    assert all(
        image[mask > 0].min() > image[mask == 0].max() for image, mask in zip(images, masks, strict=True)
    )


def test_a_loss_that_is_not_finite_ends_the_training() -> None:
    with pytest.raises(SiamdiffError, match=r"loss is nan before step 6; lower segment\.learning_rate"):
        trained(learning_rate=1e30)


def test_resizing_keeps_masks_binary_and_their_share() -> None:
    mask = np.zeros((48, 48), np.uint8)
    mask[12:36, 12:36] = 255
    image = np.repeat(mask[..., None], 3, 2)
    for side in (16, 96):
        small_image, small_mask = resized(image, mask, side)
        assert small_image.shape == (side, side, 3) and small_mask.shape == (side, side)
        assert set(np.unique(small_mask)) == {0, 255}
        assert (small_mask > 0).mean() == pytest.approx(0.25, abs=0.01)
    assert resized(image, mask, 48)[0] is image
