"""Ingest on a real local Ray: what it writes, leaves out, refuses and goes on with."""

import json
import logging
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from infra.ingest import _spread, ingest, private_uri
from infra.stage import StageStatus
from siamdiff import storage
from siamdiff.config import Config
from siamdiff.data.shards import read_marker
from siamdiff.data.shardset import ShardSet, verify
from siamdiff.errors import SiamdiffError, UserError
from tests.data.raw_folders import image, make_folder
from tests.s3 import S3Server

GOOD = [f"train_{i}" for i in range(9)] + ["validation_0", "test_0"]


def configure(root: Path | str, source: Path | str, **data: object) -> Config:
    fields = {"source": str(source), "resolution": 32, "shard_size": 4} | data
    return Config(root=str(root), data=fields).resolve()  # type: ignore[arg-type]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "raw", GOOD)


def exit_code(root: Path | str) -> int:
    return storage.read_json(storage.join(str(root), "data", "status.json"))["exit_code"]


def read_lines(uri: str) -> list[dict]:
    return [json.loads(line) for line in storage.read_bytes(uri).decode().splitlines()]


@pytest.mark.cluster
def test_good_pairs_become_a_set_and_bad_ones_a_list(
    ray: Any, s3: S3Server, source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_folder(source, ["train_empty", "train_lone", "train_grey", "train_copy"], first_seed=100)
    (source / "images/train_empty.png").write_bytes(b"")
    (source / "masks/train_lone.png").unlink()
    image(5).convert("L").save(source / "masks/train_grey.png")
    (source / "images/train_copy.png").write_bytes((source / "images/test_0.png").read_bytes())
    root = f"{s3.bucket_uri}/ingest/{tmp_path.name}"
    config = configure(root, source, max_rejected=0.2, license="CC0", permitted_use="research")
    with caplog.at_level(logging.INFO):
        ingest(config, demo=False)
    uri = str(config.data.uri)
    assert verify(uri) == []
    shard_set = ShardSet.open(uri)
    manifest = shard_set.manifest
    assert manifest.splits == {"test": 1, "train": 9, "val": 1} and manifest.kind == "real"
    assert [shard.name for shard in manifest.shards] == [
        "test-000000", "train-000000", "train-000001", "train-000002", "val-000000",
    ]  # fmt: skip
    assert (manifest.license, manifest.permitted_use, manifest.demo) == ("CC0", "research", False)
    private = private_uri(uri)
    assert {line["reason"]: line["files"][0] for line in read_lines(f"{private}/rejected.jsonl")} == {
        "image is empty": "images/train_empty.png",
        "image without mask": "images/train_lone.png",
        "mask is grey": "images/train_grey.png",
        "exact duplicate": "images/train_copy.png",
    }
    files = {line["key"]: line["image"] for line in read_lines(f"{private}/keys.jsonl")}
    assert sorted(files) == shard_set.keys() and len(files) == 11
    assert not [name for name in storage.list_files(uri) if "train_" in name]
    assert "mask is grey" in caplog.text and "mask coding: 0/255 11" in caplog.text


@pytest.mark.cluster
def test_cropped_images_of_several_test_sets(
    ray: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    raw = tmp_path / "raw"
    for number, folder in enumerate(("TrainDataset", "TestDataset/CVC-300", "TestDataset/ETIS")):
        make_folder(raw / folder, ["0", "1"], first_seed=2 * number)
    config = configure(tmp_path / "root", raw, crop=(4, 2, 36, 30), fit="pad")
    with caplog.at_level(logging.INFO):
        ingest(config, demo=False)
    uri = str(config.data.uri)
    assert verify(uri) == []
    shard_set = ShardSet.open(uri)
    assert shard_set.manifest.made_from["data.layout"] == "pranet"
    assert shard_set.manifest.made_from["data.crop"] == [4, 2, 36, 30]
    subsets = {line["key"]: line["subset"] for line in read_lines(f"{private_uri(uri)}/keys.jsonl")}
    for key, subset in subsets.items():
        meta = shard_set.read(key).meta
        assert (meta.crop, meta.padding, meta.subset) == ((4, 2, 36, 30), (0, 2, 0, 2), subset)
    assert sorted(map(str, subsets.values())) == ["CVC-300"] * 2 + ["ETIS"] * 2 + ["None"] * 2
    assert "laid out as pranet" in caplog.text and "ETIS 2" in caplog.text
    with pytest.raises(UserError, match=r"data\.fit \('pad' there, 'crop' now\) differs"):
        ingest(configure(tmp_path / "root", raw, crop=(4, 2, 36, 30), fit="crop"), demo=False)


@pytest.mark.cluster
def test_the_same_command_goes_on_and_then_says_done(
    ray: Any, source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = configure(tmp_path / "root", source)
    ingest(config, demo=True)
    whole = ShardSet.open(str(config.data.uri))
    assert whole.manifest.demo
    folder = Path(str(config.data.uri))
    before = {path: path.stat().st_ino for path in folder.rglob("*.tar")}
    with caplog.at_level(logging.INFO):
        ingest(config, demo=True)
    assert "already done" in caplog.text
    # As an attempt that was killed leaves it: no manifest, a tar without its marker, a shard not begun.
    (folder / "dataset.json").unlink()
    (folder / "shards/train-000001.json").unlink()
    (folder / "shards/val-000000.json").unlink()
    (folder / "shards/val-000000.tar").unlink()
    ingest(config, demo=True)
    assert verify(str(folder)) == []
    assert ShardSet.open(str(folder)).digest == whole.digest
    kept = [path for path, inode in before.items() if path.stat().st_ino == inode]
    assert len(kept) == len(before) - 1, "only the lost tar was written"
    # A shard lost after the set was finished.
    (folder / "shards/train-000000.tar").unlink()
    ingest(config, demo=True)
    assert verify(str(folder)) == [] and ShardSet.open(str(folder)).digest == whole.digest


@pytest.mark.cluster
def test_other_inputs_never_mix_in(ray: Any, source: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    config = configure(root, source)
    ingest(config, demo=False)
    with pytest.raises(
        UserError, match=r"data\.resolution \(32 there, 64 now\) differs; give another data\.uri"
    ):
        ingest(configure(root, source, resolution=64), demo=False)
    make_folder(source, ["train_new"], first_seed=50)
    with pytest.raises(UserError, match="the source"):
        ingest(config, demo=False)
    # Half of a set is refused in the same way: its settings were written before its first shard.
    folder = Path(str(config.data.uri))
    (folder / "dataset.json").unlink()
    lists = private_uri(str(folder))
    before = storage.read_bytes(f"{lists}/keys.jsonl")
    with pytest.raises(UserError, match="the source"):
        ingest(config, demo=False)
    (folder / "plan.json").unlink()
    with pytest.raises(UserError, match="holds shards of another ingest"):
        ingest(config, demo=False)
    assert storage.read_bytes(f"{lists}/keys.jsonl") == before
    assert exit_code(root) == 2 and not (folder / "plan.json").exists()


@pytest.mark.cluster
def test_a_file_changed_in_place_is_noticed_and_a_touched_one_forgiven(
    ray: Any, source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in GOOD:  # of one size, whatever they show
        image(GOOD.index(name)).save(source / f"images/{name}.bmp")
        (source / f"images/{name}.png").unlink()
    config = configure(tmp_path / "root", source)
    ingest(config, demo=False)
    made = ShardSet.open(str(config.data.uri)).digest
    path = source / "images/train_3.bmp"
    content = path.read_bytes()
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))
    with caplog.at_level(logging.INFO):
        ingest(config, demo=False)
        assert "may have changed" in caplog.text and exit_code(tmp_path / "root") == 0
        caplog.clear()
        ingest(config, demo=False)
        assert "already done" in caplog.text and "may have changed" not in caplog.text
    path.write_bytes(content[:-3] + bytes(255 - byte for byte in content[-3:]))
    with pytest.raises(UserError, match="the source's files changed since"):
        ingest(config, demo=False)
    assert ShardSet.open(str(config.data.uri)).digest == made


@pytest.mark.parametrize("uri", ["s3://bucket", "s3://bucket/", "/"])
def test_a_set_at_the_top_of_a_store_is_refused(uri: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is the top of its store"):
        ingest(configure(tmp_path / "root", tmp_path, uri=uri), demo=False)
    assert exit_code(tmp_path / "root") == 2


@pytest.mark.cluster
def test_too_many_bad_pairs_fail_and_leave_no_set(ray: Any, source: Path, tmp_path: Path) -> None:
    for name in GOOD[:3]:
        (source / f"images/{name}.png").write_bytes(b"")
    config = configure(tmp_path / "root", source)
    with pytest.raises(SiamdiffError, match=r"3 of 11 pairs are bad, data\.max_rejected allows 10%") as error:
        ingest(config, demo=False)
    assert error.value.exit_code == 1
    assert list(storage.list_files(str(config.data.uri))) == ["status.json"]
    ingest(configure(tmp_path / "root", source, max_rejected=0.3), demo=False)
    assert ShardSet.open(str(config.data.uri)).manifest.count == 8


@pytest.mark.cluster
def test_no_usable_pair_is_the_users_mistake(ray: Any, source: Path, tmp_path: Path) -> None:
    for name in GOOD:
        Image.new("L", (40, 32)).save(source / f"masks/{name}.png")
    with pytest.raises(
        UserError, match=r"no usable pair in .*: 11 of 11 are bad, most because: mask is empty"
    ):
        ingest(configure(tmp_path / "root", source, max_rejected=1), demo=False)


@pytest.mark.cluster
def test_a_foreign_tar_in_the_way_fails_and_the_other_shards_are_written(
    ray: Any, source: Path, tmp_path: Path
) -> None:
    config = configure(tmp_path / "root", source)
    uri = str(config.data.uri)
    storage.write_bytes(storage.join(uri, "shards/train-000001.tar"), b"cut short")
    with pytest.raises(SiamdiffError, match=r"1 of 5 shards are not written; .*train-000001\.tar.*") as error:
        ingest(config, demo=False)
    assert error.value.exit_code == 1 and not storage.exists(storage.join(uri, "dataset.json"))
    assert read_marker(uri, "train-000002").count == 1
    storage.delete(storage.join(uri, "shards/train-000001.tar"))
    ingest(config, demo=False)
    assert verify(uri) == []


@pytest.mark.cluster
@pytest.mark.soak
def test_work_that_kills_every_worker_is_given_up(ray: Any, tmp_path: Path) -> None:
    def die(work: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    ((_, result),) = _spread([1], die, "examined", "batches", StageStatus(str(tmp_path)))
    assert isinstance(result, SiamdiffError) and "batches killed its worker 4 times" in str(result)


@pytest.mark.cluster
def test_phantoms_need_no_source(ray: Any, tmp_path: Path) -> None:
    config = configure(tmp_path / "root", "phantom", count=20, resolution=32)
    ingest(config, demo=True)
    manifest = ShardSet.open(str(config.data.uri)).manifest
    assert manifest.splits == {"test": 2, "train": 16, "val": 2} and manifest.demo
    assert verify(str(config.data.uri)) == []


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("name", "splits"),
    [
        ("dsb2018_stained", {"test": 11, "train": 85, "val": 11}),
        pytest.param("kvasir_seg", {"train": 800, "val": 100}, marks=pytest.mark.soak),
    ],
)
def test_real_sets_come_through_in_full(
    ray: Any, shared: Path, tmp_path: Path, name: str, splits: dict[str, int]
) -> None:
    config = configure(
        tmp_path / "root", shared / "data" / name, resolution=64, shard_size=256, crop="auto", fit="pad"
    )
    ingest(config, demo=False)
    uri = str(config.data.uri)
    assert ShardSet.open(uri).manifest.splits == splits and verify(uri) == []
    assert storage.read_bytes(storage.join(private_uri(uri), "rejected.jsonl")) == b""


def test_a_missing_source_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist or is empty"):
        ingest(configure(tmp_path / "root", tmp_path / "nowhere"), demo=False)
    assert exit_code(tmp_path / "root") == 2
