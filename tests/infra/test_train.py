"""Training on a real cluster: two workers, ZeRO, a real store; workers and drivers that are killed."""

import json
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest

from infra.train import train
from siamdiff import storage
from siamdiff.config import Config
from siamdiff.errors import UserError
from siamdiff.training import bases, checkpoint
from tests import jobs
from tests.sets import small_config, write_phantoms

STEPS = 24
LONG = 36  # enough to be at work still when a signal arrives


def losses(config: Config) -> list[float]:
    lines = storage.read_bytes(f"{config.run_uri()}/metrics.jsonl").splitlines()
    return [json.loads(line)["L"] for line in lines]


def consumed(config: Config) -> list[int]:
    """Positions of the stream in the order of the log."""
    folder = f"{config.run_uri()}/logs/keys"
    rows = []
    for name in storage.list_files(folder):
        rows += [json.loads(line) for line in storage.read_bytes(f"{folder}/{name}").splitlines()]
    return [position for row in rows for position in row["positions"]]


def configure(root: str, run: str, **fields: object) -> Config:
    settings = {
        "run": run,
        "steps": STEPS,
        "checkpoint_steps": 4,
        "engine": "deepspeed",
        "workers": 2,
    } | fields
    return small_config(root, train=settings)


@pytest.fixture(scope="module")
def root(s3) -> str:
    """A root in the store, with a set and a base that all runs share."""
    uri = s3.new_root()
    write_phantoms(f"{uri}/data")
    bases.prepare_base(small_config(uri))
    return uri


@pytest.fixture(scope="module")
def one_process(root: str) -> Config:
    """The same training without Ray and DeepSpeed."""
    config = configure(root, "plain", engine="torch", workers=1)
    train(config, True)
    return config


@pytest.fixture(scope="module")
def finished(root: str) -> Config:
    """A short run that is done."""
    config = configure(root, "finished", engine="torch", workers=1, steps=2)
    train(config, True)
    return config


@pytest.mark.soak
@pytest.mark.cluster
def test_two_workers_one_of_them_killed_train_as_one_process_does(root, one_process, tmp_path: Path):
    config = configure(root, "killed")
    process = jobs.start("train", "--config", jobs.config_file(config, tmp_path), log=tmp_path / "log")
    jobs.wait_for(lambda: 4 in checkpoint.complete_steps(config.run_uri()), process)
    victims = jobs.descendants(process, "ray::RayTrainWorker")
    assert len(victims) == 2
    victims[0].send_signal(signal.SIGKILL)
    assert process.wait(timeout=300) == 0, (tmp_path / "log").read_text()[-3000:]

    log = (tmp_path / "log").read_text()
    assert "a worker was lost" in log
    assert "resuming after step" in log
    is_as_undisturbed(config, one_process)
    told = journals(config)
    assert {line["process"] for line in told} == {"job", "worker-0", "worker-1"}
    assert any("a worker was lost" in line["message"] for line in told)
    assert {line["rank"] for line in told if "resuming after step" in line["message"]} == {0}
    assert all(line["run"] == "killed" and line["node"] for line in told)


def journals(config: Config) -> list[dict[str, Any]]:
    """The lines of all logs of a run in the store."""
    logs, found = storage.join(config.run_uri(), "logs"), []
    for name in storage.list_files(logs):
        if process := re.match(r"(job|worker-\d+)-.*\.jsonl", name):
            lines = storage.read_bytes(storage.join(logs, name)).splitlines()
            found += [json.loads(line) | {"process": process[1]} for line in lines]
    return found


def is_as_undisturbed(config: Config, undisturbed: Config) -> None:
    steps = config.train.steps
    assert losses(config) == pytest.approx(losses(undisturbed), rel=1e-4)
    assert consumed(config) == list(range(4 * steps))
    status = storage.read_json(f"{config.run_uri()}/status.json")
    assert (status["phase"], status["done"], status["left"], status["exit_code"]) == ("finished", steps, 0, 0)
    assert storage.exists(f"{config.run_uri()}/model/siamdiff.json")
    assert not storage.exists(f"{config.run_uri()}/lease.json")


def is_stopped_by_sigterm(config: Config, process: subprocess.Popen[bytes], log: Path) -> None:
    """After a checkpoint of the last step, with one line, and with no process left."""
    jobs.wait_for(lambda: 4 in checkpoint.complete_steps(config.run_uri()), process)
    below = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 1
    stopped = checkpoint.complete_steps(config.run_uri())[-1]
    assert f"stopped by SIGTERM after step {stopped}" in log.read_text().strip().splitlines()[-1]
    status = storage.read_json(f"{config.run_uri()}/status.json")
    assert (status["phase"], status["done"], status["exit_code"]) == ("stopped", stopped, 1)
    assert not storage.exists(f"{config.run_uri()}/lease.json")
    assert psutil.wait_procs(below, timeout=30)[1] == []


