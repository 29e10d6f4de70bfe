"""Who listens where: as docs/security.md says, and on this machine alone where the cluster is this machine."""

import json
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests import jobs
from tests.infra.test_submit import cluster as head  # noqa: F401 - a fixture
from tests.listeners import below, documented, is_loopback, listening, unless_taken
from tests.sets import small_config

ONE_MACHINE, STARTED = "A cluster of one machine", "A cluster made by `ray start` or KubeRay"


@pytest.mark.cluster
def test_a_cluster_of_one_machine_listens_on_loopback_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.listeners"],
        cwd=jobs.REPOSITORY,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = {tuple(row) for row in json.loads(done.stdout.splitlines()[-1])}
    assert found | unless_taken(ONE_MACHINE) == documented(ONE_MACHINE)
    assert all(is_loopback(address) for _, address in found)


@pytest.mark.soak
@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_a_running_job_listens_where_it_says_and_shows_no_secret(tmp_path: Path) -> None:
    config = small_config(
        str(tmp_path / "root"),
        train={"engine": "deepspeed", "workers": 2, "steps": 12, "checkpoint_steps": 6},
    )
    secret = {"AWS_SECRET_ACCESS_KEY": secrets.token_hex(20), "AWS_ACCESS_KEY_ID": "AKIA" + "Y" * 16}
    found, shown = set(), set()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in secret.items():
            patch.setenv(name, value)
        process = jobs.start("train", "--config", jobs.config_file(config, tmp_path), log=tmp_path / "log")
    try:
        while process.poll() is None:
            processes = below(process.pid)
            found |= listening(processes)
            shown |= {" ".join(command) for command in map(_command, processes)}
            time.sleep(0.5)
    except psutil.NoSuchProcess:
        process.wait()
    text = (tmp_path / "log").read_text()
    assert process.returncode == 0, text[-3000:]
    assert found | unless_taken(ONE_MACHINE) == documented(ONE_MACHINE) | documented(
        "While several workers train"
    )
    hidden = [*secret.values(), os.environ["RAY_AUTH_TOKEN"]]
    written = [file.read_bytes().decode(errors="replace") for file in tmp_path.rglob("*") if file.is_file()]
    for place in (*shown, *written, text):
        assert not [value for value in hidden if value in place]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.mark.soak
@pytest.mark.cluster
def test_a_started_head_listens_as_documented(head: dict[str, str]) -> None:  # noqa: F811
    own = {entry.address for entries in psutil.net_if_addrs().values() for entry in entries}
    expected, found = documented(STARTED), unless_taken(STARTED)
    deadline = time.monotonic() + 60
    while found != expected and time.monotonic() < deadline:
        for name, address in listening(_of(head["RAY_TEMP"])):
            is_all = address in ("::", "0.0.0.0")
            assert is_all or address in own
            found.add((name, "all" if is_all else address if is_loopback(address) else "the node's"))
        time.sleep(0.5)
    assert sorted(found) == sorted(expected)


def _of(folder: str) -> list[psutil.Process]:
    """The processes of the head whose sessions lie in a folder, and those that they started."""
    started = [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(folder in part for part in process.info["cmdline"] or [])
    ]
    return [*started, *(child for process in started for child in process.children(recursive=True))]
