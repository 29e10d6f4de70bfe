"""Agreement by the size of lesions."""

from collections.abc import Sequence

import numpy as np
import pytest

from siamdiff.evaluation.agreement import SIZES, Judge, measure_agreement


class Discs:
    """Bright discs of given radii, 32 x 32; with an empty one at the end."""

    def __init__(self, radii: Sequence[float]) -> None:
        self.keys = [str(i) for i in range(len(radii) + 1)]
        rows, columns = np.mgrid[:32, :32]
        inside = [np.hypot(rows - 15.5, columns - 15.5) < radius for radius in (*radii, 0)]
        self.masks = np.where(np.stack(inside), 255, 0).astype(np.uint8)

    def read(self, positions: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        masks = self.masks[list(positions)]
        return np.repeat(masks[..., None], 3, 3), masks


def test_each_mask_counts_for_its_size() -> None:
    radii = (2, 3, 5, 6, 9, 12, 14)
    shares = Discs(radii).masks.mean((1, 2)) / 255
    judge = Judge.train(Discs(radii), steps=2, seed=0)
    (found,) = measure_agreement(judge, Discs([3]), {"a": Discs(radii)}).values()
    above = 0.0
    for of, (name, up_to) in zip(found.by_size, SIZES, strict=True):
        dice = [found.per_sample[str(i)] for i, share in enumerate(shares) if above < share <= up_to]
        assert (of.name, of.up_to, of.n_synthetic) == (name, up_to, len(dice)) and len(dice) >= 2
        assert of.synthetic == pytest.approx(np.mean(dice))
        above = up_to
    assert sum(of.n_synthetic for of in found.by_size) == found.n_synthetic == len(radii)
    assert [of.n_real for of in found.by_size] == [1, 0, 0] and found.by_size[1].real is None
    assert found.as_dict()["by_size"][0]["name"] == "small"
