"""The settings of an experiment in one table."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from siamdiff import storage
from siamdiff.errors import SiamdiffError, UserError
from siamdiff.report.comparison import as_csv, as_latex, as_text, make_rows
from siamdiff.report.record import EXPERIMENT, ExperimentRecord, Setting, read_experiment
from siamdiff.report.scope import own_set


def write_evaluation(uri: str, own: str, kid: float) -> str:
    figure = {"name": "kid", "value": kid, "interval": [kid - 0.01, kid + 0.01], "floor": 0.001}
    other = figure | {"value": 9.0}
    result: dict[str, Any] = {"count": 4, "mask_agreement": {"synthetic": 0.5, "real": 0.75}}
    results = {"another": result | {"figures": [other]}, "synthetic": result | {"figures": [figure]}}
    sets = {"synthetic": {"another": {"uri": "/another"}, "synthetic": {"uri": own}}}
    storage.write_json(storage.join(uri, "metrics.json"), {"results": results, "sets": sets})
    return uri


def write_segmentation(uri: str, **dice: float) -> str:
    scores = {
        arm: {"dice_at_0.5": {"mean": mean, "deviation": 0.02, "images": 4}} for arm, mean in dice.items()
    }
    about = {"network": "unet", "test": "test", "seeds": 2, "training_pairs": 8}
    results = [about | {"arm": arm.replace("_", "+"), "scores": of} for arm, of in scores.items()]
    storage.write_json(storage.join(uri, "metrics.json"), {"results": results})
    return uri


@pytest.fixture
def settings(tmp_path: Path) -> list[Setting]:
    found = []
    for name, kid, dice in (("a", 0.05, {"real": 0.6, "real_1": 0.7}), ("b", 0.04, {"real": 0.6})):
        made = f"/sets/{name}"
        outputs: Any = {
            "generate": made,
            "evaluate": write_evaluation(f"{tmp_path}/{name}/e", made, kid),
            "segment": write_segmentation(f"{tmp_path}/{name}/s", **dice),
        }
        found.append(Setting(name=name, meaning="", fields={}, outputs=outputs, seconds={}))
    return found


def test_a_setting_has_the_figures_of_its_own_set_and_the_dice_of_its_arms(settings):
    first, second = make_rows(settings)
    assert (first["setting"], first["kid"], first["kid_floor"]) == ("a", 0.05, 0.001)
    assert first["mask_agreement_dice"] == 0.5
    assert (first["Dice, real+1"], second["Dice, real+1"]) == (0.7, None)
    assert first["Dice, real"] == second["Dice, real"] == 0.6


@pytest.mark.parametrize(
    ("made", "own"), [("/b", "b"), ("/gone", "a"), (None, "a")], ids=["own", "other", "none"]
)
def test_the_own_set_is_the_one_that_the_setting_made(made: str | None, own: str):
    outputs: Any = {"generate": made} if made else {}
    setting = Setting(name="x", meaning="", fields={}, outputs=outputs, seconds={})
    assert own_set(setting, {"c": "/c", "b": "/b", "a": "/a"}) == own


def test_the_table_is_full_as_csv_and_short_for_people(settings):
    rows = make_rows(settings)
    read = list(csv.DictReader(io.StringIO(as_csv(rows))))
    assert [row["kid_high"] for row in read] == ["0.060000000000000005", "0.05"]
    text = as_text(rows).splitlines()
    assert text[0].split() == ["setting", "a", "b"]
    assert any(line.split() == ["kid", "0.0500", "0.0400"] for line in text)
    assert any(line.split() == ["Dice,", "real+1", "0.700", "+-", "0.020", "-"] for line in text)
    assert not any("floor" in line for line in text)
    latex = as_latex(rows, ["experiment 0"])
    assert latex.startswith("% experiment 0\n\\begin{tabular}{lrrrrr}") and r"0.700 $\pm$ 0.020" in latex


def test_a_stage_that_was_left_out_leaves_its_columns_empty(settings):
    alone = settings[1].model_copy(update={"outputs": {}})
    assert make_rows([settings[0], alone])[1] == {
        **dict.fromkeys(make_rows(settings)[0]), "setting": "b",
    }  # fmt: skip


def test_a_record_is_read_as_it_was_written(settings, tmp_path):
    record = ExperimentRecord(inputs_digest="0" * 64, sweep=["table5"], demo=False, settings=settings)
    storage.write_json(f"{tmp_path}/{EXPERIMENT}", record.model_dump(mode="json"))
    assert read_experiment(str(tmp_path)) == record


def test_no_experiment_and_a_damaged_one_are_one_line(tmp_path):
    with pytest.raises(UserError, match=r"no finished experiment at .*run that command to its end"):
        read_experiment(f"{tmp_path}/none")
    for content in (b"[]", b"{", b'{"schema_version": 2}'):
        storage.write_bytes(f"{tmp_path}/{EXPERIMENT}", content)
        with pytest.raises(SiamdiffError, match=r"experiment\.json is damaged or of another version"):
            read_experiment(str(tmp_path))
