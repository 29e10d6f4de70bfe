"""A Ray cluster of several nodes on this machine, whose nodes can be killed, drained and added as real ones are."""

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import psutil

from tests.namespaces import Link

RAY = str(Path(sys.executable).parent / "ray")


class Node:
    """One raylet with everything below it."""

    def __init__(self, process: subprocess.Popen[bytes], name: str) -> None:
        self.process, self.name = process, name

    def processes(self) -> list[psutil.Process]:
        """Of this node: raylet, agents, workers."""
        top = psutil.Process(self.process.pid)
        return [top, *top.children(recursive=True)]

    def kill(self) -> None:
        """SIGKILL for everything at once, as when a machine is switched off."""
        if self.process.poll() is None:
            for process in self.processes():
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    continue
            self.process.wait()


class Cluster:
    """A head without cores, so that nothing is lost with a node but workers; `add` gives it nodes.

    Args:
        link: to another machine, on which `add` can start nodes; the head is then at the cable's end here.
    """

    def __init__(self, link: Link | None = None) -> None:
        self.link = link
        self.environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            # as in an activated environment: the cluster runs the "python" that it finds
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        if link:
            self.environment["GLOO_SOCKET_IFNAME"] = link.interface
        self._folder = tempfile.TemporaryDirectory(
            prefix="ray-"
        )  # of sockets too: their paths may not be long
        self.folder = Path(self._folder.name)
        self._others = tempfile.TemporaryDirectory(
            prefix="siamdiff-"
        )  # folders of nodes on the other machine
        self.nodes: list[Node] = []

    def __enter__(self) -> Self:
        port, dashboard = free_port(), free_port()
        self.environment["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{dashboard}"
        here = self.link.here if self.link else _address()
        self.address = f"{here}:{port}"
        self._start(
            "head", "--head", f"--node-ip-address={here}", "--num-cpus=0", f"--port={port}",
            f"--dashboard-port={dashboard}", f"--temp-dir={self._folder.name}",
        )  # fmt: skip
        self._wait_for(1)
        self.environment["RAY_ADDRESS"] = self.address
        return self

    def __exit__(self, *_exception: object) -> None:
        for node in reversed(self.nodes):
            node.kill()
        self._folder.cleanup()
        self._others.cleanup()

    def add(self, cpus: int = 1, there: bool = False) -> Node:
        """A node that joined, here or on the other machine."""
        name, arguments = f"node {len(self.nodes)}", [f"--address={self.address}", f"--num-cpus={cpus}"]
        if not self.link:
            node = self._start(name, *arguments)
        elif there:
            own = tempfile.mkdtemp(prefix="there-", dir=self._others.name)
            inside = self.link.inside(own, self._folder.name)
            node = self._start(name, *arguments, f"--node-ip-address={self.link.there}", inside=inside)
        else:
            node = self._start(name, *arguments, f"--node-ip-address={self.link.here}")
        self._wait_for(len(self.living()))
        return node

    def living(self) -> list[Node]:
        """Nodes that were not killed, the head among them."""
        return [node for node in self.nodes if node.process.poll() is None]

    def cpus_by_id(self) -> dict[str, float]:
        """Cores of the living nodes by Ray's id."""
        code = (
            "import ray; ray.init(logging_level='ERROR'); "
            "print(*[f\"{n['NodeID']}={n['Resources'].get('CPU', 0)}\" for n in ray.nodes() if n['Alive']])"
        )
        pairs = (pair.partition("=") for pair in self._python(code).split())
        return {node: float(cpus) for node, _, cpus in pairs}

    def drain(self, node_id: str, seconds: float) -> None:
        """Announces that a node goes in so many seconds, as a cloud does."""
        subprocess.run(
            [
                RAY, "drain-node", f"--address={self.address}", f"--node-id={node_id}",
                "--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=taken back",
                f"--deadline-remaining-seconds={seconds:g}",
            ],
            env=self.environment, check=True, capture_output=True, timeout=120,
        )  # fmt: skip

    def _start(self, name: str, *arguments: str, inside: Sequence[str] = ()) -> Node:
        command = [
            *inside, RAY, "start", *arguments, "--block", "--min-worker-port=0", "--max-worker-port=0",
            "--dashboard-agent-listen-port=0", "--disable-usage-stats",
        ]  # fmt: skip
        with open(Path(self._folder.name) / f"{name}.log", "wb") as output:
            process = subprocess.Popen(command, env=self.environment, stdout=output, stderr=output)
        self.nodes.append(Node(process, name))
        return self.nodes[-1]

    def _wait_for(self, nodes: int, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        code = (
            f"import ray; ray.init('{self.address}', logging_level='ERROR'); "
            "print(sum(n['Alive'] for n in ray.nodes()))"
        )
        while int(self._python(code, check=False) or 0) < nodes:
            assert time.monotonic() < deadline, "the cluster did not come up"
            assert self.nodes[-1].process.poll() is None, f"{self.nodes[-1].name} ended"
            time.sleep(1)

    def _python(self, code: str, check: bool = True) -> str:
        """What a client of the cluster prints."""
        return subprocess.run(
            [sys.executable, "-c", code], env=self.environment, check=check, capture_output=True, text=True
        ).stdout.strip()


def free_port() -> int:
    """A port that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _address() -> str:
    """The address that Ray gives this machine's nodes."""
    from ray.util import get_node_ip_address

    return get_node_ip_address()
