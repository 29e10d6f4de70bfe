"""Nothing of ours reaches out: no connection to another machine, no name looked up, and none needed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.jobs import REPOSITORY, command, config_file
from tests.sets import small_config

GUARD = REPOSITORY / "tests" / "guard"
# Ray's dashboard asks at its start which cloud it is on: docs/security.md
METADATA = {"169.254.169.254", "metadata.google.internal"}
# what the tests set to keep libraries quiet, and a user does not
LEFT_OUT = ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "RAY_USAGE_STATS_ENABLED")


def guarded(log: Path) -> dict[str, str]:
    """The environment of processes whose attempts are noted in `log`."""
    environment = {name: value for name, value in os.environ.items() if name not in LEFT_OUT}
    return environment | {"GUARD_LOG": str(log), "PYTHONPATH": f"{GUARD}{os.pathsep}{REPOSITORY}"}


def noted(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def without_network() -> list[str]:
    """What runs a command where no other machine can be reached by anything; nothing where that is not allowed."""
    prefix = ["unshare", "--map-root-user", "--net"]
    try:
        allowed = subprocess.run([*prefix, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return []
    return prefix if allowed else []


def test_the_guard_sees_what_a_process_and_its_children_try(tmp_path: Path) -> None:
    attempts = (
        "import socket, subprocess, sys\n"
        "def quietly(call, *arguments):\n"
        "    try: call(*arguments)\n"
        "    except OSError: pass\n"
        "with socket.socket() as tcp: tcp.settimeout(.01); quietly(tcp.connect, ('192.0.2.1', 9))\n"
        "with socket.socket() as here: quietly(here.connect, ('127.0.0.1', 9))\n"
        "if len(sys.argv) < 2: subprocess.run([sys.executable, *sys.orig_argv[1:], 'child'])\n"
        "else: quietly(socket.getaddrinfo, 'telemetry.invalid', 443)\n"
    )
    log = tmp_path / "log"
    subprocess.run([*without_network(), sys.executable, "-c", attempts], env=guarded(log), check=True)
    assert [line.partition(" by ")[0] for line in noted(log)] == [
        "socket.connect ('192.0.2.1', 9)",
        "socket.connect ('192.0.2.1', 9)",
        "socket.getaddrinfo telemetry.invalid",
    ]


def test_the_method_reaches_no_other_machine_and_needs_none(tmp_path: Path) -> None:
    log = tmp_path / "log"
    road = [*without_network(), sys.executable, "-m", "tests.small_road", str(tmp_path / "root")]
    done = subprocess.run(road, env=guarded(log), cwd=REPOSITORY, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    assert noted(log) == []


@pytest.mark.soak
@pytest.mark.cluster
def test_the_jobs_reach_no_other_machine(tmp_path: Path) -> None:
    """Ray's processes talk to the node's own address, which is no other machine's."""
    log = tmp_path / "log"
    config = small_config(
        str(tmp_path / "root"),
        data={"count": 30},  # of which three are for the test
        train={"engine": "deepspeed", "workers": 2},
        generate={"folds": 1, "limit": 4, "batch_size": 2},
        evaluate={"agreement_steps": 2},
        segment={"arms": ["real", "real+1"], "steps": 2, "seeds": [0], "validations": 0},
    )
    job = command("experiment", "--config", config_file(config, tmp_path))
    done = subprocess.run(job, env=guarded(log), capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    own = own_addresses()
    others = [line for line in noted(log) if not any(f"'{address}'" in line for address in own)]
    assert [
        line for line in others if not (asks(line) in METADATA and "dashboard/dashboard.py" in line)
    ] == []


def asks(line: str) -> str:
    """The machine that a line names."""
    return line.partition(" ")[2].partition(" by ")[0].strip("('").partition("'")[0]


def own_addresses() -> set[str]:
    import psutil

    return {entry.address for entries in psutil.net_if_addrs().values() for entry in entries}
