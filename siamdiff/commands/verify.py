"""verify: whether a shard set is whole, and --repair."""

import argparse
import sys

from siamdiff.data.latents import verify_caches
from siamdiff.data.shardset import ShardSet, verify
from siamdiff.errors import SiamdiffError, printable


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to those of `python -m siamdiff`."""
    text = (
        "Re-reads a shard set: hashes, counts, members, images and binary masks, a synthetic set's plan and the masks "
        "that it was made for, and the caches beside it. Exit code 0: whole; 1: damaged, with one problem a line on "
        "stderr; 2: not a complete set."
    )
    parser = commands.add_parser("verify", help="re-read a shard set, byte by byte", description=text)
    parser.add_argument("uri", metavar="URI", help="folder of the set: /data/polyps or s3://bucket/polyps")
    parser.add_argument(
        "--repair",
        action="store_true",
        help="drop what is damaged: the command that made the set then makes just that again, as a new revision",
    )
    parser.set_defaults(run=_verify)


def _verify(arguments: argparse.Namespace) -> int:
    from siamdiff.sampling.audit import audit_of

    if arguments.repair:
        return _repair(arguments.uri)
    problems = verify(arguments.uri, audit_of)
    if not problems:  # of a damaged set no cache is of use
        problems = verify_caches(arguments.uri)
    if problems:
        for problem in problems:
            print(printable(problem), file=sys.stderr)
        print(
            f"error: {arguments.uri} is damaged: {len(problems)} problems, listed above; verify --repair, then the "
            "command that made it, make it whole again",
            file=sys.stderr,
        )
        return SiamdiffError.exit_code
    manifest = ShardSet.open(arguments.uri).manifest
    print(f"whole: {manifest.count} samples in {len(manifest.shards)} shards, revision {manifest.revision}")
    return 0


def _repair(uri: str) -> int:
    from siamdiff.data.repair import repair
    from siamdiff.sampling.audit import audit_of

    done = repair(uri, audit_of)
    for problem in done.problems:
        print(printable(problem))
    if not done.problems:
        print("whole: nothing to repair")
    else:
        print(
            f"{len(done.dropped)} shards are to be made again: run the command that made the set (jobs/generate.py, "
            "jobs/ingest.py) with the same settings"
        )
    return 0
