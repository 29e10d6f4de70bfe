"""trace: where an image went."""

import argparse
from pathlib import Path

from siamdiff import storage
from siamdiff.errors import UserError


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to those of `python -m siamdiff`."""
    text = (
        "Lists every set, cache, checkpoint, model, synthetic set, evaluation, segmenter, report and log that used an "
        "image, for withdrawn consent: what each has to do with it, and what to do about it. Deletes nothing. Exit "
        "code 0: found, or none; 1: something cannot be told; 2: a mistake in what was given."
    )
    parser = commands.add_parser("trace", help="where an image went", description=text)
    parser.add_argument(
        "keys", metavar="KEY", nargs="*", help="16 hex digits, or an original file that a private map knows"
    )
    parser.add_argument("--keys", metavar="FILE", dest="file", help="more of them, one a line")
    parser.add_argument(
        "--root",
        metavar="ROOT",
        nargs="+",
        required=True,
        help="where to look: folders or s3://bucket/prefix",
    )
    parser.add_argument("--json", metavar="FILE_OR_URI", help="write the same for machines")
    parser.set_defaults(run=_trace)


def _trace(arguments: argparse.Namespace) -> int:
    from siamdiff.lineage.answer import trace

    wanted = [*arguments.keys, *(_listed(arguments.file) if arguments.file else [])]
    if not wanted:
        raise UserError("no key was given; give 16 hex digits, an original file, or --keys FILE")
    answer = trace(wanted, arguments.root)
    for line in answer.lines():
        print(line)
    if arguments.json:
        storage.write_json(storage.normalize(arguments.json), answer.as_dict())
    return answer.exit_code


def _listed(file: str) -> list[str]:
    """The lines of a file; empty ones and what follows a # are left out."""
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--keys {file} cannot be read ({error}); give a file with one key a line") from error
    return [text for line in lines if (text := line.partition("#")[0].strip())]
