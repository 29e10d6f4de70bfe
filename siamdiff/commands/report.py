"""report: the page of an experiment."""

import argparse


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to those of `python -m siamdiff`."""
    text = (
        "Writes the page of a finished experiment: pairs, figures, segmentation, copies, masks, training, provenance. "
        "One file that needs no network. With --share a page without a real image, a real annotation, a real sample's "
        "key or a place in the store."
    )
    parser = commands.add_parser("report", help="the page of an experiment", description=text)
    parser.add_argument("uri", metavar="URI", help="ROOT/experiments/DIGEST, with experiment.json")
    parser.add_argument("--share", action="store_true", help="without anything real")
    parser.add_argument(
        "--output", metavar="FILE_OR_URI", help="[report.html in that folder, report-share.html with --share]"
    )
    parser.set_defaults(run=_report)


def _report(arguments: argparse.Namespace) -> int:
    from siamdiff.report.page import write_report

    print(f"report: {write_report(arguments.uri, arguments.share, arguments.output)}")
    return 0
