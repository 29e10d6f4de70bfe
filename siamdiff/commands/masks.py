"""masks: a sheet of transformed masks."""

import argparse
from pathlib import Path

from siamdiff import storage


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to those of `python -m siamdiff`."""
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
