"""Every configuration that ships: valid, reckoned, and honest about what is missing."""

import re
from pathlib import Path

import pytest

from siamdiff.commandline import load
from siamdiff.config import Config
from siamdiff.data.pairing import scan
from siamdiff.errors import UserError
from siamdiff.estimate.devices import device_named
from siamdiff.estimate.report import dry_run
from siamdiff.sections import PHANTOM
from tests.jobs import REPOSITORY

FILES = sorted((REPOSITORY / "jobs" / "configs").glob("*.yaml"))
ON_REAL_DATA = [file for file in FILES if file.name not in ("demo.yaml", "quick.yaml")]
HEADER = ("Source", "Result", "Cost", "Command")
each = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
OF_THE_PAPER = [file for file in ON_REAL_DATA if file.name != "kvasir.yaml"]
each_real = pytest.mark.parametrize("file", ON_REAL_DATA, ids=lambda file: file.stem)


def loaded(file: Path) -> Config:
    return load(["--config", str(file)], file, "")[0]


@each
def test_it_is_valid_and_says_source_result_cost_and_command(file: Path):
    loaded(file)
    header = [line for line in file.read_text().splitlines() if line.startswith("#")]
    named = [match[1] for line in header if (match := re.match(r"# (\w+):", line))]
    assert [name for name in HEADER if name in named] == list(HEADER)


@pytest.mark.parametrize("file", OF_THE_PAPER, ids=lambda file: file.stem)
def test_it_has_the_papers_hyperparameters(file: Path):
    config = loaded(file)
    train, generate = config.train, config.generate
    assert (train.batch_size, train.learning_rate, train.weight_decay) == (48, 1e-5, 1e-2)
    assert train.steps == (1500 if file.stem == "industrial" else 3000)
    assert (train.augment_after, train.augment_timesteps, train.consistency_weight) == (1 / 3, 200, 1.0)
    assert (generate.steps, generate.guidance, config.data.resolution, train.prompt_drop) == (
        50,
        9.0,
        384,
        0.05,
    )
    assert config.cluster.device and device_named(config.cluster.device)


@each_real
def test_data_that_is_not_there_is_told_in_one_line(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"{tmp_path}/data/\w+ does not exist or is empty"):
        scan(loaded(file).data)


@pytest.mark.soak
def test_the_paper_trains_this_many_parameters():
    text = dry_run(loaded(REPOSITORY / "jobs/configs/polyps.yaml"), ("train",))
    assert "trainable parameters 874,264,516" in text
    assert "WARNING" not in text


@pytest.mark.soak
def test_a_workstation_stays_within_22_gb():
    config = loaded(REPOSITORY / "jobs/configs/workstation.yaml")
    assert config.train.workers == 1
    text = dry_run(config, ("train",))
    peak = re.search(r"^ +peak +([\d.]+)", text, re.MULTILINE)
    assert peak and float(peak[1]) <= 22
    assert "accumulation 48 = 48" in text


def test_a_demo_needs_no_data():
    assert loaded(REPOSITORY / "jobs/configs/demo.yaml").data.source == PHANTOM
