"""The figures of an experiment as files of their own."""

from pathlib import Path
from xml.etree import ElementTree

from siamdiff.report.figures import FOLDS, SETTINGS, figures_of
from siamdiff.report.record import read_experiment
from tests.report.experiments import write_experiment


def test_one_setting_has_its_folds_and_several_are_compared_too(tmp_path: Path):
    alone = figures_of(read_experiment(write_experiment(tmp_path / "alone")))
    assert list(alone) == [FOLDS] and "real alone" in alone[FOLDS] and "+2" in alone[FOLDS]
    several = figures_of(read_experiment(write_experiment(tmp_path / "several", settings=2)))
    assert list(several) == [FOLDS, SETTINGS]
    for svg in several.values():
        assert ElementTree.fromstring(svg).tag.endswith("svg")
        assert "table5-1" in svg and "table5-2" in svg


def test_without_synthetic_arms_there_is_nothing_to_draw(tmp_path: Path):
    uri = write_experiment(tmp_path, gains={"real": 0.0, "copy-paste": 0.0})
    assert figures_of(read_experiment(uri)) == {}
