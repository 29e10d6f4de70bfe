"""export: sets for other tools."""

import argparse

from siamdiff import storage
from siamdiff.errors import UserError


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to those of `python -m siamdiff`."""
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
