"""Samples and shards: deterministic bytes, exactly one tar, and readers that other people wrote."""

import io
import subprocess
import tarfile

import numpy as np
import pytest
import webdataset

from siamdiff import storage
from siamdiff.data.sample import (
    EncodedSample,
    SampleMeta,
    Synthetic,
    content_key,
    decode_image,
    decode_mask,
    make_sample,
)
from siamdiff.data.shards import finished_shards, index_tar, read_marker, read_shard, tar_uri, write_shard
from siamdiff.errors import SiamdiffError


def sample(seed: int, split: str = "train", image_format: str = "png", side: int = 16) -> EncodedSample:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    mask = (rng.random((side, side)) > 0.5).astype(np.uint8) * 255
    return make_sample(
        image,
        mask,
        prompt="a polyp",
        split=split,
        group=None,
        source_size=(20, 30),
        image_format=image_format,
    )


def samples(count: int, split: str = "train") -> list[EncodedSample]:
    start = {"train": 0, "val": 1000, "test": 2000}[split]
    return [sample(start + i, split) for i in range(count)]


def test_what_came_later_may_be_missing_in_sets_made_before() -> None:
    meta = sample(0).meta
    old = meta.model_dump(mode="json", exclude={"subset", "crop", "padding"})
    assert SampleMeta.model_validate(old) == meta


def test_png_keeps_every_pixel_and_jpeg_nearly() -> None:
    png, jpg = sample(3).decode(), sample(3, image_format="jpg").decode()
    assert np.array_equal(png.mask, jpg.mask)
    assert np.abs(png.image.astype(int) - jpg.image).mean() < 5
    assert png.meta.key == jpg.meta.key


def test_the_key_tells_parts_apart() -> None:
    assert content_key(b"ab", b"c") != content_key(b"a", b"bc")
    assert len(content_key(b"")) == 16


@pytest.mark.parametrize("values", [(0, 128), (1, 255)])
def test_only_binary_masks_become_samples(values: tuple[int, int]) -> None:
    mask = np.full((16, 16), values[0], np.uint8)
    mask[:8] = values[1]
    with pytest.raises(ValueError, match="0 and 255"):
        make_sample(
            np.zeros((16, 16, 3), np.uint8), mask, prompt="", split="train", group=None, source_size=(16, 16),
            image_format="png",
        )  # fmt: skip


def test_other_decoders_than_the_listed_are_refused() -> None:
    from PIL import Image

    gif = io.BytesIO()
    Image.new("RGB", (4, 4)).save(gif, "GIF")
    for decode in (decode_image, decode_mask):
        with pytest.raises(SiamdiffError, match="cannot be decoded"):
            decode(gif.getvalue())


def test_bytes_depend_on_the_content_alone(tmp_path) -> None:
    one = write_shard(str(tmp_path / "a"), "train-000000", samples(5))
    two = write_shard(str(tmp_path / "b"), "train-000000", reversed(samples(5)))
    assert one == two
    with tarfile.open(tmp_path / "a/shards/train-000000.tar") as tar:
        members = tar.getmembers()
    assert [m.name for m in members] == sorted(m.name for m in members)
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}


def test_plain_webdataset_and_tar_read_it(tmp_path) -> None:
    marker = write_shard(str(tmp_path), "train-000000", samples(4))
    path = tmp_path / "shards/train-000000.tar"
    listing = subprocess.run(["tar", "tf", path], capture_output=True, text=True, check=True).stdout.split()
    assert len(listing) == 12
    read = list(webdataset.WebDataset(str(path), shardshuffle=False))
    assert [entry["__key__"] for entry in read] == [row.key for row in marker.samples]
    assert np.array_equal(
        decode_mask(read[0]["mask.png"]), next(read_shard(str(tmp_path), "train-000000")).decode().mask
    )


def test_offsets_point_at_the_members(tmp_path) -> None:
    written = sorted(samples(3), key=lambda s: s.meta.key)
    marker = write_shard(str(tmp_path), "train-000000", written)
    data = (tmp_path / "shards/train-000000.tar").read_bytes()
    for row, expected in zip(marker.samples, written, strict=True):
        assert data[row.image_offset :][: row.image_size] == expected.image
        assert data[row.mask_offset :][: row.mask_size] == expected.mask
        assert row.offset <= row.meta_offset < row.offset + row.size


