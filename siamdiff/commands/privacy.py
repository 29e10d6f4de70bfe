"""privacy: what a data officer has to know before a synthetic set leaves the building."""

import argparse
import sys
from datetime import UTC, datetime

from siamdiff import storage
from siamdiff.errors import SiamdiffError, UserError, printable


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to those of `python -m siamdiff`."""
    text = (
        "Looks for what a synthetic set gives away: copies of training images, membership of training images, masks of "
        "real images, metadata, burned-in text. Writes a page to be signed, privacy.html, and the same as data, "
        "privacy.json, into privacy/DIGEST beside the set. Exit code 0: no check fails; 1: some do, one a line on "
        "stderr; 2: a mistake in what was given."
    )
    parser = commands.add_parser("privacy", help="what a synthetic set gives away", description=text)
    parser.add_argument("uris", metavar="URI", nargs="+", help="folder of a complete synthetic set")
    parser.add_argument("--training", metavar="SET", help="the real set behind it [what the set names]")
    parser.add_argument("--model", metavar="URI", help="the model that drew it [what the set names]")
    parser.add_argument(
        "--quantile",
        type=float,
        default=0.01,
        help="share of new patients that may be taken for copies, in each of two spaces [0.01]",
    )
    parser.add_argument(
        "--members",
        type=int,
        default=200,
        help="training and held-out pairs, each, that the model is asked about; 0: none [200]",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="[cpu]")
    parser.add_argument("--output", metavar="FOLDER", help="[privacy/DIGEST beside the set]")
    parser.add_argument(
        "--share", action="store_true", help="write also privacy-share.html and .json, without anything real"
    )
    parser.add_argument(
        "--without", metavar="TARGET", help="write also a new set without the images over the threshold"
    )
    parser.set_defaults(run=_privacy)


def _privacy(arguments: argparse.Namespace) -> int:
    _check(arguments)
    from siamdiff.privacy.examine import Settings
    from siamdiff.privacy.report import write_report

    settings = Settings(quantile=arguments.quantile, members=arguments.members, device=arguments.device)
    failed = []
    for uri in arguments.uris:
        written = write_report(
            uri,
            settings,
            datetime.now(UTC),
            training=arguments.training,
            model=arguments.model,
            output=arguments.output,
            share=arguments.share,
            without=arguments.without,
        )
        report = written.report
        for title, check in report.checks.items():
            print(f"{check.verdict:<9} {title}: {printable(check.said)}")
            if check.verdict == "fail":
                failed.append(f"{uri}: {title}: {printable(check.said)}")
        print(f"{report.verdict}: {storage.join(written.folder, 'privacy.html')}", flush=True)
        if written.removed is not None:
            print(f"without {written.removed} samples: {storage.normalize(arguments.without)}")
    if not failed:
        return 0
    for line in failed:
        print(line, file=sys.stderr)
    print(
        f"error: {len(failed)} checks fail, listed above; the report says what to do about each",
        file=sys.stderr,
    )
    return SiamdiffError.exit_code


def _check(arguments: argparse.Namespace) -> None:
    if not 0 < arguments.quantile <= 0.5:
        raise UserError(f"--quantile {arguments.quantile:g}: must be above 0 and at most 0.5; 0.01 is usual")
    if arguments.members < 0:
        raise UserError(f"--members {arguments.members}: must be 0 or more; 200 is usual")
    if len(arguments.uris) > 1 and (arguments.output or arguments.without):
        raise UserError("--output and --without are for one set; give one URI, or leave them out")
    if arguments.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UserError("--device cuda: there is no CUDA device here; leave it out")
