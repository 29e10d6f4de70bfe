"""Folders and Hugging Face data sets: nothing lost, and whole or not there."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from siamdiff import storage
from siamdiff.__main__ import main
from siamdiff.data.sample import Foreign, SampleMeta, Synthetic
from siamdiff.data.shards import tar_uri
from siamdiff.data.shardset import ShardSet
from siamdiff.errors import SiamdiffError, UserError
from siamdiff.export import hf
from siamdiff.export.folder import export_folder
from siamdiff.export.hf import COLUMNS, export_hf
from tests.export.conftest import Sets
from tests.s3 import S3Server


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def lines(folder: Path) -> dict[str, dict[str, Any]]:
    """Lines of metadata.jsonl by key."""
    read = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    return {line["key"]: line for line in read}


def test_a_folder_holds_the_bytes_of_the_shards_and_every_field(sets: Sets, tmp_path: Path) -> None:
    counts = export_folder([sets.real, sets.synthetic], str(tmp_path / "out"))
    assert counts == {"train": 18, "val": 6, "test": 6}
    told = lines(tmp_path / "out")
    for shard_set in map(ShardSet.open, (sets.real, sets.synthetic)):
        for key in shard_set.index["key"].to_pylist():
            sample, line = shard_set.read_encoded(key), told.pop(key)
            assert (tmp_path / "out" / line.pop("image")).read_bytes() == sample.image
            assert (tmp_path / "out" / line.pop("mask")).read_bytes() == sample.mask
            assert (line.pop("set"), line.pop("kind")) == (shard_set.digest, shard_set.manifest.kind)
            assert line == sample.meta.model_dump(mode="json")
    assert told == {}


def test_datasets_opens_the_export_with_images_masks_and_every_field(sets: Sets, tmp_path: Path) -> None:
    from datasets import load_dataset

    counts = export_hf([sets.real, sets.synthetic], str(tmp_path / "out"))
    loaded = load_dataset(str(tmp_path / "out"))
    assert {name: len(split) for name, split in loaded.items()} == counts
    assert counts == {"train": 18, "validation": 6, "test": 6}
    shard_sets = {one.manifest.kind: one for one in map(ShardSet.open, (sets.real, sets.synthetic))}
    for row in (row for split in loaded.values() for row in split):
        sample = shard_sets[row["kind"]].read(row["key"])
        assert (row["image"].mode, row["mask"].mode) == ("RGB", "L") and row["has_mask"] is True
        assert np.array_equal(np.array(row["image"]), sample.image)
        assert np.array_equal(np.array(row["mask"]), sample.mask)
        meta = sample.meta.model_dump(mode="json")
        origin = meta.pop("synthetic") or {}
        if origin:
            origin.setdefault("draw", 0)
        assert {name: row[name] for name in meta} == meta
        for name in Synthetic.model_fields:
            value = row[name]
            mapping = name in ("transform", "sampler", "scores") and value is not None
            assert (json.loads(value) if mapping else value) == origin.get(name)


def test_every_field_of_a_sample_has_a_column() -> None:
    known = {*SampleMeta.model_fields, *Synthetic.model_fields, *Foreign.model_fields} - {"synthetic"}
    assert known <= COLUMNS.keys()


def test_a_large_split_is_cut_into_several_files(
    sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datasets import load_dataset

    monkeypatch.setattr(hf, "FILE_BYTES", 5_000)
    export_hf([sets.real], str(tmp_path / "out"))
    files = sorted(path.name for path in (tmp_path / "out/data").glob("train-*"))
    assert files[:2] == ["train-00000.parquet", "train-00001.parquet"]
    assert len(load_dataset(str(tmp_path / "out"))["train"]) == 6


def test_exports_are_the_same_bytes_every_time(sets: Sets, tmp_path: Path) -> None:
    for write in (export_folder, export_hf):
        for name in ("one", "two"):
            write([sets.real, sets.synthetic], str(tmp_path / write.__name__ / name))
        one, two = (
            {
                name: storage.read_bytes(storage.join(uri, name))
                for uri in [str(tmp_path / write.__name__ / name)]
                for name in storage.list_files(uri)
            }
            for name in ("one", "two")
        )
        assert one == two


def test_object_stores_take_exports_too(sets: Sets, tmp_path: Path, s3: S3Server) -> None:
    for write in (export_folder, export_hf):
        local, remote = str(tmp_path / write.__name__), s3.new_root()
        write([sets.synthetic], local)
        write([sets.synthetic], remote)
        assert storage.list_files(remote) == storage.list_files(local)
        with pytest.raises(UserError, match=f"{remote} is there already"):
            write([sets.synthetic], remote)


def command(*arguments: str) -> int:
    return main(["export", *arguments])


def test_the_command_says_what_it_wrote(
    sets: Sets, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = str(tmp_path / "a/b/out")
    assert command(sets.real, "--format", "folder", "--to", target) == 0
    assert capsys.readouterr().out == f"exported to {target}: test 2, train 6, val 2\n"
    # an empty folder that a person made is as good as none
    (tmp_path / "empty").mkdir()
    assert command(sets.real, "--format", "hf", "--to", str(tmp_path / "empty")) == 0


@pytest.mark.parametrize("target", ["full", "full/file"])
def test_a_target_that_is_taken_is_refused_and_stays_as_it_is(
    sets: Sets, tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("mine")
    assert command(sets.real, "--format", "folder", "--to", str(tmp_path / target)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path / target} is there already" in line
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "file"]


def test_mistakes_are_one_line(sets: Sets, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(sets.real, tmp_path / "incomplete")
    (tmp_path / "incomplete/dataset.json").unlink()
    target = str(tmp_path / "out")
    for arguments, says in (
        ([str(tmp_path / "incomplete")], "not a complete set"),
        ([sets.real, sets.real], "give each set once"),
        ([sets.real, "--folds", "3"], "--folds 3 is for --format nnunet"),
    ):
        assert command(*arguments, "--format", "folder", "--to", target) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert says in line
    assert not (tmp_path / "out").exists()


def test_a_damaged_shard_leaves_nothing_behind(sets: Sets, tmp_path: Path) -> None:
    """The first shard is already written when the second turns out to be damaged."""
    damaged = shutil.copytree(sets.synthetic, tmp_path / "damaged")
    path = Path(tar_uri(str(damaged), "fold1-000000"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    for write in (export_folder, export_hf):
        with pytest.raises(SiamdiffError, match=r"fold1-000000\.tar is damaged"):
            write([str(damaged)], str(tmp_path / "targets/out"))
    assert list((tmp_path / "targets").iterdir()) == []


def test_exported_pictures_open_as_pictures(sets: Sets, tmp_path: Path) -> None:
    export_folder([sets.synthetic], str(tmp_path / "out"))
    for line in lines(tmp_path / "out").values():
        with Image.open(tmp_path / "out" / line["mask"]) as mask:
            assert mask.mode == "L" and set(np.unique(mask)) <= {0, 255}


def test_a_missing_library_is_named(
    sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)  # importing it is a ModuleNotFoundError
    assert command(sets.real, "--format", "hf", "--to", str(tmp_path / "out")) == 2
    assert "needs datasets, which is not installed; pip install 'siamdiff[export]'" in capsys.readouterr().err
