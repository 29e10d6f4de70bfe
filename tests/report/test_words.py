"""The summary says what the numbers say, and no more."""

from pathlib import Path

import pytest

from siamdiff.report import words
from siamdiff.report.helps import fold_lines
from siamdiff.report.record import read_experiment
from siamdiff.report.scope import Scope
from siamdiff.report.stages import Segmentation
from tests.report.experiments import write_experiment


def summary(folder: Path, gains: dict[str, float]) -> str:
    return " ".join(
        words.summary(Scope.of(read_experiment(write_experiment(folder, gains=gains)), share=False))
    )


def segmentations(folder: Path, gains: dict[str, float]) -> dict[str, Segmentation]:
    scope = Scope.of(read_experiment(write_experiment(folder, gains=gains)), share=False)
    return {o.setting.name: o.segmentation for o in scope.outcomes if o.segmentation is not None}


def test_what_is_better_is_named_with_its_p_and_how_many_were_tried(tmp_path: Path):
    told = summary(tmp_path, {"real": 0.0, "real+1": 0.05, "real+2": 0.02})
    assert "Significantly better, image by image: real+1, +0.0" in told
    assert told.index("real+1") < told.index("real+2")
    assert (
        "not corrected for 2 comparisons; the limit would then be 0.025 (Bonferroni): real+1, real+2 are"
        in told
    )
    assert "worse" not in told


def test_no_difference_is_said_plainly(tmp_path: Path):
    told = summary(tmp_path, {"real": 0.0, "real+1": -0.02, "synthetic": -0.1})
    assert "None of the 2 others does significantly better: the best, real+1, is at \N{MINUS SIGN}0.0" in told
    assert "a benefit is not shown on these images and seeds" in told
    assert "Significantly worse: real+1, " in told


def test_copies_that_help_are_a_warning(tmp_path: Path):
    told = summary(tmp_path, {"real": 0.0, "real+1": 0.05, "copy-paste": 0.05})
    assert "copies of the real pairs are among the better ones" in told


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
