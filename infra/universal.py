"""Checkpoints of ZeRO 1 to 3 made loadable by any number of workers: DeepSpeed's universal checkpoint.

The converter is DeepSpeed's own, run as a process of its own: it prints much, and gives its memory back when it ends.
It unpickles what the run's workers wrote, as loading does (docs/architecture.md, "Trust").
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from siamdiff.data.cache import made_once
from siamdiff.errors import SiamdiffError, UserError

UNIVERSAL = "universal"
GB = 1e9


def converted(folder: Path, tag: str) -> str:
    """A checkpoint's files in the form that any number of workers loads, made beside them once per node.

    Args:
        folder: on this node's disk, the same for all of its workers; FOLDER/TAG holds the files of all workers that
            wrote them, their hashes checked.
        tag: DeepSpeed's name of the checkpoint.

    Returns:
        DeepSpeed's name of the converted one, FOLDER/universal.

    Raises:
        UserError: no space on the disk.
        SiamdiffError: DeepSpeed cannot convert it.
    """
    # made_once keeps what has an absolute name there, not in the cache
    place = made_once(
        str((folder / UNIVERSAL).absolute()), lambda target: _convert(folder / tag, target), Path.is_dir
    )
    return place.name


def _convert(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    sizes = [file.stat().st_size for file in source.iterdir()]
    need = 2 * sum(sizes) + max(
        sizes
    )  # fragments, what they are merged to; at stage 3 the first worker's file again
    free = shutil.disk_usage(target.parent).free
    if free < need:
        raise UserError(
            f"another number of workers goes on from a checkpoint with {need / GB:.1f} GB of files in between, and "
            f"{target.parent} has {free / GB:.1f} GB left; make space, or set SIAMDIFF_CACHE to a folder that has it"
        )
    process = subprocess.run(
        [
            *(sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal"),
            *("--input_folder", str(source), "--output_folder", str(target), "--inject_missing_state"),
            *("--num_extract_workers", "1", "--num_merge_workers", "1"),
        ],
        env=os.environ | {"DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
    )
    if process.returncode:
        said = process.stderr.strip().splitlines() or [f"exit code {process.returncode}"]
        raise SiamdiffError(
            f"DeepSpeed cannot make the checkpoint one for another number of workers ({said[-1]}); "
            "go on with as many as wrote it"
        )


def settle_steps(optimizer: Any) -> None:
    """Gives every parameter of an AdamW that took a universal checkpoint its own step count, where its kernel wants it.

    DeepSpeed hands one tensor on the CPU to all of them: each would count every step as many times as there are
    parameters, and the fused kernel of a GPU refuses it.
    """
    for parameter, state in optimizer.state.items():
        state["step"] = torch.tensor(float(state["step"]), device=parameter.device)
