"""Image folders of Hugging Face datasets with a mask for every image, named in a table beside them.

The table is metadata.csv, metadata.jsonl or metadata.parquet, in any folder; its paths are relative to that folder. The
image stands in the column file_name (or image_file_name, image), the mask in a column such as mask_file_name
(https://huggingface.co/docs/datasets/image_dataset), a prompt in prompt, text or caption.
"""

import csv
import io
import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from siamdiff import storage
from siamdiff.data.layouts.pairs import (
    Files,
    Found,
    Pair,
    Rejected,
    extension,
    is_image,
    json_lines,
    relative,
    split_of,
    too_long,
    unless_all_train,
)
from siamdiff.errors import UserError
from siamdiff.sections import Data

TABLES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_IMAGES = ("file_name", "image_file_name", "image")
_MASKS = ("mask", "segmentation", "label", "annotation", "ground_truth", "conditioning_image")
_PROMPTS = ("prompt", "text", "caption")
_OTHER_SPLITS = {"dev": "val", "eval": "test", "evaluation": "test"}  # of datasets' own words

Row = Mapping[str, Any]


def fits(files: Files) -> bool:
    """Whether there are a table and images."""
    return bool(_tables(files)) and any(is_image(path) for path in files)


def find(source: str, files: Files, data: Data) -> Found:
    """The pairs that the tables name.

    Raises:
        UserError: a table that cannot be read, or without columns of images and masks.
    """
    pairs: list[Pair] = []
    rejected: list[Rejected] = []
    read = []
    for path in _tables(files):
        uri = storage.join(source, path)
        content = storage.read_bytes(uri)
        rows = _rows(uri, content)
        image_column, mask_column = _columns(uri, rows)
        folder = path.rpartition("/")[0]
        for number, row in enumerate(rows, 1):
            found = _read_row(row, f"{path}, row {number}", folder, image_column, mask_column, files)
            if isinstance(found, Pair):
                pairs.append(found)
            else:
                rejected.append(found)
        read.append([path, rows])
    return Found(unless_all_train(pairs), rejected, read=read)


def _tables(files: Files) -> list[str]:
    return [path for path in files if path.rpartition("/")[2] in TABLES]


def _rows(uri: str, content: bytes) -> list[dict[str, Any]]:
    """The rows of a table, with the columns that matter."""
    try:
        match extension(uri):
            case "csv":
                rows: list[Any] = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"))))
            case "jsonl":
                rows = [json.loads(line) for _, line in json_lines(content)]
            case _:
                table = pq.ParquetFile(io.BytesIO(content))
                texts = [
                    field.name
                    for field in table.schema_arrow
                    if field.type in (pa.string(), pa.large_string())
                ]
                rows = table.read(texts, use_threads=False).to_pylist()
    except (ValueError, RecursionError, csv.Error, pa.ArrowException) as error:
        raise UserError(f"{uri} cannot be read ({' '.join(str(error).split())}); repair it") from None
    if not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{uri} holds lines that are not JSON objects; give one a line, with file_name")
    return [{name: value for name, value in row.items() if isinstance(value, str)} for row in rows]


def _columns(uri: str, rows: list[dict[str, Any]]) -> tuple[str, str]:
    """The columns of images and of masks.

    Raises:
        UserError: there is none of these, or it is unclear which.
    """
    columns = sorted({name for row in rows for name in row})
    image = next((name for name in _IMAGES if name in columns), None)
    files = [name for name in columns if name.endswith("_file_name") and name != image]
    called = [name for name in files if name.removesuffix("_file_name") in _MASKS]
    paths = [name for name in _MASKS if any(is_image(row.get(name, "")) for row in rows)]
    masks = called or files or paths
    if image is None or len(masks) != 1:
        what = "images" if image is None else "masks" if not masks else f"masks ({' or '.join(masks)}?)"
        raise UserError(
            f"{uri} has the columns {','.join(columns)}: none is clearly that of {what}; "
            "call them file_name and mask_file_name"
        )
    return image, masks[0]


def _read_row(
    row: Row, where: str, folder: str, image_column: str, mask_column: str, files: Files
) -> Pair | Rejected:
    paths: list[str] = []
    for column, missing in ((image_column, "missing image"), (mask_column, "image without mask")):
        given = row.get(column, "")
        path = relative(given) if given else None
        if given and path is None:
            return Rejected([where], "path leaves the file's folder", f"{given}: give relative paths")
        path = f"{folder}/{path}" if folder else path
        if not given or path not in files:
            return Rejected([*paths, given or where], missing)
        paths.append(str(path))
    image, mask = paths
    prompt = next((row[name] for name in _PROMPTS if row.get(name)), None)
    if bad := too_long(prompt, where):
        return bad
    return Pair(image, mask, prompt=prompt, split=split_of(image) or _other_split(image))


def _other_split(path: str) -> str | None:
    words = [folder for folder in reversed(path.lower().split("/")[:-1]) if folder in _OTHER_SPLITS]
    return _OTHER_SPLITS[words[0]] if words else None
