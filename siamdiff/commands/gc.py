"""gc: what lost attempts left in a set."""

import argparse


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to those of `python -m siamdiff`."""
    text = (
        "Removes what no marker names in a shard set: tars of attempts that were lost before they marked them, and "
        "files that were never finished. Samples of the set are not touched."
    )
    parser = commands.add_parser("gc", help="remove what lost attempts left in a set", description=text)
    parser.add_argument("uri", metavar="URI", help="folder of the set")
    parser.add_argument("--dry-run", action="store_true", help="only list it")
    parser.set_defaults(run=_gc)


def _gc(arguments: argparse.Namespace) -> int:
    from siamdiff.data.repair import collect

    names = collect(arguments.uri, dry_run=arguments.dry_run)
    for name in names:
        print(name)
    print(f"{len(names)} files {'would be ' if arguments.dry_run else ''}removed")
    return 0
