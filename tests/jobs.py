"""Runs the jobs as a person does, in processes of their own, and finds the processes they start."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import yaml

from siamdiff.config import Config

REPOSITORY = Path(__file__).resolve().parents[1]


def command(job: str, *arguments: str) -> list[str]:
    """The command line of a job."""
    return [sys.executable, str(REPOSITORY / "jobs" / f"{job}.py"), *arguments]


def config_file(config: Config, folder: Path) -> str:
    """Writes a configuration where `--config` finds it."""
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return str(file)


def run(job: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a job to its end; its output is captured."""
    return subprocess.run(command(job, *arguments), capture_output=True, text=True, timeout=600)


def last_line(result: subprocess.CompletedProcess[str]) -> str:
    """The message a job ended with."""
    return result.stderr.strip().splitlines()[-1]


def start(job: str, *arguments: str, log: Path) -> subprocess.Popen[bytes]:
    """Starts a job; its output goes to a file."""
    with open(log, "wb") as output:
        return subprocess.Popen(command(job, *arguments), stdout=output, stderr=subprocess.STDOUT)


def wait_for(condition: Callable[[], object], process: subprocess.Popen[bytes], seconds: float = 300) -> None:
    """Waits until a condition holds while a job runs."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"the job ended with {process.returncode} before its time"
        assert time.monotonic() < deadline, "the job did not get there in time"
        time.sleep(0.05)


def descendants(process: subprocess.Popen[bytes], name: str) -> list[psutil.Process]:
    """Processes below a job whose title holds `name` (Ray names its workers after what they run)."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if name in " ".join(child.cmdline()):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL for a job, then for the cluster it leaves behind."""
    below = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    time.sleep(1)
    for child in below:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue
