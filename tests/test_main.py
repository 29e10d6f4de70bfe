"""The command line of small tools."""

import subprocess
import sys
from pathlib import Path

import pytest

from siamdiff.__main__ import main
from siamdiff.run import Status
from tests.sets import write_phantoms


def test_status_tells_how_a_run_stands(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    Status(str(tmp_path), total=10).write(phase="training", done=4)
    assert main(["status", str(tmp_path)]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert (lines["phase"], lines["done"], lines["left"], lines["error"]) == ("training", "4", "6", "-")


def test_status_of_nothing_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["status", str(tmp_path / "none")]) == 2
    assert "status.json does not exist" in capsys.readouterr().err


def test_verify_ends_as_it_says_every_time(tmp_path: Path):
    """Threads of a library once aborted one in ten of these short processes while they exited."""
    write_phantoms(str(tmp_path), count=4)
    command = [sys.executable, "-m", "siamdiff", "verify", str(tmp_path)]
    assert [subprocess.run(command, capture_output=True).returncode for _ in range(10)] == [0] * 10
