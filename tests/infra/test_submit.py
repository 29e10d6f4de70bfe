"""Jobs submitted to a running cluster with token authentication, as operators do."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from siamdiff import storage
from tests.jobs import REPOSITORY, config_file
from tests.sets import small_config

RAY = str(Path(sys.executable).parent / "ray")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_agent(environment: dict[str, str], seconds: float = 60) -> None:
    """The agent that starts jobs comes up some seconds after the head says it runs."""
    deadline = time.monotonic() + seconds
    trial = [RAY, "job", "submit", "--no-wait", "--", "true"]
    while subprocess.run(trial, env=environment, capture_output=True).returncode:
        assert time.monotonic() < deadline, "the head takes no jobs"
        time.sleep(1)


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """A head node of its own; yields the environment of a client that knows its token."""
    # Ray's sockets lie in this folder, and their paths may not be long
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        port = free_port()
        environment = os.environ | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{port}",
            "RAY_TEMP": folder,
            # as in an activated environment: the cluster runs the "python" that it finds
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        command = [
            RAY, "start", "--head", "--num-cpus=2", f"--port={free_port()}", f"--dashboard-port={port}",
            "--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0",
            f"--temp-dir={folder}", "--disable-usage-stats",
        ]  # fmt: skip
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=120)
        wait_for_agent(environment)
        yield environment
        for process in psutil.process_iter(["cmdline"]):
            if any(folder in part for part in process.info["cmdline"] or []):
                process.send_signal(signal.SIGKILL)


def submit(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [RAY, "job", "submit", "--working-dir", ".", "--", "python", "jobs/train.py", *arguments]
    return subprocess.run(
        command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=280
    )


@pytest.mark.soak
@pytest.mark.cluster
def test_a_submitted_job_trains(cluster: dict[str, str], tmp_path: Path) -> None:
    config = small_config(str(tmp_path / "root"), train={"engine": "deepspeed", "workers": 2})
    result = submit(cluster, "--config", config_file(config, tmp_path), "--train.steps", "20")
    assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]
    assert storage.exists(f"{config.run_uri()}/model/siamdiff.json")
    assert storage.read_json(f"{config.run_uri()}/status.json")["done"] == 20


@pytest.mark.soak
@pytest.mark.cluster
def test_a_failing_job_fails_the_command_and_leaves_its_code(cluster: dict[str, str], tmp_path: Path) -> None:
    config = small_config(str(tmp_path / "root"), train={"engine": "deepspeed", "workers": 2})
    result = submit(cluster, "--config", config_file(config, tmp_path), "--model.base", "/nowhere")
    assert result.returncode != 0
    assert "no base at /nowhere" in result.stdout + result.stderr
    status = storage.read_json(f"{config.run_uri()}/status.json")
    assert (status["phase"], status["exit_code"]) == ("failed", 2)


@pytest.mark.soak
@pytest.mark.cluster
def test_without_the_right_token_nothing_runs(cluster: dict[str, str], tmp_path: Path) -> None:
    def submitted(token: str | None) -> tuple[int, str, bool]:
        environment = {name: value for name, value in cluster.items() if name != "RAY_AUTH_TOKEN"}
        environment |= {"RAY_AUTH_TOKEN": token} if token is not None else {"RAY_AUTH_MODE": "disabled"}
        trace = tmp_path / f"{token is not None}-{len(token or '')}"
        command = [RAY, "job", "submit", "--", "touch", str(trace)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        return done.returncode, done.stdout + done.stderr, trace.exists()

    right = cluster["RAY_AUTH_TOKEN"]
    for wrong, says in (
        (None, "Missing authentication token"),
        ("wrong" * 8, "Invalid authentication token"),
    ):
        code, said, ran = submitted(wrong)
        assert code != 0 and not ran and says in said, said
        assert right not in said
    code, said, ran = submitted(right)
    assert code == 0 and ran, said
    assert right not in said
