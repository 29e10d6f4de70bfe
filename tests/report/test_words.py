"""The summary says what the numbers say, and no more."""

from pathlib import Path

import pytest

from siamdiff.report import words
from siamdiff.report.helps import fold_lines
from siamdiff.report.record import read_experiment
from siamdiff.report.scope import Scope
from siamdiff.report.stages import Segmentation
from tests.report.experiments import write_experiment


def summary(folder: Path, gains: dict[str, float], noise: float = 0.0) -> str:
    """Of an experiment with those gains, whose two seeds are `noise` above and below."""
    uri = write_experiment(folder, gains=gains, noise=noise)
    return " ".join(words.summary(Scope.of(read_experiment(uri), share=False)))


def segmentations(folder: Path, gains: dict[str, float]) -> dict[str, Segmentation]:
    scope = Scope.of(read_experiment(write_experiment(folder, gains=gains)), share=False)
    return {o.setting.name: o.segmentation for o in scope.outcomes if o.segmentation is not None}


def test_what_is_better_is_named_with_its_p_and_how_many_were_tried(tmp_path: Path):
    told = summary(tmp_path, {"real": 0.0, "real+1": 0.05, "real+2": 0.02})
    assert "Significantly better with synthetic pairs, image by image: real+1, +0.0" in told
    assert told.index("real+1") < told.index("real+2")
    assert (
        "not corrected for 2 comparisons; the limit would then be 0.025 (Bonferroni): real+1, real+2 are"
        in told
    )
    assert "worse" not in told


def test_no_difference_is_said_plainly(tmp_path: Path):
    told = summary(tmp_path, {"real": 0.0, "real+1": 0.0, "real+2": -0.02})
    assert "No training set with synthetic pairs does significantly better: the best, real+1, is at" in told
    assert "a benefit is not shown on these images and seeds" in told
    assert "Significantly worse: real+2, " in told


def test_copies_that_help_are_no_benefit_of_synthetic_pairs(tmp_path: Path):
    told = summary(tmp_path, {"real": 0.0, "real+1": -0.05, "copy-paste": 0.05})
    assert "Every training set with synthetic pairs does significantly worse: real+1, " in told
    assert "Copies of the real pairs, nothing new, (copy-paste) are at +0.0" in told
    assert "better" not in told


def test_a_difference_within_the_seeds_spread_is_said(tmp_path: Path):
    told = summary(tmp_path, {"real": 0.0, "real+1": 0.01, "real+2": 0.2}, noise=0.02)
    assert "not of other trainings: real+1 differs from real pairs alone by less than the seeds" in told


def test_without_another_arm_nothing_is_claimed(tmp_path: Path):
    told = summary(tmp_path, {"real": 0.0})
    assert "better" not in told and "worse" not in told


def test_folds_begin_at_real_alone(tmp_path: Path):
    gains = {"real": 0.0, "real+1 a": 0.1, "real+2 a": 0.2, "real+1 b": 0.3, "copy-paste+1": 0.1}
    lines = fold_lines(segmentations(tmp_path, gains))
    assert {name: [k for k, *_ in points] for name, points in lines.items()} == {"a": [0, 1, 2], "b": [0, 1]}


@pytest.mark.parametrize("gains", [{"real": 0.0, "copy-paste": 0.1}, {"synthetic": 0.0}])
def test_a_single_point_is_no_sweep(tmp_path: Path, gains: dict[str, float]):
    assert fold_lines(segmentations(tmp_path, gains)) == {}