def test_the_first_tar_stays_and_the_marker_describes_it(tmp_path) -> None:
    uri, planned = str(tmp_path), samples(3)
    write_shard(uri, "train-000000", planned, made_by={"device": "first"})
    first = (tmp_path / "shards/train-000000.tar").read_bytes()
    (tmp_path / "shards/train-000000.json").unlink()
    again = [
        make_sample(
            s.decode().image // 2, s.decode().mask, key=s.meta.key, prompt="other bytes", split="train", group=None,
            source_size=(1, 1), image_format="png",
        )
        for s in planned
    ]  # fmt: skip
    marker = write_shard(uri, "train-000000", again, made_by={"device": "second"})
    assert (tmp_path / "shards/train-000000.tar").read_bytes() == first
    assert marker.size == len(first) and marker.made_by == {}
    assert [s.meta.prompt for s in read_shard(uri, "train-000000")] == ["a polyp"] * 3


@pytest.mark.parametrize("garbage", [b"", b"garbage", b"\0" * 10240, "cut"])
def test_a_damaged_tar_under_the_name_is_an_error(tmp_path, garbage) -> None:
    uri = str(tmp_path)
    write_shard(uri, "train-000000", samples(3))
    whole = storage.read_bytes(tar_uri(uri, "train-000000"))
    storage.delete(tar_uri(uri, "train-000000"))
    storage.write_bytes(
        tar_uri(uri, "train-000000"), whole[: len(whole) // 2] if garbage == "cut" else garbage
    )
    with pytest.raises(SiamdiffError, match="train-000000"):
        write_shard(uri, "train-000000", samples(3))


def test_a_tar_of_other_samples_is_an_error(tmp_path) -> None:
    write_shard(str(tmp_path), "train-000000", samples(3))
    with pytest.raises(SiamdiffError, match="holds other samples"):
        write_shard(str(tmp_path), "train-000000", samples(2))


def test_a_shard_is_finished_when_tar_and_marker_are_there(tmp_path) -> None:
    for i in range(3):
        write_shard(str(tmp_path), f"train-{i:06d}", samples(i + 1))
    (tmp_path / "shards/train-000000.json").unlink()
    (tmp_path / "shards/train-000001.tar").unlink()
    assert finished_shards(str(tmp_path)) == {"train-000002"}
    assert finished_shards(str(tmp_path / "nowhere")) == set()


def test_a_missing_shard_is_written_again_over_its_stale_marker(tmp_path) -> None:
    write_shard(str(tmp_path), "train-000000", samples(2))
    (tmp_path / "shards/train-000000.tar").unlink()
    marker = write_shard(str(tmp_path), "train-000000", samples(3))
    assert read_marker(str(tmp_path), "train-000000") == marker and marker.count == 3


def test_a_damaged_marker_says_so(tmp_path) -> None:
    write_shard(str(tmp_path), "train-000000", samples(2))
    (tmp_path / "shards/train-000000.json").write_text('{"name": "train-000000"}')
    with pytest.raises(SiamdiffError, match=r"count: Field required"):
        read_marker(str(tmp_path), "train-000000")


def test_members_of_other_kinds_are_refused() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("0123456789abcdef.pkl"))
    with pytest.raises(SiamdiffError, match=r"\.pkl"):
        index_tar(buffer.getvalue(), "train-000000")


def test_a_key_twice_is_refused(tmp_path) -> None:
    with pytest.raises(SiamdiffError, match="twice"):
        write_shard(str(tmp_path), "train-000000", [sample(1), sample(1)])


def test_synthetic_samples_carry_their_origin(tmp_path) -> None:
    origin = Synthetic(
        parent="0" * 16, fold=2, transform={"rotate": 10.0}, seed=7, model_digest="ab", sampler={"steps": 20}
    )
    made = make_sample(
        np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16), np.uint8), prompt="p", split="train", group="g",
        source_size=(16, 16), image_format="jpg", key=content_key(b"x"), synthetic=origin,
    )  # fmt: skip
    row = write_shard(str(tmp_path), "fold2-000000", [made]).samples[0]
    assert (row.parent, row.fold, row.group, row.image_format) == ("0" * 16, 2, "g", "jpg")
    assert next(read_shard(str(tmp_path), "fold2-000000")).meta.synthetic == origin
