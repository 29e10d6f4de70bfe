"""What a safetensors file of ours was made from, told in its own header: found again without reading its tensors."""

import json
import struct
from typing import Any

from siamdiff import storage
from siamdiff.errors import SiamdiffError

_LABEL = "made_from"  # one entry: the order of several would differ from file to file
_MAX_HEADER = 16 * 2**20  # bytes; that of a network of 10,000 tensors is 2 MB


def labelled(made_from: dict[str, str]) -> dict[str, str]:
    """The metadata of a file that was made from this: names and digests."""
    return {_LABEL: storage.canonical_json(made_from).decode()}


def label_of(uri: str) -> dict[str, Any] | None:
    """What a file says that it was made from; None: nothing, as files of earlier versions.

    Raises:
        FileNotFoundError: there is no file.
        SiamdiffError: it is none of safetensors, or cut short.
    """
    try:
        (length,) = struct.unpack("<Q", storage.read_start(uri, 8))
        if length > _MAX_HEADER:
            raise ValueError(f"a header of {length} bytes")
        header = json.loads(storage.read_start(uri, 8 + length)[8:])
        label = header.get("__metadata__", {}).get(_LABEL)
        made_from = None if label is None else json.loads(label)
    except (struct.error, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise SiamdiffError(f"{uri} is damaged: no safetensors file ({error})") from error
    return made_from if isinstance(made_from, dict) else None
