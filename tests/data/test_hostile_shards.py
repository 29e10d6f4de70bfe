"""Shards and sets from anywhere: whatever they hold or claim is one line, and nothing outside of them is touched."""

import hashlib
import io
import json
import pickle
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from siamdiff import storage
from siamdiff.__main__ import main
from siamdiff.data.manifest import INDEX_SCHEMA, ShardEntry, set_digest
from siamdiff.data.shards import index_tar, marker_uri, read_marker, tar_uri
from siamdiff.data.shardset import ShardSet
from siamdiff.errors import SiamdiffError
from tests.data.hostile import KEY, member, png, tar_of
from tests.sets import write_phantoms

NAME = "train-000000"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "set"
    write_phantoms(str(folder))
    return folder


@pytest.fixture
def uri(whole: Path, tmp_path: Path) -> str:
    """A whole set of its own."""
    return str(shutil.copytree(whole, tmp_path / "below" / "set"))


class Payload:
    """Pickled, it is a call that leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def long_names() -> list[bytes]:
    return [member("././@LongLink", 2, tarfile.GNUTYPE_LONGNAME, content=b"a\0")] * 3000


TARS = {
    "out of its folder": [member(f"../../{KEY}.png")],
    "absolute": [member(f"/tmp/{KEY}.png")],
    "symlink": [member(f"{KEY}.png", kind=tarfile.SYMTYPE, link="/etc/passwd")],
    "hard link": [member(f"{KEY}.png", kind=tarfile.LNKTYPE, link="/etc/passwd")],
    "device": [member(f"{KEY}.png", kind=tarfile.CHRTYPE)],
    "fifo": [member(f"{KEY}.png", kind=tarfile.FIFOTYPE)],
    "folder": [member(f"{KEY}.png/", kind=tarfile.DIRTYPE)],
    "sparse": [member(f"{KEY}.png", kind=tarfile.GNUTYPE_SPARSE)],
    "terabytes": [member(f"{KEY}.png", 2**42)],
    "more than is there": [member(f"{KEY}.png", 2**20)],
    "in a circle": [member(f"{KEY}.png"), member(f"{KEY}.json", -512)],
    "long names on long names": [*long_names(), member(f"{KEY}.png")],
    "an attribute of digits": [
        member("pax", 400_000, tarfile.XHDTYPE, content=b"1" * 400_000),
        member(f"{KEY}.png"),
    ],
    "extension": [member(f"{KEY}.pyd")],
    "pickle": [member(f"{KEY}.pth", 3, content=b"abc")],
    "escapes": [member(f"{KEY}\n\x1b[31m.png")],
}


@pytest.mark.parametrize("members", TARS.values(), ids=TARS)
def test_members_that_no_shard_has_are_refused_in_one_line(members: list[bytes]) -> None:
    with pytest.raises(SiamdiffError, match="shard x is damaged: ") as error:
        index_tar(tar_of(*members), "x")
    assert str(error.value).isprintable() and len(str(error.value)) < 300


def test_a_poisoned_pickle_among_the_members_is_not_loaded(tmp_path: Path) -> None:
    for suffix in ("pyd", "pkl", "pth", "json"):
        content = pickle.dumps(Payload(tmp_path / "it ran"))
        with pytest.raises(SiamdiffError, match="damaged"):
            index_tar(tar_of(member(f"{KEY}.{suffix}", len(content), content=content)), NAME)
    assert not (tmp_path / "it ran").exists()
    pickle.loads(content)
    assert (tmp_path / "it ran").exists(), "the payload is a real one"


def rewrite(uri: str, index: pa.Table | None = None, **fields: Any) -> None:
    """Changes what a set says of itself, with every hash made to fit again, as an attacker would."""
    manifest = storage.read_json(f"{uri}/dataset.json")
    if index is not None:
        buffer = io.BytesIO()
        pq.write_table(index, buffer, compression="zstd")
        storage.write_bytes(f"{uri}/index.parquet", buffer.getvalue())
        manifest["index_sha256"] = hashlib.sha256(buffer.getvalue()).hexdigest()
    manifest |= fields
    try:
        manifest["digest"] = set_digest(ShardEntry(**shard) for shard in manifest["shards"])
    except ValueError:  # of what may not be
        content = sorted([shard["name"], shard["sha256"]] for shard in manifest["shards"])
        manifest["digest"] = hashlib.sha256(storage.canonical_json(content)).hexdigest()
    storage.write_json(f"{uri}/dataset.json", manifest)


def with_shard(uri: str, **changes: Any) -> None:
    shards = storage.read_json(f"{uri}/dataset.json")["shards"]
    rewrite(uri, shards=[shards[0] | changes, *shards[1:]])


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "../../../victim"},
        {"name": "/etc/victim"},
        {"name": "a\n\x1b[31mb"},
        {"name": "a" * 100_000},
        {"sha256": "../../../victim"},
        {"sha256": ""},
        {"count": -1},
        {"count": 10**30},
        {"size": -1},
    ],
    ids=lambda changes: "{}={:.12}".format(*next((k, str(v)) for k, v in changes.items())),
)
def test_a_shard_that_cannot_be_is_refused_and_nothing_else_is_touched(
    uri: str, tmp_path: Path, changes: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    victims = [tmp_path / "victim.tar", tmp_path / "victim.json"]
    for victim in victims:
        victim.write_text("{}")
    with_shard(uri, **changes)
    with pytest.raises(SiamdiffError, match=r"dataset\.json is damaged: shards\.0\."):
        ShardSet.open(uri)
    assert main(["verify", "--repair", uri]) in (0, 1, 2) and main(["gc", uri]) in (0, 1, 2)
    assert [victim.read_text() for victim in victims] == ["{}"] * 2
    assert "\x1b" not in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    "fields",
    [
        {"resolution": 10**9},
        {"count": -1},
        {"count": 10**12},
        {"license": "a" * 1_000_000},
        {"splits": {"train": -1}},
        {"revision": 10**40},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_a_manifest_of_absurd_values_is_refused(uri: str, fields: dict[str, Any]) -> None:
    rewrite(uri, **fields)
    with pytest.raises(SiamdiffError, match="is damaged") as error:
        ShardSet.open(uri)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize("content", ["[" * 200_000, '{"count": ' + "9" * 5000 + "}", '{"a":' * 100_000])
def test_json_of_any_depth_is_one_line(uri: str, content: str) -> None:
    for name in ("dataset.json", f"shards/{NAME}.json"):
        Path(uri, name).write_text(content)
    with pytest.raises(SiamdiffError, match="is damaged"):
        read_marker(uri, NAME)
    with pytest.raises(SiamdiffError, match="is damaged"):
        ShardSet.open(uri)


@pytest.mark.parametrize("changes", [{"name": "../x"}, {"count": 10**12}, {"sha256": "../x"}], ids=str)
def test_a_marker_of_absurd_values_is_refused(uri: str, changes: dict[str, Any]) -> None:
    marker = storage.read_json(marker_uri(uri, NAME))
    storage.write_json(marker_uri(uri, NAME), marker | changes)
    with pytest.raises(SiamdiffError, match="is damaged"):
        read_marker(uri, NAME)


def changed(table: pa.Table, column: str, value: Any) -> pa.Table:
    rows = [row | {column: value} for row in table.to_pylist()]
    return pa.Table.from_pylist(rows, schema=INDEX_SCHEMA)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("offset", 2**60),
        ("offset", -5),
        ("size", 10**15),
        ("size", -1),
        ("image_offset", -1),
        ("shard", "../../victim"),
        ("shard", "nowhere-000000"),
        ("image_format", "gif"),
        ("key", "\N{SNOWMAN}"),
        ("key", None),
        ("split", None),
        ("image_sha256", "x"),
    ],
)
def test_an_index_that_points_anywhere_is_refused(uri: str, column: str, value: Any) -> None:
    shards = ShardSet.open(uri)
    rewrite(uri, index=changed(shards.index, column, value))
    with pytest.raises(SiamdiffError, match=r"index\.parquet is damaged") as error:
        hostile = ShardSet.open(uri)
        hostile.read(hostile.keys()[0])
    assert "\n" not in str(error.value)


def test_an_index_that_would_fill_the_memory_is_refused(uri: str) -> None:
    shards = ShardSet.open(uri)
    row = shards.index.slice(0, 1).to_pylist()[0]
    many = pa.Table.from_pylist([row | {"group": "g" * 9000}] * 20_000, schema=INDEX_SCHEMA)
    rewrite(uri, index=many)
    with pytest.raises(SiamdiffError, match=r"it has 20000 rows, dataset\.json says 12"):
        ShardSet.open(uri)
    rewrite(uri, index=many, count=20_000)
    assert Path(uri, "index.parquet").stat().st_size < 200_000
    with pytest.raises(SiamdiffError, match="its rows take over"):
        ShardSet.open(uri)


def repack(uri: str, image: bytes, **meta: Any) -> None:
    """A set of one sample with this image, all hashes made to fit."""
    shards = ShardSet.open(uri)
    sample = shards.read_encoded(shards.keys("val")[0])
    known = sample.meta.model_dump(mode="json") | {"image_sha256": hashlib.sha256(image).hexdigest()} | meta
    key = sample.meta.key
    files = {
        f"{key}.json": storage.canonical_json(known),
        f"{key}.mask.png": sample.mask,
        f"{key}.png": image,
    }
    tar = tar_of(*(member(name, len(files[name]), content=files[name]) for name in sorted(files)))
    rows = index_tar(tar, NAME)
    entry = {"name": NAME, "count": 1, "size": len(tar), "sha256": hashlib.sha256(tar).hexdigest()}
    storage.write_bytes(tar_uri(uri, NAME), tar)
    index = pa.Table.from_pylist([row.model_dump() for row in rows], schema=INDEX_SCHEMA)
    rewrite(uri, index=index, shards=[entry], count=1, size=len(tar), splits={"val": 1})


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (png(100_000, 1), "over 2048 x 2048 pixels"),
        (png(2**31 - 1, 2**31 - 1, pixels=b"\0"), "exceeds limit"),
        (png(64, 64), "mode L: must be RGB"),
    ],
    ids=["wide", "bomb", "grey"],
)
def test_an_image_in_a_shard_that_is_no_sample_is_one_line(uri: str, image: bytes, says: str) -> None:
    repack(uri, image)
    shards = ShardSet.open(uri)
    with pytest.raises(SiamdiffError, match=says) as error:
        shards.read(shards.keys()[0])
    assert "\n" not in str(error.value)


def test_a_sample_of_another_size_than_the_sets_does_not_reach_a_batch(uri: str) -> None:
    rewrite(uri, resolution=64)
    shards = ShardSet.open(uri)
    with pytest.raises(SiamdiffError, match="is of 32 x 32, the set's resolution is 64"):
        shards.read(shards.keys()[0])


def test_a_prompt_without_end_is_refused(uri: str) -> None:
    with pytest.raises(SiamdiffError, match="prompt: String should have at most 10000") as error:
        repack(uri, png(32, 32), prompt="a" * 1_000_000)
    assert len(str(error.value)) < 300


def test_metadata_is_json_and_nothing_else() -> None:
    content = json.dumps({"key": KEY, "__reduce__": ["os.system", "true"]}).encode()
    members = [
        member(f"{KEY}.json", len(content), content=content),
        member(f"{KEY}.mask.png", 1, content=b"x"),
        member(f"{KEY}.png", 1, content=b"x"),
    ]
    with pytest.raises(SiamdiffError, match=f"{KEY}.json"):
        index_tar(tar_of(*members), NAME)
