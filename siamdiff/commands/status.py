"""status: how a run or a set being made stands."""

import argparse
from datetime import UTC, datetime


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to those of `python -m siamdiff`."""
    parser = commands.add_parser(
        "status",
        help="how a run or a set being made stands",
        description="Phase, done and left, last sign of life, cost, last error, where the logs are and what to do "
        "next, of a run or a set being made. Asks no cluster: all of it lies in the store.",
    )
    parser.add_argument(
        "uri", metavar="URI", help="ROOT/runs/RUN, or ROOT/data, ROOT/synthetic, ROOT/evaluation"
    )
    parser.set_defaults(run=_status)


def _status(arguments: argparse.Namespace) -> int:
    from siamdiff.standing import standing

    for name, value in standing(arguments.uri, datetime.now(UTC)).items():
        print(f"{name:<10} {value}")
    return 0
