"""What surrounds a run breaks: the store, the disk, the data, a second job. It goes on, or stops with one line."""

import json
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest

from infra.train import train
from siamdiff import storage
from siamdiff.config import Config
from siamdiff.errors import SiamdiffError
from siamdiff.training import bases, checkpoint
from tests import jobs
from tests.s3 import S3Server
from tests.sets import small_config, write_phantoms

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]

STEPS = 200


def configure(root: str, run: str, **fields: object) -> Config:
    settings: dict[str, object] = {"run": run, "steps": STEPS, "checkpoint_steps": 10, "engine": "torch"}
    settings |= {"log_steps": 5, "preview_steps": 10**6, "validation_steps": 10**6}
    return small_config(root, train=settings | fields)


@pytest.fixture(scope="module")
def root(s3: S3Server) -> str:
    uri = s3.new_root()
    write_phantoms(f"{uri}/data")
    bases.prepare_base(small_config(uri))
    return uri


@pytest.fixture(scope="module")
def whole(root: str) -> Config:
    config = configure(root, "whole")
    train(config, True)
    return config


def losses(config: Config) -> list[float]:
    lines = storage.read_bytes(f"{config.run_uri()}/metrics.jsonl").splitlines()
    return [json.loads(line)["L"] for line in lines]


def started(config: Config, folder: Path) -> subprocess.Popen[bytes]:
    """The job, once it has written a checkpoint."""
    process = jobs.start("train", "--config", jobs.config_file(config, folder), log=folder / "log")
    jobs.wait_for(lambda: checkpoint.complete_steps(config.run_uri()), process)
    return process


def last_line(folder: Path) -> str:
    text = (folder / "log").read_text()
    assert "Traceback" not in text, text[-3000:]
    return text.strip().splitlines()[-1]


def goes_on(config: Config, whole: Config, folder: Path) -> None:
    """The same command ends as the uninterrupted run."""
    result = jobs.run("train", "--config", jobs.config_file(config, folder))
    assert result.returncode == 0, result.stderr[-3000:]
    assert losses(config) == pytest.approx(losses(whole), rel=1e-5)


def test_a_store_that_is_away_for_20_seconds_costs_nothing(
    root: str, whole: Config, s3: S3Server, tmp_path: Path
) -> None:
    config = configure(root, "away")
    process = started(config, tmp_path)
    s3.stop()
    time.sleep(20)
    s3.start()
    assert process.wait(timeout=400) == 0, (tmp_path / "log").read_text()[-3000:]
    assert losses(config) == pytest.approx(losses(whole), rel=1e-5)


def test_a_store_that_stays_away_ends_the_job_with_one_line_and_the_last_checkpoint_is_good(
    root: str, whole: Config, s3: S3Server, tmp_path: Path
) -> None:
    config = configure(root, "gone")
    process = started(config, tmp_path)
    s3.stop()
    try:
        assert process.wait(timeout=500) == 1
        line = last_line(tmp_path)
    finally:
        s3.start()
    assert line.startswith("error: ")
    assert s3.endpoint in line or "s3://" in line
    goes_on(config, whole, tmp_path)


def test_a_full_disk_while_saving_ends_the_job_with_one_line_and_the_last_checkpoint_is_good(
    root: str, whole: Config, tmp_path: Path
) -> None:
    config = configure(root, "full")
    process = started(config, tmp_path)
    limit = 100_000  # bytes a file may have: less than a checkpoint's, more than the log
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, limit))
    assert process.wait(timeout=300) == 1
    assert last_line(tmp_path).startswith("error: ")
    goes_on(config, whole, tmp_path)


def test_a_second_job_of_the_same_run_is_refused_while_the_first_is_at_work(
    root: str, tmp_path: Path
) -> None:
    config = configure(root, "twice", steps=100_000)
    process = started(config, tmp_path)
    second = jobs.run("train", "--config", jobs.config_file(config, tmp_path))
    assert second.returncode == 2
    assert "is in use by process" in jobs.last_line(second)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 1
    assert "stopped by SIGTERM after step" in last_line(tmp_path)


@pytest.mark.parametrize("damage", ["deleted", "truncated", "flipped"])
def test_a_damaged_shard_is_named_before_it_is_used(tmp_path: Path, damage: str) -> None:
    write_phantoms(f"{tmp_path}/data")
    (shard, *_) = sorted((tmp_path / "data" / "shards").glob("train-*.tar"))
    content = shard.read_bytes()
    if damage == "deleted":
        shard.unlink()
    elif damage == "truncated":
        shard.write_bytes(content[: len(content) // 2])
    else:
        middle = len(content) // 2
        shard.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    with pytest.raises(SiamdiffError, match=shard.stem):
        train(configure(str(tmp_path), "damaged"), True)
