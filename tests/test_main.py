"""The command line of small tools."""

import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from siamdiff.__main__ import main
from siamdiff.run import Status, lease
from siamdiff.standing import standing
from tests.sets import write_phantoms


def told(uri: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    assert main(["status", str(uri)]) == 0
    return dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())


def test_status_tells_how_a_run_stands(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    Status(str(tmp_path), total=10, log="s3://logs").write(phase="training", done=4, cost=12.345)
    lines = told(tmp_path, capsys)
    assert (lines["phase"], lines["done"], lines["left"], lines["error"]) == ("training", "4", "6", "-")
    assert (lines["cost"], lines["log"]) == ("12.35 dollars", "s3://logs")
    assert lines["next"] == "wait: it is at work"


@pytest.mark.parametrize(
    ("ended", "advice"),
    [
        ({"phase": "finished", "exit_code": 0}, "nothing: it is done"),
        ({"phase": "failed", "exit_code": 2, "error": "no such base"}, "correct what the error names"),
        (
            {"phase": "failed", "exit_code": 1, "error": "lost"},
            "look at the end of the log, then run the same",
        ),
        ({"phase": "stopped", "exit_code": 1}, "run the same command again: it goes on from there"),
    ],
)
def test_status_says_what_to_do_next(tmp_path: Path, capsys: pytest.CaptureFixture[str], ended, advice):
    Status(str(tmp_path)).write(**ended)
    assert told(tmp_path, capsys)["next"].startswith(advice)


def test_status_tells_a_job_at_work_from_one_that_is_gone(tmp_path: Path):
    Status(str(tmp_path)).write(phase="training")
    now = datetime.now(UTC)
    assert standing(str(tmp_path), now + timedelta(minutes=14))["next"] == "wait: it is at work"
    assert "its process is gone" in standing(str(tmp_path), now + timedelta(minutes=16))["next"]
    with lease(str(tmp_path)):
        assert f"process {os.getpid()} on" in standing(str(tmp_path), now + timedelta(seconds=30))["next"]
        later = standing(str(tmp_path), now + timedelta(minutes=2))
    assert "its process is gone" in later["next"], "whoever lives renews its lease every 10 seconds"
    assert re.search(r"\((1:5\d|2:0\d) ago\)$", later["heartbeat"])


def test_a_damaged_status_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "status.json").write_bytes(b'{"phase": "training"}')
    assert main(["status", str(tmp_path)]) == 1
    assert "status.json is damaged" in capsys.readouterr().err


def test_status_of_nothing_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["status", str(tmp_path / "none")]) == 2
    assert "status.json does not exist" in capsys.readouterr().err


@pytest.mark.soak
def test_verify_ends_as_it_says_every_time(tmp_path: Path):
    """Threads of a library once aborted one in ten of these short processes while they exited."""
    write_phantoms(str(tmp_path), count=4)
    command = [sys.executable, "-m", "siamdiff", "verify", str(tmp_path)]
    assert [subprocess.run(command, capture_output=True).returncode for _ in range(10)] == [0] * 10
