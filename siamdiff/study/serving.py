"""Serves a study's page on one address, until it is stopped."""

import contextlib
import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass

import uvicorn

from siamdiff.errors import UserError
from siamdiff.study.answers import Answers
from siamdiff.study.folder import ANSWERS, find, read_readers, read_study
from siamdiff.study.server import create_app

MAX_PORT = 65535


@dataclass(frozen=True)
class Address:
    """Where the page listens."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """What a browser on this machine opens."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}/"

    @property
    def is_loopback(self) -> bool:
        """Whether this machine alone can reach it."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether an address or name is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve(folder: str, host: str, port: int, listening: Callable[[Address], None]) -> None:
    """Serves the study in a folder until SIGINT or SIGTERM.

    Args:
        folder: of the study.
        host: address to listen on.
        port: to listen on; 0: any free one.
        listening: called once it listens, with what was given or found.

    Raises:
        UserError: there is no study, or the address cannot be had.
        SiamdiffError: something of the study is damaged.
    """
    place = find(folder)
    study = read_study(place)
    app = create_app(place, study, read_readers(place), Answers(place / ANSWERS, study.id))
    config = uvicorn.Config(
        app,
        log_config=None,  # the program's own
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    with contextlib.closing(_bound(host, port)) as bound:
        listening(Address(host, bound.getsockname()[1]))
        uvicorn.Server(config).run(sockets=[bound])


def _bound(host: str, port: int) -> socket.socket:
    if not 0 <= port <= MAX_PORT:  # getaddrinfo would take it modulo 65536
        raise UserError(f"--port {port} is not in 0 to {MAX_PORT}")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except (OSError, UnicodeError) as error:  # the latter: of a name that no host can have
        raise UserError(
            f"--host {host} --port {port} cannot be listened on: {error}; "
            "give an address of this machine and a free port"
        ) from error
