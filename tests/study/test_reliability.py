"""Agreement against numbers that others have published."""

import math

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from siamdiff.study.reliability import krippendorff_alpha, nominal, ordinal, weighted_kappa

# K. Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), example C: 4 observers, 12 units, values 1 to 5.
_ = math.nan
EXAMPLE = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
        [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
    ]
)


def test_alpha_is_that_of_its_author():
    assert krippendorff_alpha(EXAMPLE - 1, 5, nominal) == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(EXAMPLE - 1, 5, ordinal) == pytest.approx(0.815, abs=5e-4)


def test_alpha_of_binary_data_of_two_observers():
    # example A of the same text: 10 units, alpha = 0.095
    first, second = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    assert krippendorff_alpha(np.array([first, second], float), 2, nominal) == pytest.approx(0.095, abs=5e-4)


def test_alpha_knows_agreement_chance_and_nothing():
    rng = np.random.default_rng(0)
    same = np.tile(rng.integers(0, 5, 40), (3, 1)).astype(float)
    assert krippendorff_alpha(same, 5, ordinal) == pytest.approx(1)
    assert abs(krippendorff_alpha(rng.integers(0, 5, (3, 3000)).astype(float), 5, ordinal)) < 0.05
    assert math.isnan(krippendorff_alpha(np.ones((3, 9)), 5, ordinal))
    assert math.isnan(krippendorff_alpha(EXAMPLE[:1] - 1, 5, ordinal))


def test_kappa_weighs_distance():
    first = np.array([0, 1, 2, 3, 4, 0, 2, 4])
    assert weighted_kappa(first, first, 5) == pytest.approx(1)
    near, far = np.minimum(first + 1, 4), (first + 3) % 5
    assert 1 > weighted_kappa(first, near, 5) > 0 > weighted_kappa(first, far, 5)
    rng = np.random.default_rng(0)
    for _ in range(20):
        one, other = rng.integers(0, 5, (2, 12))
        assert weighted_kappa(one, other, 5) == pytest.approx(
            cohen_kappa_score(one, other, labels=range(5), weights="quadratic")
        )
    assert math.isnan(weighted_kappa(first[:1], first[:1], 5))
    assert math.isnan(weighted_kappa(np.zeros(5, int), np.zeros(5, int), 5))
