"""Files of weights from anywhere: safetensors, or pickles of which nothing but tensors is taken.

A pickle is a program. PyTorch's `weights_only` runs the few instructions that rebuild tensors and refuses any other
before it is executed. Both kinds are mapped into memory: a tensor's bytes are read when it is used, and processes that
read the same file share them.
"""

import os
import pickle
import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from siamdiff.errors import UserError

SAFE = ".safetensors"
PICKLED = (".ckpt", ".pth", ".pt", ".bin")
# What libraries raise for a file or folder that is not whole, or a configuration that is none of theirs.
LOADING_ERRORS = (
    *(OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, ArithmeticError, EOFError),
    *(pickle.UnpicklingError, zipfile.BadZipFile, SafetensorError, StrictDataclassError),
)
_POINTER = b"version https://git-lfs"


@contextmanager
def written_to(folder: Path) -> Iterator[None]:
    """Lets what fails on the disk while safetensors are written be the OSError that it is, as for any other file.

    Raises:
        OSError: no space left, for one.
    """
    try:
        yield
    except SafetensorError as error:
        if number := re.search(r"os error (\d+)", str(error)):
            code = int(number[1])
            raise OSError(code, os.strerror(code), str(folder)) from error
        raise


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, as they are stored; those under `state_dict`, where there is such an entry.

    Raises:
        UserError: the file is cut short or not of its kind, holds code, or anything but tensors under names.
    """
    with open(path, "rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise UserError(f"{path} is only git-lfs's pointer to a file: run 'git lfs pull' in its folder")
    state: Any = _read_safetensors(path) if path.suffix.lower() == SAFE else _read_pickle(path)
    while isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    foreign = _foreign(state)
    if foreign:
        raise UserError(
            f"{path} does not hold tensors by name ({foreign}); give a file of weights of Stable Diffusion 1.x"
        )
    return state


def some(names: Sequence[str] | set[str]) -> str:
    """The first three of the names, for an error message of one line."""
    return ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")


def _foreign(state: Any) -> str:
    if not isinstance(state, dict):
        return f"it is a {type(state).__name__}"
    others = {str(name) for name, value in state.items() if not isinstance(value, Tensor)}
    return f"{some(others)} of another type" if others else "" if state else "it is empty"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is not a whole safetensors file ({error}): damaged, or its download was cut short; fetch it again"
        ) from error


def _read_pickle(path: Path) -> Any:
    try:
        # only PyTorch's newer files (zip) can be mapped
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is a pickle with more in it than tensors ({_code(error)}), which may be a program: refused, "
            "nothing of it was run; give the .safetensors of the same model, or, if you trust its source, convert it "
            "once on a machine that has nothing to lose (docs/bases.md, 'Pickles')"
        ) from error
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, AttributeError, IndexError) as error:
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise UserError(
            f"{path} cannot be read ({reason}): damaged, cut short, or not a file of weights; fetch it again"
        ) from error


def _code(error: pickle.UnpicklingError) -> str:
    """What the pickle asks for, as PyTorch names it where it refuses."""
    found = re.search(r"GLOBAL (\S+)|Unsupported \w+ \d+", str(error))
    return (
        f"it calls {found[1]}" if found and found[1] else found[0] if found else "not a pickle of PyTorch's"
    )
