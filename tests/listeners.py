"""Which process of a job listens where, read from the kernel, and what docs/security.md says of it.

    python -m tests.listeners

connects as the jobs do, with one actor, and prints a line a listener once all that are documented are there.
"""

import contextlib
import ipaddress
import json
import os
import re
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

DOC = Path(__file__).resolve().parents[1] / "docs" / "security.md"
SECONDS = 120.0

Listener = tuple[str, str]  # process as docs/security.md calls it, address


def kind(process: psutil.Process) -> str:
    """What a process of a cluster is called in the table."""
    command = " ".join(process.cmdline())
    for name in ("gcs_server", "raylet"):
        if process.name() == name:
            return name
    for part, name in {
        "ray::DashboardAgent": "dashboard agent",
        "ray::RuntimeEnvAgent": "runtime environment agent",
        "ray::": "worker",
        "dashboard/dashboard.py": "dashboard",
        "autoscaler/_private/monitor.py": "autoscaler",
        "ray.util.client.server": "client server",
    }.items():
        if part in command:
            return name
    return "job"


def listening(processes: Iterable[psutil.Process]) -> set[Listener]:
    """What TCP listeners some processes have."""
    of_pid = {process.pid: process for process in processes}
    found = set()
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.pid in of_pid:
            with contextlib.suppress(psutil.Error):  # gone by now
                address = str(connection.laddr[0]).removeprefix("::ffff:")
                found.add((kind(of_pid[connection.pid]), address))
    return found


def below(pid: int) -> list[psutil.Process]:
    """A process and all that it started."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def documented(heading: str) -> set[Listener]:
    """The rows of the table under a heading of docs/security.md: process, address."""
    section = DOC.read_text().split(f"### {heading}\n", 1)[1].split("\n#", 1)[0]
    rows = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|", section, re.MULTILINE)
    assert rows, f"no table under {heading}"
    return set(rows)


def unless_taken(heading: str) -> set[Listener]:
    """Those rows whose port is a fixed number, which another cluster of this machine may have."""
    section = DOC.read_text().split(f"### {heading}\n", 1)[1].split("\n#", 1)[0]
    return set(re.findall(r"^\| `([^`]+)` \| `([^`]+)` \| 442[12]7 ", section, re.MULTILINE))


def is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback


def main() -> None:
    from infra import cluster

    cluster.connect()
    import ray

    class Worker:
        def pid(self) -> int:
            return os.getpid()

    worker = ray.remote(Worker).remote()
    ray.get(worker.pid.remote())
    expected = documented("A cluster of one machine") - unless_taken("A cluster of one machine")
    deadline = time.monotonic() + SECONDS
    while not (found := listening(below(os.getpid()))) >= expected and time.monotonic() < deadline:
        time.sleep(0.2)
    sys.stdout.write(json.dumps(sorted(found)) + "\n")
    cluster.leave()


if __name__ == "__main__":
    main()
