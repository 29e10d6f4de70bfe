"""Which stages an experiment has, and a sweep that was ended and went on."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from infra.experiment import experiment, stages, timed
from siamdiff import storage
from siamdiff.config import Config
from siamdiff.errors import SiamdiffError, UserError
from siamdiff.report.record import read_experiment
from siamdiff.sweep import planned
from tests import jobs
from tests.sets import small_config


def test_copies_of_the_real_pairs_are_made_without_training() -> None:
    assert list(stages(Config())) == ["ingest", "train", "generate", "evaluate", "segment"]
    copies = Config.model_validate({"generate": {"method": "copy-paste", "fold_masks": ["real"]}})
    assert list(stages(copies)) == ["ingest", "generate", "evaluate", "segment"]


@pytest.mark.parametrize(
    ("sections", "why"),
    [
        ({"segment": {"tests": {"ETIS": "/nothing"}}}, "/nothing is not a complete set"),
        ({"segment": {"real": "/nothing"}}, "/nothing is not a complete set"),
        ({"evaluate": {"real": "/nothing"}}, "/nothing is not a complete set"),
        ({"generate": {"masks": "/nothing"}}, "/nothing is not a complete set"),
        ({"segment": {"arms": ["real+4"]}}, r"segment\.arms has real\+4, generate\.folds is 3"),
        ({"segment": {"networks": ["swin-unetr"], "size": 72}}, r"multiple of 32 pixels, not 72"),
        ({"segment": {"networks": ["segformer-b0"], "encoder": "/no"}}, r"there is no segment\.encoder /no"),
    ],
)
def test_what_the_last_stages_will_need_is_looked_at_before_anything_is_begun(
    tmp_path: Path, sections: dict[str, dict[str, Any]], why: str
) -> None:
    with pytest.raises(UserError, match=why):
        experiment(small_config(str(tmp_path), **sections), demo=False)
    assert not list(tmp_path.iterdir())


def test_the_time_of_a_stage_is_that_of_all_commands_until_it_was_finished(tmp_path: Path) -> None:
    (setting,) = planned(small_config(str(tmp_path)))
    for seconds, ends_well in ((7.0, False), (3.0, True), (5.0, True)):
        with suppress(RuntimeError), timed(setting, "train") as spent:
            spent.started -= seconds
            if not ends_well:
                raise RuntimeError
        assert round(spent.now) == seconds
    assert round(spent.seconds) == 10, "a command that only looks adds nothing"
    with timed(setting, "generate") as other:
        pass
    assert other.seconds < 1


def test_a_stage_that_fails_says_why_also_where_its_time_cannot_be_kept(tmp_path: Path) -> None:
    (setting,) = planned(small_config(str(tmp_path)))
    with pytest.raises(SiamdiffError, match="the store is away"), timed(setting, "train"):
        (tmp_path / "experiments").write_bytes(b"a file where the folder should be")
        raise SiamdiffError("the store is away")


def found(root: str, name: str) -> dict[str, int]:
    """Files of a name under the root -> when they were written."""
    return {str(path): path.stat().st_mtime_ns for path in Path(root).rglob(name)}


@pytest.mark.soak
@pytest.mark.cluster
def test_a_sweep_that_is_killed_goes_on_and_compares_its_settings(tmp_path: Path):
    root = str(tmp_path / "root")
    config = small_config(
        root,
        data={"count": 30},
        train={"engine": "torch", "run": None},
        generate={"folds": 2, "limit": 6, "batch_size": 2},
        evaluate={"agreement_steps": 2},
        segment={"steps": 2, "seeds": [0, 1], "validations": 0},
        experiment={"sweep": ["table5-1", "folds"]},
    )
    arguments = ["--config", jobs.config_file(config, tmp_path)]
    process = jobs.start("experiment", *arguments, log=tmp_path / "log")
    jobs.wait_for(lambda: len(found(root, "siamdiff.json")) == 2, process)  # in the second of three settings
    jobs.kill_tree(process)
    assert not found(root, "experiment.json")
    before = found(root, "siamdiff.json") | found(root, "*.tar")
    result = jobs.run("experiment", *arguments)
    assert result.returncode == 0, result.stderr[-4000:]
    after = found(root, "siamdiff.json") | found(root, "*.tar")
    assert before.items() <= after.items(), "nothing is made twice"

    (place,) = found(root, "experiment.json")
    record = read_experiment(str(Path(place).parent))
    outputs = {one.name: one.outputs for one in record.settings}
    assert list(outputs) == ["table5-1", "real masks", "transformed masks"]
    assert len({of["train"] for of in outputs.values()}) == 2, "both kinds of masks have one model"
    assert len({of["generate"] for of in outputs.values()}) == 3
    for of in outputs.values():
        evaluated = storage.read_json(f"{of['evaluate']}/metrics.json")["sets"]["synthetic"]
        segmented = storage.read_json(f"{of['segment']}/metrics.json")["sets"]["synthetic"]
        assert evaluated["synthetic"]["uri"] == segmented["synthetic"]["uri"] == of["generate"]
    table = Path(place).with_name("table.csv").read_text().splitlines()
    assert table[0].startswith("setting,images,") and "Dice, real+2" in table[0]
    assert [line.split(",")[0] for line in table[1:]] == list(outputs)
    assert "comparison:" in result.stderr
    for name in ("folds.svg", "settings.svg", "report.html"):
        assert all(setting in Path(place).with_name(name).read_text() for setting in outputs), name
