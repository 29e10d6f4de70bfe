"""Complete sets: read in any order, refused when incomplete, and every damage found."""

import io
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from siamdiff import storage
from siamdiff.__main__ import main
from siamdiff.data import manifest
from siamdiff.data.sample import EncodedSample, make_sample
from siamdiff.data.shards import finished_shards, tar_uri, write_shard
from siamdiff.data.shardset import Manifest, ShardSet, finish_set, verify
from siamdiff.errors import SiamdiffError, UserError
from tests.s3 import S3Server

COUNTS = {"train-000000": 4, "train-000001": 3, "val-000000": 2}


def samples(shard: str, count: int, side: int = 16) -> list[EncodedSample]:
    rng = np.random.default_rng(sorted(COUNTS).index(shard))
    images = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    masks = (rng.random((count, side, side)) > 0.5).astype(np.uint8) * 255
    split = shard.partition("-")[0]
    return [
        make_sample(
            image, mask, prompt="p", split=split, group=None, source_size=(side, side), image_format="png"
        )
        for image, mask in zip(images, masks, strict=True)
    ]


def finish(uri: str, kind: str = "real") -> Manifest:
    return finish_set(
        uri, finished_shards(uri), kind=kind, resolution=16, demo=False, license="CC0", permitted_use="any",
        made_from={"source": "test"},
    )  # fmt: skip


def make_set(uri: str) -> str:
    for name, count in COUNTS.items():
        write_shard(uri, name, samples(name, count))
    finish(uri)
    return uri


@pytest.fixture
def whole(tmp_path: Path) -> str:
    return make_set(str(tmp_path / "set"))


def test_samples_are_read_in_any_order(whole: str) -> None:
    shard_set = ShardSet.open(whole)
    assert shard_set.keys() == sorted(shard_set.keys()) and len(shard_set) == 9
    assert (
        len(shard_set.keys("train")) == 7 and len(shard_set.keys("val")) == 2 and shard_set.keys("test") == []
    )
    expected = {s.meta.key: s.decode() for name, count in COUNTS.items() for s in samples(name, count)}
    for key in reversed(shard_set.keys()):
        read = shard_set.read(key)
        assert read.meta == expected[key].meta
        assert np.array_equal(read.image, expected[key].image) and np.array_equal(
            read.mask, expected[key].mask
        )


def test_the_digest_is_that_of_the_content(whole: str, tmp_path: Path) -> None:
    again = make_set(str(tmp_path / "again"))
    assert ShardSet.open(whole).digest == ShardSet.open(again).digest
    storage.delete(storage.join(again, "shards/val-000000.json"))
    assert finish(again).digest != ShardSet.open(whole).digest


def test_a_set_may_be_sent_to_another_process(whole: str) -> None:
    sent = pickle.loads(pickle.dumps(ShardSet.open(whole)))
    assert sent.read(sent.keys()[0]).image.shape == (16, 16, 3)


def test_an_unknown_key_is_the_users_mistake(whole: str) -> None:
    with pytest.raises(UserError, match="holds no sample"):
        ShardSet.open(whole).read("0" * 16)


def test_the_index_is_a_plain_parquet_file(whole: str) -> None:
    table = pq.read_table(Path(whole, "index.parquet"))
    assert table["key"].to_pylist() == ShardSet.open(whole).keys()


