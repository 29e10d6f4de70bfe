"""A copy of a state that training goes on to change."""

import copy
from pathlib import Path
from typing import Any

import torch


def copied(state: Any) -> Any:
    """A state with every tensor copied into main memory, so that it can be written while training goes on.

    Each tensor gets memory of its own size: of a view into a larger buffer nothing but the view is kept. From a GPU
    tensors are copied into page-locked memory, one behind the other, and waited for once.

    Args:
        state: dicts, lists and tuples of tensors and of plain Python objects, as `torch.save` takes them.

    Returns:
        The same structure, on the CPU, without autograd's history.
    """
    result = _copied(state)
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return result


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        target = torch.empty_like(value, device="cpu", pin_memory=value.is_cuda, requires_grad=False)
        return target.copy_(value.detach(), non_blocking=True)
    if isinstance(value, dict):
        result = copy.copy(value)  # keeps its class, such as OrderedDict
        result.update((key, _copied(item)) for key, item in value.items())
        return result
    if type(value) in (list, tuple):
        return type(value)(_copied(item) for item in value)
    return copy.deepcopy(value)


def save(state: Any, path: Path) -> None:
    """`torch.save` through a file of Python's, which tells of a full disk as one: OSError with its errno."""
    with path.open("wb") as file:
        torch.save(state, file)
