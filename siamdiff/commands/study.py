"""study: real against synthetic images, judged by readers who do not know which is which."""

import argparse
import logging
import sys

from siamdiff.errors import UserError

PORT = 8765


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to those of `python -m siamdiff`."""
    text = (
        "Readers rate real and synthetic images without knowing which is which. make draws the images and the readers' "
        "codes, serve shows them on a local web page, score says what came out. See docs/study.md."
    )
    parser = commands.add_parser(
        "study", help="readers rate real and synthetic images, blinded", description=text
    )
    steps = parser.add_subparsers(dest="step", metavar="STEP", required=True)
    _add_make(steps)
    _add_serve(steps)
    _add_score(steps)


def _add_make(steps: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = (
        "Draws a study: half of the images real, half synthetic, of every method and every class of lesion size as "
        "many. Prints the readers' personal codes, once: they are kept as hashes."
    )
    parser = steps.add_parser("make", help="draw the images and the readers' codes", description=text)
    parser.add_argument("--real", metavar="SET", required=True, help="real set: /data/polyps or s3://...")
    parser.add_argument(
        "--synthetic", metavar="NAME=SET", nargs="+", required=True, help="synthetic sets, one per method"
    )
    parser.add_argument("--to", metavar="FOLDER", required=True, help="folder that does not exist yet")
    parser.add_argument("--images", type=int, required=True, metavar="N", help="images, without repeats")
    parser.add_argument(
        "--repeats", type=int, default=0, metavar="K", help="how many of them are shown twice, long apart [0]"
    )
    parser.add_argument("--readers", type=int, required=True, metavar="COUNT", help="how many codes")
    parser.add_argument("--seed", type=int, default=0, help="of the images' choice, not of their order [0]")
    parser.add_argument("--split", help="of the real set: test, say, which no model has seen [all]")
    parser.set_defaults(run=_make)


def _add_serve(steps: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = (
        "Serves the page until Ctrl-C. Every answer is on the disk before the page says that it is saved, so the "
        "server may be stopped, killed and started again at any time."
    )
    parser = steps.add_parser("serve", help="show them on a web page", description=text)
    parser.add_argument("folder", metavar="FOLDER", help="the study's")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; any but this machine's own needs a reverse proxy with TLS before it [127.0.0.1]",
    )
    parser.add_argument("--port", type=int, default=PORT, help=f"0: any free one [{PORT}]")
    parser.set_defaults(run=_serve)


def _add_score(steps: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = (
        "Scores what readers have said so far, complete or not: mean opinion scores, accuracy, agreement, each with "
        "its interval. Writes tables, plot and CSV; they tell which image is real."
    )
    parser = steps.add_parser("score", help="say what came out", description=text)
    parser.add_argument("folder", metavar="FOLDER", help="the study's")
    parser.add_argument("--to", metavar="FOLDER", help="where tables, plot and CSV go [FOLDER/scores]")
    parser.set_defaults(run=_score)


def _make(arguments: argparse.Namespace) -> int:
    from siamdiff.sections.named import named_sets
    from siamdiff.study.making import Plan, make_study

    try:
        synthetic = named_sets(arguments.synthetic, "synthetic")
    except ValueError as error:
        raise UserError(f"--synthetic: {error}") from error
    plan = Plan(arguments.images, arguments.repeats, arguments.readers, arguments.seed, arguments.split)
    made = make_study(arguments.real, synthetic, arguments.to, plan)
    for method, counts in made.counts.items():
        print(f"{method}: {', '.join(f'{count} {lesion}' for lesion, count in counts.items())}")
    if made.related:
        print(
            f"{made.related} images share a patient or a mask with another one: the sets are too small to avoid it",
            file=sys.stderr,
        )
    print("personal codes, one for each reader; they cannot be shown again:")
    for reader, code in made.codes.items():
        print(f"  {reader}  {code}")
    print(f"made: {made.place}; next: python -m siamdiff study serve {made.place}")
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    try:
        from siamdiff.study.serving import Address, serve
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "uvicorn", "starlette"):
            raise
        raise UserError(
            f"study serve needs {error.name}, which is not installed; pip install 'siamdiff[study]'"
        ) from error

    def tell(address: Address) -> None:
        if not address.is_loopback:
            print(
                f"warning: {address.host} can be reached from other machines, and this server speaks plain HTTP: codes "
                "and images could be read on the way. Put a reverse proxy with TLS before it, and let only that one in",
                file=sys.stderr,
            )
        print(f"serving {address.url}  (Ctrl-C ends it; nothing is lost)", flush=True)

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    logging.getLogger("siamdiff.study").setLevel(logging.INFO)
    try:
        serve(arguments.folder, arguments.host, arguments.port, tell)
    except KeyboardInterrupt:
        print("stopped")
    return 0


def _score(arguments: argparse.Namespace) -> int:
    from siamdiff.study.scoring import score

    scored = score(arguments.folder, arguments.to)
    print(scored.text)
    print(f"scores: {scored.place}")
    return 0
