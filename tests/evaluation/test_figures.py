"""Figures: names, counts, floors, intervals and warnings."""

import numpy as np
import pytest

from siamdiff.errors import SiamdiffError
from siamdiff.evaluation.features import CLIP, INCEPTION, FeatureSpec
from siamdiff.evaluation.figures import CLIP_I, Figure, Recipe, compare, paired
from tests.evaluation.test_distances import features, unit

SPEC = FeatureSpec("toy", "none", "input", 8, "none", "none")
GENERAL = ["frechet", "mmd_linear", "mmd_polynomial", "precision", "recall", "density", "coverage"]


def named(spec: FeatureSpec) -> list[str]:
    return [figure.name for figure in compare(features(1, 20), features(2, 30), spec, "train", Recipe())[0]]


def by_name(figures: list[Figure]) -> dict[str, Figure]:
    return {figure.name: figure for figure in figures}


def test_the_fields_own_names_are_given_on_the_standard_networks_alone() -> None:
    def spec(label: str) -> FeatureSpec:
        return FeatureSpec(label, "none", "input", 8, "none", "none")

    assert named(SPEC) == [f"{kind}_toy" for kind in GENERAL]
    assert named(spec(INCEPTION))[:3] == ["fid", "mmd_linear_inception_v3", "kid"]
    assert named(spec("inception_0123abcd"))[0] == "frechet_inception_0123abcd"
    assert named(spec(CLIP))[3] == "cmmd"
    assert named(spec("clip_0123abcd"))[3] == "cmmd_clip_0123abcd"


def test_figures_name_network_reference_counts_and_floor() -> None:
    recipe = Recipe(kid_subset_size=20)
    figures, warnings = compare(features(1, 20, shift=3.0), features(2, 50), SPEC, "train", recipe)
    assert warnings == []
    frechet, mmd, poly, precision, *_ = figures
    assert (frechet.reference, frechet.n_reference, frechet.n_synthetic) == ("train", 50, 20)
    assert frechet.floor_counts == (20, 30)  # disjoint, the first as large as the synthetic set
    assert (mmd.n_reference, mmd.n_synthetic, mmd.floor_counts) == (20, 20, (20, 20))  # it needs equal counts
    assert poly.settings == {"subset_size": 20, "subsets": 100, "seed": 0} and poly.deviation is not None
    assert precision.settings == {"k": 3}
    for figure in figures:
        assert figure.floor is not None
        assert (figure.floor > figure.value) == figure.higher_is_better  # real is closer to real


def test_intervals_hold_their_value_and_shrink_with_the_counts() -> None:
    recipe = Recipe(resamples=60, kid_subset_size=30)
    few, _ = compare(features(1, 30, shift=0.4), features(2, 30), SPEC, "train", recipe)
    many, _ = compare(features(1, 300, shift=0.4), features(2, 300), SPEC, "train", recipe)
    assert few == compare(features(1, 30, shift=0.4), features(2, 30), SPEC, "train", recipe)[0]
    for small, large in zip(few, many, strict=True):
        assert small.resamples == large.resamples == 60
        assert small.interval is not None and large.interval is not None
        assert small.interval[0] <= small.value <= small.interval[1]
        if small.interval[0] < small.interval[1]:  # a share may be 1 in every resample
            assert large.interval[1] - large.interval[0] < small.interval[1] - small.interval[0]


def test_an_interval_is_as_wide_as_the_figure_varies_between_samples() -> None:
    """A nominal 95% interval is near to four standard deviations of the figure over fresh samples."""
    recipe = Recipe(resamples=200, kid_subset_size=60)
    found = [
        by_name(compare(features(2 * i, 60, shift=0.5), features(2 * i + 1, 60), SPEC, "t", recipe)[0])
        for i in range(20, 40)
    ]
    for kind in ("frechet", "mmd_polynomial", "density"):
        each = [figures[f"{kind}_toy"] for figures in found]
        spread = np.std([figure.value for figure in each])
        widths = [figure.interval[1] - figure.interval[0] for figure in each if figure.interval]
        assert 2 < np.mean(widths) / spread < 7


def test_no_resamples_no_interval() -> None:
    figures, _ = compare(features(1, 20), features(2, 30), SPEC, "train", Recipe(resamples=0))
    assert {(figure.interval, figure.resamples) for figure in figures} == {(None, 0)}


def test_sets_too_small_for_a_measure_are_warned_of() -> None:
    figures, warnings = compare(features(1, 7), features(2, 50), SPEC, "train", Recipe())
    assert figures[0].n_synthetic == 7 and figures[0].interval is None
    frechet, kernel, intervals = warnings
    assert "frechet_toy: 7 samples for 8 feature dimensions" in frechet
    assert "mmd_polynomial_toy: subsets of 7 samples, not 1000" in kernel
    assert "7 samples are too few for intervals" in intervals
    figures, warnings = compare(features(1, 5), features(2, 50), SPEC, "train", Recipe())
    assert len(figures) == 3
    assert "5 samples are too few for precision, recall, density and coverage" in warnings


def test_what_the_count_adds_to_cmmd_is_said() -> None:
    spec = FeatureSpec("clip_x", "none", "input", 8, "none", "none")
    x, y = unit(features(1, 20)), unit(features(2, 20))
    assert any("cmmd_clip_x" in warning for warning in compare(x, y, spec, "train", Recipe())[1])
    far = unit(features(3, 20, shift=50.0))
    assert not any("cmmd_clip_x" in warning for warning in compare(far, y, spec, "train", Recipe())[1])


def test_too_few_real_samples_have_no_floor() -> None:
    figures, _ = compare(features(1, 7), features(2, 3), SPEC, "train", Recipe())
    assert [figure.floor for figure in figures] == [None] * 3


def test_pairs_are_resampled_by_parent() -> None:
    rng = np.random.default_rng(0)
    of_parent = rng.normal(size=40)
    folds = np.repeat(of_parent, 5)  # five equal images of each parent say no more than one
    names = [f"parent {i}" for i in range(40)]
    about = (SPEC, "train", Recipe())
    five = paired("clip_i", CLIP_I, folds, [n for n in names for _ in range(5)], np.zeros(3), *about)
    one = paired("clip_i", CLIP_I, of_parent, names, np.zeros(0), *about)
    assert five.interval == pytest.approx(one.interval) and five.value == pytest.approx(of_parent.mean())
    assert (five.name, five.n_synthetic, five.n_reference, five.floor_counts) == (
        "clip_i_toy",
        200,
        40,
        (3, 3),
    )
    assert five.higher_is_better and one.floor is None
    assert one.interval == pytest.approx(
        (one.value - 1.96 * of_parent.std() / 40**0.5, one.value + 1.96 * of_parent.std() / 40**0.5), abs=0.1
    )
    with pytest.raises(SiamdiffError, match="1 of 40 pairs is not finite"):
        paired("lpips", "", np.where(np.arange(40) == 3, np.nan, 0), names, np.zeros(0), *about)


def test_what_cannot_be_compared_is_an_error_of_one_line() -> None:
    broken = features(1, 10)
    broken[3, 2] = np.nan
    with pytest.raises(SiamdiffError, match="1 of 10 images are not finite"):
        compare(broken, features(2, 10), SPEC, "train", Recipe())
    with pytest.raises(SiamdiffError, match="at least 2 samples"):
        compare(features(1, 1), features(2, 10), SPEC, "train", Recipe())
