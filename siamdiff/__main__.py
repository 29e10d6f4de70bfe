"""Small tools that need no cluster: python -m siamdiff COMMAND --help."""

import argparse
import sys

from siamdiff.commands import (
    convert,
    doctor,
    export,
    gc,
    masks,
    privacy,
    report,
    status,
    study,
    trace,
    verify,
)
from siamdiff.errors import SiamdiffError, one_line

COMMANDS = (verify, gc, status, convert, doctor, export, masks, report, study, privacy, trace)


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit code; the last line on stderr says why it is not 0."""
    parser = argparse.ArgumentParser(prog="siamdiff", description="Small tools that need no cluster.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(commands)
    arguments, others = parser.parse_known_args(argv)
    if arguments.command in ("doctor", "masks"):
        arguments.configuration = others
    elif others:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    try:
        return arguments.run(arguments)
    except SiamdiffError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
