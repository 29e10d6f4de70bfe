"""A data set as the Hugging Face hub holds them: data/SPLIT-NNNNN.parquet with image columns, and a card.

`datasets.load_dataset(FOLDER)` opens it, and so does `huggingface-cli upload`. The columns are those of KEY.json; what
is nested there is flattened, and mappings whose names differ from sample to sample are JSON.
"""

import io
import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from siamdiff import storage
from siamdiff.data.sample import EncodedSample, Foreign, Synthetic
from siamdiff.data.shardset import ShardSet
from siamdiff.errors import UserError
from siamdiff.export.common import finish, has_mask, open_sets, read_shards, writing

SPLITS = {"train": "train", "val": "validation", "test": "test"}  # the names that `datasets` knows
FILE_BYTES = 256 * 2**20  # of images and masks, after which a file is closed; a split holds as much in memory
_ROW_GROUP = 100  # the hub's viewer reads one at a time

# column -> type; `image` and `mask` stand before them
COLUMNS = {
    **dict.fromkeys(("key", "set", "kind", "prompt", "split", "group", "subset"), "string"),
    **dict.fromkeys(("width", "height", "source_width", "source_height"), "int32"),
    **dict.fromkeys(("image_sha256", "mask_sha256"), "string"),
    **dict.fromkeys(("crop", "padding"), "box"),  # left, top, right, bottom
    # of a synthetic sample, else null
    "parent": "string",
    "fold": "int32",
    "seed": "int64",
    "draw": "int32",
    "model_digest": "string",
    **dict.fromkeys(("transform", "sampler", "scores"), "string"),  # JSON
    "method": "string",
    "has_mask": "bool",
}


def export_hf(uris: Sequence[str], target: str) -> dict[str, int]:
    """Writes complete sets as one data set of parquet files.

    Args:
        uris: of the sets.
        target: URI of a folder that does not exist yet or is empty.

    Returns:
        Samples by split, as `datasets` names them.

    Raises:
        UserError: `datasets` is not installed, not complete sets, a key in two of them, or a target that is taken.
        SiamdiffError: a set is damaged, or the store fails.
    """
    schema = _schema()
    sets = open_sets(uris)
    with writing(target) as uri:
        files = {split: _Files(uri, name, schema) for split, name in SPLITS.items()}
        for shard_set in sets:
            for samples in read_shards(shard_set):
                for sample in samples:
                    files[sample.meta.split].add(sample, shard_set)
        for of_split in files.values():
            of_split.flush()
        counts = {of_split.name: of_split.count for of_split in files.values() if of_split.count}
        finish(uri, sets, "hf", counts)
    return counts


def _schema() -> pa.Schema:
    """Arrow's schema, with the note that tells `datasets` which columns are images."""
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise UserError(
            f"--format hf needs {error.name}, which is not installed; pip install 'siamdiff[export]'"
        ) from error
    columns: dict[str, Any] = {"image": datasets.Image(), "mask": datasets.Image()}
    for name, kind in COLUMNS.items():
        columns[name] = datasets.List(datasets.Value("int32")) if kind == "box" else datasets.Value(kind)
    return datasets.Features(columns).arrow_schema


class _Files:
    """The parquet files of one split."""

    def __init__(self, uri: str, name: str, schema: pa.Schema) -> None:
        self.name, self.count = name, 0
        self._uri, self._schema = uri, schema
        self._rows: list[dict[str, Any]] = []
        self._size = self._written = 0

    def add(self, sample: EncodedSample, shard_set: ShardSet) -> None:
        self._rows.append(_row(sample, shard_set))
        self._size += len(sample.image) + len(sample.mask)
        self.count += 1
        if self._size >= FILE_BYTES:
            self.flush()

    def flush(self) -> None:
        """Writes the rows that are held as one file."""
        if not self._rows:
            return
        buffer = io.BytesIO()
        table = pa.Table.from_pylist(self._rows, schema=self._schema)
        pq.write_table(table, buffer, row_group_size=_ROW_GROUP)
        name = f"data/{self.name}-{self._written:05d}.parquet"
        storage.write_bytes(storage.join(self._uri, name), buffer.getvalue())
        self._rows, self._size = [], 0
        self._written += 1


def _row(sample: EncodedSample, shard_set: ShardSet) -> dict[str, Any]:
    meta = sample.meta
    images = {
        "image": {"bytes": sample.image, "path": f"{meta.key}.{sample.image_format}"},
        "mask": {"bytes": sample.mask, "path": f"{meta.key}.png"},
    }
    about = {"set": shard_set.digest, "kind": shard_set.manifest.kind, "has_mask": has_mask(sample)}
    return images | about | meta.model_dump(mode="json", exclude={"synthetic"}) | _origin(meta.synthetic)


def _origin(origin: Synthetic | Foreign | None) -> dict[str, Any]:
    """Columns of a synthetic sample; what is a mapping becomes JSON."""
    if origin is None:
        return {}
    values = origin.model_dump(mode="json")
    if isinstance(origin, Synthetic):
        values["draw"] = origin.draw  # left out of JSON at 0
    return {
        name: json.dumps(value, sort_keys=True) if isinstance(value, dict) else value
        for name, value in values.items()
    }
