"""doctor: what a configuration needs, before it is run."""

import argparse
import sys
from pathlib import Path


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to those of `python -m siamdiff`."""
    text = (
        "Looks whether the store, this machine, the weights and the data are as a configuration needs them; leaves "
        "nothing behind. One line a check. Exit code 0: nothing fails; 2: a mistake in what was given; 1: the rest. "
        "Takes any field of the configuration as --SECTION.FIELD VALUE, as the jobs do."
    )
    parser = commands.add_parser(
        "doctor", help="what a configuration needs, before it is run", description=text
    )
    parser.add_argument("--config", metavar="FILE", required=True, help="experiment file")
    parser.set_defaults(run=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    from huggingface_hub.utils import logging as hub_logging

    from siamdiff.commandline import load
    from siamdiff.doctor import examine, exit_code

    hub_logging.set_verbosity_error()  # a hub that cannot be reached is one line here, not one for every attempt
    file = Path(arguments.config)
    config, _ = load(["--config", str(file), *arguments.configuration], file, "")
    findings = []
    for finding in examine(config):
        print(finding, flush=True)
        findings.append(finding)
    failed = [finding for finding in findings if finding.level == "FAIL"]
    if failed:
        print(f"error: {len(failed)} of {len(findings)} checks fail, listed above", file=sys.stderr)
    return exit_code(findings)
