"""Imported by every Python process that finds it on PYTHONPATH: notes each attempt to reach another machine.

The file that GUARD_LOG names gets a line for each connection that is not to this machine and each name that is looked
up. Sockets of native code are not seen: for them the network itself is taken away (tests/test_network.py).
"""

import os
import socket
import sys

_HERE = ("127.", "::1", "localhost", "0.0.0.0", "::ffff:127.")


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        if isinstance(address, tuple) and not str(address[0]).startswith(_HERE):
            _note(f"{event} {address}")
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        name = arguments[0]
        if name and not str(name).startswith((*_HERE, "b'127.")) and str(name) not in _own_names():
            _note(f"{event} {name}")


def _own_names() -> set[str]:
    return {os.uname().nodename, os.environ.get("HOSTNAME", "")}


def _note(text: str) -> None:
    with open(os.environ["GUARD_LOG"], "a", encoding="utf-8") as log:
        log.write(f"{text} by {' '.join(sys.argv)[:200]}\n")


if "GUARD_LOG" in os.environ:
    assert socket  # loaded before the hook, so that the hook imports nothing
    sys.addaudithook(_audit)
