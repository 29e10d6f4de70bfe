"""Small tools that need no cluster: python -m siamdiff COMMAND --help."""

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from siamdiff import storage
from siamdiff.data.latents import verify_caches
from siamdiff.data.shardset import ShardSet, verify
from siamdiff.errors import SiamdiffError, UserError, one_line, printable


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit code; the last line on stderr says why it is not 0."""
    parser = argparse.ArgumentParser(prog="siamdiff", description="Small tools that need no cluster.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_verify(commands)
    _add_gc(commands)
    _add_status(commands)
    _add_convert(commands)
    _add_doctor(commands)
    _add_export(commands)
    _add_masks(commands)
    _add_report(commands)
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


def _add_verify(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
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


def _add_gc(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
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


def _add_status(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
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


def _add_doctor(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
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


def _add_masks(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = (
        "Draws the masks that a configuration would generate images for: a row per mask of the set, its folds side by "
        "side, the parent's outline on each. Needs the masks alone, no model. Takes any field of the configuration as "
        "--SECTION.FIELD VALUE, as the jobs do."
    )
    parser = commands.add_parser("masks", help="a sheet of transformed masks", description=text)
    parser.add_argument(
        "--preview", metavar="SHEET", required=True, help="PNG that is written: a file or URI"
    )
    parser.add_argument("--config", metavar="FILE", required=True, help="experiment file")
    parser.add_argument("--rows", type=int, default=8, help="masks shown, spread over the set's keys [8]")
    parser.set_defaults(run=_masks)


def _masks(arguments: argparse.Namespace) -> int:
    from siamdiff.commandline import load
    from siamdiff.sampling.mask_sheet import preview

    file = Path(arguments.config)
    config, _ = load(["--config", str(file), *arguments.configuration], file, "")
    sheet = storage.normalize(arguments.preview)
    png, told = preview(config.generate, arguments.rows)
    storage.write_bytes(sheet, png)
    print(f"{told}: {sheet}")
    return 0


def _add_report(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
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


def _add_convert(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = (
        "A single file (Stable Diffusion 1.x, or the authors' merged_pytorch_model.pth) becomes a folder: a model if "
        "it holds a control network, else a base. A model's folder becomes the authors' file. Every tensor keeps its "
        "bits; pickles with code are refused."
    )
    parser = commands.add_parser("convert", help="from and to the authors' single file", description=text)
    parser.add_argument(
        "source", metavar="SOURCE", help="file (.safetensors, .ckpt, .pth, .pt) or model folder"
    )
    parser.add_argument("target", metavar="TARGET", help="folder, or file (.safetensors, .pth) of a model")
    parser.add_argument(
        "--base",
        help="folder in diffusers' layout, or hub id, with parts and configurations that the file lacks",
    )
    parser.add_argument(
        "--resolution", type=int, default=384, help="side of the images the model was trained on [384]"
    )
    parser.add_argument(
        "--license", default="unknown", help="of the model; travels to synthetic sets [unknown]"
    )
    parser.add_argument(
        "--permitted-use", default="unknown", help="what it permits; travels likewise [unknown]"
    )
    parser.set_defaults(run=_convert)


def _convert(arguments: argparse.Namespace) -> int:
    from siamdiff.model import convert, sources  # PyTorch, which the other tools do without

    source, target = (storage.normalize(uri) for uri in (arguments.source, arguments.target))
    if sources.is_single_file(source):
        about = {name: getattr(arguments, name) for name in ("resolution", "license", "permitted_use")}
        print(convert.import_file(source, target, arguments.base, about))
    else:
        print(convert.export_model(source, target))
    return 0


def _add_export(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = (
        "Writes complete sets, real and synthetic, in a form that other tools open. folder: images/, masks/, "
        "metadata.jsonl. nnunet: a raw data set of nnU-Net v2, with synthetic cases for training alone. hf: parquet "
        "for `datasets`. The target is whole or, on a disk, not there."
    )
    parser = commands.add_parser("export", help="a set for other tools", description=text)
    parser.add_argument(
        "sets", metavar="SET", nargs="+", help="folder of a set: /data/polyps or s3://bucket/polyps"
    )
    parser.add_argument("--format", required=True, choices=("folder", "nnunet", "hf"))
    parser.add_argument(
        "--to",
        metavar="TARGET",
        required=True,
        help="folder that does not exist yet; with nnunet .../nnUNet_raw/DatasetNNN_NAME",
    )
    parser.add_argument(
        "--folds",
        type=int,
        help="with nnunet: cross-validation in this many folds [the sets' own split; 5 where nothing is in val]",
    )
    parser.set_defaults(run=_export)


def _export(arguments: argparse.Namespace) -> int:
    from siamdiff.export import folder, hf, nnunet

    if arguments.format != "nnunet" and arguments.folds is not None:
        raise UserError(f"--folds {arguments.folds} is for --format nnunet; leave it out")
    if arguments.format == "nnunet":
        counts = nnunet.export_nnunet(arguments.sets, arguments.to, arguments.folds)
    else:
        write = folder.export_folder if arguments.format == "folder" else hf.export_hf
        counts = write(arguments.sets, arguments.to)
    told = ", ".join(f"{name} {count}" for name, count in counts.items())
    print(f"exported to {storage.normalize(arguments.to)}: {told}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
