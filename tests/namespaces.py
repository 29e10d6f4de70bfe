"""A second machine as far as the network goes: a network namespace with one cable to this one, which can be pulled."""

import os
import secrets
import shutil
import subprocess
from typing import Self


class Link:
    """A cable between this machine and a namespace of its own; both ends have the same name."""

    def __init__(self) -> None:
        subnet = secrets.randbelow(256)
        self.here, self.there = f"10.77.{subnet}.1", f"10.77.{subnet}.2"
        self._name = f"siamdiff-{os.getpid()}"
        self.interface = f"sd{os.getpid()}"  # the cable's end, here and there

    def __enter__(self) -> Self:
        _ip("netns", "add", self._name)
        try:
            _ip(
                "link",
                "add",
                self.interface,
                "type",
                "veth",
                "peer",
                "name",
                self.interface,
                "netns",
                self._name,
            )
            _ip("address", "add", f"{self.here}/24", "dev", self.interface)
            _ip("link", "set", self.interface, "up")
            _ip("address", "add", f"{self.there}/24", "dev", self.interface, inside=self._name)
            _ip("link", "set", "lo", "up", inside=self._name)
            self.mend()
        except subprocess.CalledProcessError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        _ip("netns", "delete", self._name)  # and the cable with it

    def inside(self, own: str, instead_of: str) -> list[str]:
        """What a command is to begin with to run there, with a folder of its own in the place of a folder of here."""
        script = f'mount --bind "{own}" "{instead_of}" && hostname there && exec "$@"'
        return ["ip", "netns", "exec", self._name, "unshare", "--mount", "--uts", "sh", "-c", script, "sh"]

    def cut(self) -> None:
        """Nothing comes through any more, and nobody is told."""
        _ip("link", "set", self.interface, "down", inside=self._name)

    def mend(self) -> None:
        """It does again."""
        _ip("link", "set", self.interface, "up", inside=self._name)
        _ip("route", "add", "default", "via", self.here, inside=self._name)


def cannot_be_made() -> str:
    """Why there can be no namespaces here; "" where there can."""
    if not shutil.which("ip") or not shutil.which("unshare"):
        return "needs ip and unshare (iproute2, util-linux)"
    made = subprocess.run(["unshare", "--net", "--mount", "--uts", "true"], capture_output=True, text=True)
    return f"no network namespace can be made here: {made.stderr.strip()}" if made.returncode else ""


def _ip(*arguments: str, inside: str = "") -> None:
    command = ["ip", *(["-n", inside] if inside else []), *arguments]
    subprocess.run(command, check=True, capture_output=True, text=True)