def test_an_index_of_many_rows_is_sorted_in_chunks(
    whole: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strings of more than 2 GB fit no array of Arrow's, but they fit several."""
    table = pq.read_table(f"{whole}/index.parquet")
    monkeypatch.setattr(manifest, "_SORTED_ROWS", 2)
    shuffled = table.take(list(reversed(range(len(table)))))
    chunked = manifest._by_key(shuffled)
    assert chunked.equals(table)
    assert {len(batch) for batch in chunked.to_batches()} <= {1, 2}
    assert manifest._by_key(table.slice(0, 0)).equals(table.slice(0, 0))


def test_a_set_without_manifest_is_refused(whole: str, tmp_path: Path) -> None:
    Path(whole, "dataset.json").unlink()
    for uri in (whole, str(tmp_path / "nowhere")):
        with pytest.raises(UserError, match="not a complete set"):
            ShardSet.open(uri)


def test_another_schema_is_refused(whole: str) -> None:
    path = Path(whole, "dataset.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99}))
    with pytest.raises(UserError, match="schema version 99"):
        ShardSet.open(whole)


def test_a_manifest_changed_by_hand_is_damaged(whole: str) -> None:
    path = Path(whole, "dataset.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"digest": "0" * 64}))
    with pytest.raises(SiamdiffError, match="digest"):
        ShardSet.open(whole)
    assert verify(whole)


def test_a_set_is_not_finished_without_a_marker(whole: str) -> None:
    Path(whole, "shards/val-000000.json").unlink()
    with pytest.raises(SiamdiffError, match="val-000000 has no marker"):
        finish_set(
            whole, COUNTS, kind="real", resolution=16, demo=False, license="", permitted_use="", made_from={}
        )


def test_a_key_in_two_shards_is_refused(tmp_path: Path) -> None:
    for name in ("train-000000", "train-000001"):
        write_shard(str(tmp_path), name, samples("train-000000", 2))
    with pytest.raises(SiamdiffError, match="two shards"):
        finish(str(tmp_path))


def test_a_flipped_bit_is_found_before_a_sample_is_given_out(whole: str) -> None:
    flip(whole, 3000)
    shard_set = ShardSet.open(whole)
    with pytest.raises(SiamdiffError, match=r"train-000000\.tar is damaged"):
        for key in shard_set.keys("train"):
            shard_set.read(key)


def flip(uri: str, position: int, name: str = "train-000000") -> None:
    path = Path(uri, f"shards/{name}.tar")
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def cut(uri: str) -> None:
    path = Path(uri, "shards/train-000001.tar")
    path.write_bytes(path.read_bytes()[:-5000])


def lose_shard(uri: str) -> None:
    Path(uri, "shards/val-000000.tar").unlink()


def lose_marker(uri: str) -> None:
    Path(uri, "shards/val-000000.json").unlink()


def add_shard(uri: str) -> None:
    write_shard(uri, "val-000009", samples("val-000000", 1))


def change_marker(uri: str) -> None:
    path = Path(uri, "shards/val-000000.json")
    path.write_text(path.read_text().replace('"split": "val"', '"split": "train"'))


def change_index(uri: str) -> None:
    path = Path(uri, "index.parquet")
    pq.write_table(pq.read_table(path).slice(1), path)


def change_counts(uri: str) -> None:
    path = Path(uri, "dataset.json")
    path.write_text(path.read_text().replace('"count": 9', '"count": 8'))


DAMAGES = {
    "first byte": lambda uri: flip(uri, 0),
    "bit in the pixels": lambda uri: flip(uri, 3000),
    "bit in the padding": lambda uri: flip(uri, -1),
    "cut": cut,
    "shard lost": lose_shard,
    "marker lost": lose_marker,
    "strange shard": add_shard,
    "marker": change_marker,
    "index": change_index,
    "counts": change_counts,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_every_damage_is_found(whole: str, damage, capsys: pytest.CaptureFixture[str]) -> None:
    damage(whole)
    problems = verify(whole)
    assert problems and all("\n" not in problem for problem in problems)
    assert main(["verify", whole]) == 1
    assert capsys.readouterr().err.splitlines()[:-1] == problems
    assert main(["verify", whole, "--repair"]) == 0
    assert not storage.exists(storage.join(whole, "dataset.json")), (
        "no reader opens it until it is made whole"
    )


def rewrite(uri: str, replace: dict[str, bytes]) -> None:
    """Puts other members of the same names into a shard, with hashes, marker and manifest that fit it."""
    path = Path(uri, "shards/val-000000.tar")
    buffer = io.BytesIO()
    with (
        tarfile.open(path) as tar,
        tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as out,
    ):
        for info in tar.getmembers():
            suffix = info.name.partition(".")[2]
            data = replace.get(suffix) or tar.extractfile(info).read()  # type: ignore[union-attr]
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    path.write_bytes(buffer.getvalue())


def test_one_damaged_shard_is_all_that_is_said(whole: str) -> None:
    flip(whole, 3000, "val-000000")
    assert len(verify(whole)) == 2 and all("val-000000" in problem for problem in verify(whole))


def test_members_that_belie_their_json_are_found(whole: str) -> None:
    rewrite(whole, {"mask.png": b"no image"})
    assert any("mask.png has another hash than its JSON says" in problem for problem in verify(whole))


def test_samples_of_another_size_are_found(tmp_path: Path) -> None:
    uri = str(tmp_path)
    write_shard(uri, "val-000000", samples("val-000000", 2, side=32))
    finish(uri)
    assert len([problem for problem in verify(uri) if "resolution is 16" in problem]) == 2


def test_real_samples_do_not_make_a_synthetic_set(tmp_path: Path) -> None:
    write_shard(str(tmp_path), "val-000000", samples("val-000000", 1))
    finish(str(tmp_path), kind="synthetic")
    assert any("does not fit a synthetic set" in problem for problem in verify(str(tmp_path)))


def test_verify_says_whole(whole: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", whole]) == 0
    assert capsys.readouterr().out == "whole: 9 samples in 3 shards, revision 1\n"


def test_verify_of_an_incomplete_set_is_the_users_mistake(
    whole: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(whole, "dataset.json").unlink()
    assert main(["verify", whole]) == 2
    assert "not a complete set" in capsys.readouterr().err.splitlines()[-1]


def test_a_set_in_an_object_store_is_fetched_once(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIAMDIFF_CACHE", str(tmp_path))
    uri = make_set(f"{s3.bucket_uri}/shardset/{tmp_path.name}")
    assert verify(uri) == []
    shard_set = ShardSet.open(uri)
    assert {shard_set.read(key).mask.shape for key in shard_set.keys("train") + shard_set.keys("val")} == {
        (16, 16)
    }
    tars = sorted(tmp_path.rglob("*.tar"))
    assert [tar.stem for tar in tars] == sorted(shard.sha256 for shard in shard_set.manifest.shards)
    written = write_shard(uri, "val-000000", samples("val-000000", 2))
    assert written.sha256 in {tar.stem for tar in tars}, "a second put leaves the first tar"


def test_damage_in_an_object_store_is_found(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIAMDIFF_CACHE", str(tmp_path))
    uri = make_set(f"{s3.bucket_uri}/damaged/{tmp_path.name}")
    data = bytearray(storage.read_bytes(tar_uri(uri, "val-000000")))
    data[3000] ^= 4
    storage.write_bytes(tar_uri(uri, "val-000000"), bytes(data))
    shard_set = ShardSet.open(uri)
    with pytest.raises(SiamdiffError, match="is damaged"):
        shard_set.read(shard_set.keys("val")[0])
    assert not list(tmp_path.rglob("*.tar")), "a damaged copy is not kept"
    assert main(["verify", uri]) == 1


def test_samples_are_read_on_when_the_nodes_cache_is_emptied_and_a_lost_shard_is_named(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SIAMDIFF_CACHE", str(tmp_path / "cache"))
    uri = s3.new_root()
    for shard, count in COUNTS.items():
        write_shard(uri, shard, samples(shard, count))
    finish(uri)
    shard_set = ShardSet.open(uri)
    key = shard_set.keys("val")[0]
    before = shard_set.read(key)
    for copy in (tmp_path / "cache" / "shards").glob("*.tar"):
        copy.unlink()
    assert np.array_equal(shard_set.read(key).image, before.image)
    for copy in (tmp_path / "cache" / "shards").glob("*.tar"):
        copy.unlink()
    storage.delete(tar_uri(uri, "val-000000"))
    with pytest.raises(SiamdiffError, match=r"val-000000\.tar is missing; make the set again"):
        shard_set.read(key)