@pytest.mark.soak
@pytest.mark.parametrize(
    ("engine", "workers"), [("torch", 1), pytest.param("deepspeed", 2, marks=pytest.mark.cluster)]
)
def test_sigterm_leaves_a_checkpoint_from_which_the_same_command_goes_on(
    root, tmp_path: Path, engine: str, workers: int
):
    stopped = configure(root, f"signalled-{workers}", engine=engine, workers=workers, steps=LONG)
    whole = configure(root, f"undisturbed-{workers}", engine="torch", workers=1, steps=LONG)
    file, log = jobs.config_file(stopped, tmp_path), tmp_path / "log"
    is_stopped_by_sigterm(stopped, jobs.start("train", "--config", file, log=log), log)
    train(stopped, True)
    train(whole, True)
    is_as_undisturbed(stopped, whole)


def test_a_finished_run_says_so_and_does_nothing(finished: Config, caplog: pytest.LogCaptureFixture):
    before = storage.list_files(f"{finished.run_uri()}/checkpoints")
    with caplog.at_level("INFO"):
        train(finished, True)
    assert "is finished already" in caplog.text
    assert storage.list_files(f"{finished.run_uri()}/checkpoints") == before


def test_a_job_lost_after_its_model_and_before_its_end_still_names_the_run_as_the_latest(finished: Config):
    latest = f"{finished.runs_uri()}/latest.json"
    state = storage.read_json(f"{finished.run_uri()}/status.json")
    storage.delete(latest)
    storage.write_json(f"{finished.run_uri()}/status.json", state | {"phase": "training"})
    train(finished, True)
    assert storage.read_json(latest) == {"run": finished.train.run}


def test_a_finished_run_called_again_leaves_a_later_one_the_latest(finished: Config):
    latest = f"{finished.runs_uri()}/latest.json"
    storage.write_json(latest, {"run": "later"})
    train(finished, True)
    assert storage.read_json(latest) == {"run": "later"}


def test_the_same_name_with_another_configuration_is_refused(root, finished: Config):
    other = configure(root, "finished", engine="torch", workers=1, steps=3)
    with pytest.raises(UserError, match=r"train\.steps was 2, is now 3"):
        train(other, True)
    status = storage.read_json(f"{finished.run_uri()}/status.json")
    assert status["exit_code"] == 0


def test_a_set_of_another_size_is_refused(root):
    config = small_config(root, size=64, train={"run": "large", "engine": "torch"})
    with pytest.raises(UserError, match=r"holds images of 32 pixels, data\.resolution is 64"):
        train(config, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.source", "/nowhere", "--data.uri", "/nowhere/set"], "dataset.json"),
        pytest.param(["--model.base", "/nowhere"], "no base at /nowhere", marks=pytest.mark.soak),
    ],
)
def test_a_mistake_ends_with_2_and_one_line(root, arguments: list[str], message: str, tmp_path: Path):
    config = configure(root, "mistake", engine="torch", workers=1)
    result = jobs.run("train", "--config", jobs.config_file(config, tmp_path), *arguments)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert jobs.last_line(result).startswith("error: ")
    assert message in jobs.last_line(result)
    assert storage.read_json(f"{config.run_uri()}/status.json")["exit_code"] == 2


def test_a_precision_that_the_device_has_not_is_refused_before_a_base_is_made(tmp_path: Path):
    write_phantoms(f"{tmp_path}/data")
    config = configure(str(tmp_path), "half", precision="fp16")
    with pytest.raises(UserError, match="fp16, which needs a GPU"):
        train(config, True)
    assert not (tmp_path / "bases").exists()
    assert storage.read_json(f"{config.run_uri()}/status.json")["exit_code"] == 2


@pytest.mark.soak
@pytest.mark.cluster
def test_a_killed_driver_goes_on_by_the_same_command(root, tmp_path: Path):
    whole = configure(root, "uninterrupted")
    train(whole, True)
    config = configure(root, "driver-killed")
    file = jobs.config_file(config, tmp_path)
    process = jobs.start("train", "--config", file, log=tmp_path / "log")
    jobs.wait_for(lambda: 8 in checkpoint.complete_steps(config.run_uri()), process)
    jobs.kill_tree(process)
    assert not storage.exists(f"{config.run_uri()}/model/siamdiff.json")
    result = jobs.run("train", "--config", file)
    assert result.returncode == 0, result.stderr[-3000:]
    assert losses(config) == pytest.approx(losses(whole), rel=1e-5)
    assert consumed(config) == consumed(whole) == list(range(4 * STEPS))


@pytest.mark.soak
@pytest.mark.cluster
@pytest.mark.parametrize("stage", [0, 1, 3])
def test_every_zero_stage_trains_and_resumes_as_one_process_does(root, one_process, stage: int):
    config = configure(root, f"zero-{stage}", zero_stage=stage)
    train(config, True)
    assert losses(config) == pytest.approx(losses(one_process), rel=1e-4)
    for step in checkpoint.complete_steps(config.run_uri())[1:]:
        storage.delete_folder(checkpoint.find(config.run_uri(), step).uri)
    storage.delete_folder(f"{config.run_uri()}/model")
    train(config, True)
    assert losses(config) == pytest.approx(losses(one_process), rel=1e-4)


@pytest.mark.soak
@pytest.mark.cluster
def test_one_worker_and_two_have_the_same_losses(root):
    one, two = configure(root, "one", workers=1), configure(root, "two", workers=2)
    train(one, True)
    train(two, True)
    assert losses(one) == pytest.approx(losses(two), rel=1e-4)
