"""The authors' JSON lines: one object a line, `source` (the mask), `target` (the image) and `prompt`.

Paths are relative to the file's own folder.
"""

import json

from siamdiff import storage
from siamdiff.data.layouts.pairs import Files, Found, Pair, Rejected, json_lines, relative, split_of, too_long
from siamdiff.errors import UserError
from siamdiff.sections import Data

SUFFIXES = (".json", ".jsonl")


def find(source: str, files: Files, data: Data) -> Found:
    """The pairs that the lines of the file `source` name; `files` are those of its folder.

    Raises:
        UserError: no such file, or not a text.
    """
    try:
        given = json_lines(storage.read_bytes(source))
    except FileNotFoundError:
        raise UserError(f"data.source {source} does not exist; give a JSON lines file or a folder") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"data.source {source} is not UTF-8 text ({error.reason}); give a JSON lines file"
        ) from None
    pairs: list[Pair] = []
    rejected: list[Rejected] = []
    for number, line in given:
        found = _read_line(line, f"line {number}", files)
        if isinstance(found, Pair):
            pairs.append(found)
        else:
            rejected.append(found)
    return Found(pairs, rejected, read=[line for _, line in given])


def _read_line(line: str, where: str, files: Files) -> Pair | Rejected:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return Rejected([where], "line is not JSON")
    if not isinstance(entry, dict):
        return Rejected([where], "line is not a JSON object")
    for name in ("source", "target", "prompt"):
        if not isinstance(entry.get(name), str):
            return Rejected([where], "line without source, target and prompt", f"{name} must be text")
    mask, image = relative(entry["source"]), relative(entry["target"])
    if mask is None or image is None:
        return Rejected(
            [entry["target"], entry["source"]], "path leaves the file's folder", "give relative paths"
        )
    if image not in files or mask not in files:
        missing = "image without mask" if image in files else "missing image"
        return Rejected([image, mask], missing)
    if bad := too_long(entry["prompt"], where):
        return bad
    return Pair(image, mask, prompt=entry["prompt"], split=split_of(image))
