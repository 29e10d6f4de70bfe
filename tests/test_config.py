"""The configuration: what may be given, what is derived, what a mistake says."""

from pathlib import Path

import pytest
import yaml

from siamdiff.commandline import load
from siamdiff.config import Config
from siamdiff.errors import UserError
from siamdiff.presets import PRESETS

DEMO = Path(__file__).parents[1] / "jobs" / "configs" / "demo.yaml"


def loaded(*argv: str) -> Config:
    return load(list(argv), DEMO, "a test")[0]


def message(*argv: str) -> str:
    with pytest.raises(UserError) as caught:
        loaded(*argv)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_without_arguments_it_is_the_demo_on_phantoms():
    config, is_default = load([], DEMO, "a test")
    assert is_default
    assert config.data.source == "phantom"
    assert config.root == str(Path.home() / ".siamdiff" / "demo")


def test_uris_that_are_left_out_come_from_the_root():
    config = loaded("--root", "s3://bucket/polyps/", "--train.run", "first")
    assert config.data.uri == "s3://bucket/polyps/data"
    assert config.generate.masks == config.evaluate.real == config.data.uri
    assert config.generate.model == "s3://bucket/polyps/runs/first/model"
    assert config.run_uri() == "s3://bucket/polyps/runs/first"


def test_a_folder_of_ones_own_gets_a_root_of_its_own(tmp_path: Path):
    config = loaded("--data.source", str(tmp_path / "clinic"))
    assert config.root == str(Path.home() / ".siamdiff" / "clinic")


def test_the_command_line_stands_above_the_file(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("root: /somewhere\ntrain: {steps: 7, batch_size: 4}\n")
    config = loaded("--config", str(file), "--train.steps", "9")
    assert (config.root, config.train.steps, config.train.batch_size) == ("/somewhere", 9, 4)


def test_numbers_are_taken_from_the_command_line():
    train = loaded("--train.zero_stage", "3", "--train.image_weight", "0.25").train
    assert (train.zero_stage, train.image_weight) == (3, 0.25)
    assert loaded("--train.image_weight", "linear").train.image_weight == "linear"


def test_lists_can_be_given_with_commas_or_repeated():
    assert loaded("--generate.fold_masks", "real,random").generate.fold_masks == ["real", "random"]
    repeated = loaded("--generate.fold_masks", "real", "--generate.fold_masks", "random")
    assert repeated.generate.fold_masks == ["real", "random"]


def test_what_is_written_beside_outputs_loads_again(tmp_path: Path):
    config = loaded("--root", str(tmp_path), "--data.split", '{"train": 1.0}')
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert loaded("--config", str(tmp_path / "config.yaml")) == config


def test_the_derived_run_depends_on_what_the_result_depends_on():
    run = loaded().train.run
    assert loaded("--train.workers", "1", "--train.log_steps", "1").train.run == run
    assert loaded("--train.steps", "20").train.run != run
    assert loaded("--data.uri", "/elsewhere").train.run != run


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["--train.step", "3"], ["--train.step'", "--train.steps"]),
        (["--train.steps", "0"], ["train.steps", "'0'", "greater than or equal to 1"]),
        (["--train.steps", "many"], ["train.steps", "'many'", "integer"]),
        (["--train.steps"], ["--train.steps", "expected one argument"]),
        (["--train.batch_size", "3", "--train.workers", "4"], ["3", "4", "lower train.workers"]),
        (["--data.resolution", "60"], ["data.resolution", "multiple of 8"]),
        (["--data.split", '{"train": 0.5}'], ["data.split", "add up to 1"]),
        (["--generate.transforms.scale", "2,1"], ["scale", "first bound"]),
        (["--config", "/nowhere/x.yaml"], ["/nowhere/x.yaml", "No such file"]),
        (["--root", "ftp://host/x"], ["ftp://host/x", "s3://"]),
        (["--train.zero_stage", "4"], ["train.zero_stage", "'4'", "less than or equal to 3"]),
        (["--generate.steps", "1000"], ["generate.steps", "'1000'", "less than or equal to 999"]),
        (
            ["--train.image_weight", "1.5"],
            ["train.image_weight = '1.5': give linear, or a number from 0 to 1"],
        ),
        (["--train.image_weight", "lineer"], ["train.image_weight = 'lineer': give linear, or a number"]),
        (["--train.precision", "fp16", "--train.zero_stage", "0"], ["fp16", "give --train.zero_stage 1"]),
        (["--train.warmup_steps", "9", "--train.steps", "9"], ["warmup_steps is 9", "train.steps 9"]),
        (["--train.compile", "true", "--train.zero_stage", "3"], ["compile", "give --train.zero_stage 2"]),
        (["--train.channels_last", "true", "--train.zero_stage", "3"], ["channels_last", "zero_stage 2"]),
        (["--preset", "table5-11"], ["'table5-11'", "did you mean 'table5-1'?", "table6-0.5", "t2i-adapter"]),
        (["--train.image_branch", "false"], ["train.image_branch is false", "train.consistency_weight 0"]),
        (["--preset", "table5-1", "--train.online_augmentation", "true"], ["train.image_branch is false"]),
        (["--model.control", "t2i-adapter"], ["t2i-adapter", "train.image_branch", "--preset t2i-adapter"]),
        (
            ["--preset", "t2i-adapter", "--generate.guide", "mask+image", "--generate.fold_masks", "real"],
            ["mask+image", "t2i-adapter, which reads masks alone", "--generate.guide mask"],
        ),
    ],
)
def test_a_mistake_is_one_line_with_the_value_and_the_limit(argv: list[str], parts: list[str]):
    text = message(*argv)
    assert all(part in text for part in parts), text


