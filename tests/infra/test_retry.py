"""A command run again: by its exit code, its signals, and whether it was asked to stop."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from infra import retry
from siamdiff.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]

# Ends by the word that stands in its file for this run, and leaves a line for each run.
CHILD = """
import os, signal, sys
from pathlib import Path
from infra.retry import stay_stopped
folder = Path(sys.argv[1])
with open(folder / "runs", "a") as file:
    file.write("run\\n")
number = len((folder / "runs").read_text().splitlines())
ending = (folder / "endings").read_text().split()[number - 1]
if ending == "wait":
    def stopped(number, frame):
        (folder / "signals").open("a").write(signal.Signals(number).name + "\\n")
        sys.exit(1)
    signal.signal(signal.SIGTERM, stopped)
    print("waiting", flush=True)
    signal.pause()
elif ending == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
elif ending == "stopped":
    stay_stopped()
    sys.exit(1)
sys.exit(int(ending))
"""


def _child(folder: Path, endings: str) -> list[str]:
    (folder / "child.py").write_text(CHILD)
    (folder / "endings").write_text(endings)
    return [sys.executable, str(folder / "child.py"), str(folder)]


def _runs(folder: Path) -> int:
    return len((folder / "runs").read_text().splitlines())


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))


@pytest.mark.parametrize(
    ("endings", "runs", "code"),
    [
        ("0 0", 1, 0),
        ("2 0", 1, 2),  # a mistake: the same would happen again
        ("1 0", 2, 0),
        ("kill 0", 2, 0),
        ("3 0", 2, 0),
        ("1 kill 2", 3, 2),
        ("1 1 1 0", 3, 1),
        ("kill kill kill", 3, 1),
        ("stopped 0", 1, 1),  # by a budget
    ],
)
def test_it_runs_again_while_that_may_help(tmp_path: Path, endings: str, runs: int, code: int) -> None:
    assert retry.run(3, _child(tmp_path, endings), seconds_between=0.01) == code
    assert _runs(tmp_path) == runs


def test_a_number_of_runs_and_a_program_are_needed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least 1 is needed"):
        retry.run(0, ["true"])
    with pytest.raises(UserError, match="cannot be started: No such file"):
        retry.run(1, [str(tmp_path / "absent")])


@contextmanager
def _door(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, REPOSITORY / "jobs" / "retry.py", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_handed_on_and_ends_it(tmp_path: Path, number: signal.Signals) -> None:
    with _door("3", *_child(tmp_path, "wait 0")[1:]) as process:
        assert process.stdout and process.stdout.readline() == "waiting\n"
        process.send_signal(number)
        assert process.wait() == 1
    assert (tmp_path / "signals").read_text() == "SIGTERM\n"
    assert _runs(tmp_path) == 1


def test_a_signal_between_two_runs_ends_it(tmp_path: Path) -> None:
    with _door("3", *_child(tmp_path, "1 0")[1:]) as process:
        assert process.stderr and "run 2 of 3 in 20 s" in process.stderr.readline()
        process.terminate()
        assert process.wait() == 1
    assert _runs(tmp_path) == 1


@pytest.mark.parametrize("arguments", [("x", "jobs/train.py"), ("0", "jobs/train.py")])
def test_what_is_no_command_is_refused_in_one_line(arguments: tuple[str, ...]) -> None:
    with _door(*arguments) as process:
        _, errors = process.communicate()
    assert process.returncode == 2
    assert errors.startswith("error: ")
    assert len(errors.splitlines()) == 1


def _job(folder: Path, stage: str, options: tuple[str, ...] = ()) -> list[str]:
    """A job whose stage is these lines; leaves a line for each run."""
    (folder / "job.py").write_text(
        "import signal, time\n"
        "from infra.job import run\n"
        "from siamdiff.errors import SiamdiffError, StoppedError, UserError\n"
        f"open({str(folder / 'runs')!r}, 'a').write('run\\n')\n"
        "def stage(config, is_demo):\n"
        f"    {stage}\n"
        f"run('__main__:stage', '', ['--root', {str(folder / 'root')!r}, *{options!r}])\n"
    )
    return [str(folder / "job.py")]


@pytest.mark.parametrize(
    ("stage", "options", "code", "runs"),
    [
        ("raise SiamdiffError('the store is away')", (), 1, 2),
        ("pass", ("--train.stepz", "3"), 2, 1),
        ("raise StoppedError('stopped by its budget')", (), 1, 1),
    ],
)
def test_a_job_is_run_again_unless_it_was_given_a_mistake_or_asked_to_stop(
    tmp_path: Path, stage: str, options: tuple[str, ...], code: int, runs: int
) -> None:
    command = [sys.executable, *_job(tmp_path, stage, options)]
    assert retry.run(2, command, seconds_between=0.01) == code
    assert _runs(tmp_path) == runs


def test_a_job_that_is_told_twice_to_stop_still_leaves_tidily(tmp_path: Path) -> None:
    stage = """
    try:
        print("working", flush=True)
        signal.pause()
    finally:
        print("leaving", flush=True)
        time.sleep(0.3)
        print("left", flush=True)
"""
    with _door("2", *_job(tmp_path, stage)) as process:  # `ray job stop` signals the job beside the door
        assert process.stdout and process.stdout.readline() == "working\n"
        process.terminate()
        assert process.stdout.readline() == "leaving\n"
        os.killpg(process.pid, signal.SIGTERM)
        assert process.stdout.readline() == "left\n"
        _, errors = process.communicate()
    assert process.returncode == 1
    assert errors.splitlines()[-1] == "error: stopped by SIGTERM; the same command goes on from here"
    assert "Traceback" not in errors