def test_a_preset_stands_above_what_is_given_one_level_below_it(tmp_path: Path):
    """defaults < preset of the file < file < preset of the command line < command line."""
    file = tmp_path / "mine.yaml"
    file.write_text("preset: table6-2\ntrain: {consistency_weight: 1.25, steps: 7}\n")
    given = ("--config", str(file))
    train = loaded(*given).train
    assert (train.consistency_weight, train.online_augmentation, train.steps) == (1.25, True, 7)
    config = loaded(*given, "--preset", "table5-3")
    assert (config.model.control, config.train.consistency_weight, config.train.steps) == ("plain", 0.0, 7)
    config = loaded(*given, "--train.consistency_weight", "0.75", "--preset", "table5-4")
    assert (config.train.online_augmentation, config.train.consistency_weight) == (False, 0.75)


def test_a_preset_is_told_by_its_fields_alone(tmp_path: Path):
    """The same settings make the same run, however they were named; others make another."""
    ours, swept = loaded("--preset", "ours"), loaded("--preset", "table6-1")
    assert ours.train.run == swept.train.run == loaded().train.run
    assert loaded("--preset", "table6-2").train.run != ours.train.run
    assert Config(preset="table5-1").model.control == "plain"
    (tmp_path / "config.yaml").write_text(swept.to_yaml())
    assert loaded("--config", str(tmp_path / "config.yaml")) == swept


def test_help_lists_the_presets(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        loaded("--help")
    lines = capsys.readouterr().out.splitlines()
    assert all(any(line.split()[:1] == [name] for line in lines) for name in PRESETS)


def test_an_unknown_preset_in_a_file_is_named(tmp_path: Path):
    file = tmp_path / "typo.yaml"
    file.write_text("preset: tabel5-2")
    assert "'tabel5-2'; did you mean 'table5-2'?" in message("--config", str(file))
    file.write_text("preset: [table5-2]")
    assert "unknown preset \"['table5-2']\"" in message("--config", str(file))


def test_an_unknown_field_in_a_file_names_the_nearest_valid_one(tmp_path: Path):
    file = tmp_path / "typo.yaml"
    file.write_text(yaml.safe_dump({"train": {"stepps": 3}}))
    assert "'train.stepps'; did you mean 'train.steps'?" in message("--config", str(file))


def test_a_file_that_is_not_yaml_is_named(tmp_path: Path):
    file = tmp_path / "bad.yaml"
    file.write_text("train: [1")
    assert "bad.yaml is not valid YAML" in message("--config", str(file))


def test_help_lists_every_field_with_its_meaning(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        loaded("--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "--train.zero_stage" in text
    assert "DeepSpeed ZeRO stage" in text
