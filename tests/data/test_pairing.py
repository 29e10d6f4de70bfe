"""Which files of a raw source are a pair, which split and group they belong to, and what is said of the others."""

import json
from pathlib import Path

import pytest

from siamdiff import storage, transfer
from siamdiff.data.layouts.pairs import split_of
from siamdiff.data.pairing import Source, scan
from siamdiff.errors import UserError
from siamdiff.sections import Data
from tests.data.raw_folders import make_folder
from tests.s3 import S3Server


def read(source: Path | str, **fields: object) -> Source:
    return scan(Data.model_validate({"source": str(source)} | fields))


def reasons(source: Source) -> dict[str, list[str]]:
    return {bad.reason: bad.files for bad in source.rejected}


def test_files_of_one_stem_are_a_pair(tmp_path: Path) -> None:
    make_folder(tmp_path, ["b", "a"])
    (tmp_path / "images/a.png").rename(tmp_path / "images/a.JPG")
    source = read(tmp_path)
    assert [(p.image, p.mask) for p in source.pairs] == [
        ("images/a.JPG", "masks/a.png"),
        ("images/b.png", "masks/b.png"),
    ]
    assert source.rejected == []


def test_what_has_no_partner_is_listed(tmp_path: Path) -> None:
    make_folder(tmp_path, ["a", "b", "c"])
    (tmp_path / "images/a.png").unlink()
    (tmp_path / "masks/b.png").unlink()
    (tmp_path / "images/c.bmp").write_bytes(b"x")
    source = read(tmp_path)
    assert source.pairs == []
    assert reasons(source) == {
        "mask without image": ["masks/a.png"],
        "image without mask": ["images/b.png"],
        "several files of one name": ["images/c.bmp", "images/c.png", "masks/c.png"],
    }


def test_other_files_are_not_looked_at(tmp_path: Path) -> None:
    make_folder(tmp_path, ["a"])
    for name in ("images/.DS_Store", "images/._a.png", "images/notes.txt", "README.md"):
        (tmp_path / name).write_bytes(b"x")
    assert len(read(tmp_path).pairs) == 1 and read(tmp_path).rejected == []


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("images/train_0001.jpg", "train"),
        ("images/validation_0001.jpg", "val"),
        ("images/val-7.png", "val"),
        ("images/TEST_a.png", "test"),
        ("images/train/a.png", "train"),
        ("test/images/a.png", "test"),
        ("images/valid/train_1.png", "val"),
        ("images/trainer_1.png", None),
        ("images/testis.png", None),
        ("images/a_train.png", None),
    ],
)
def test_the_layout_names_splits(path: str, split: str | None) -> None:
    assert split_of(path) == split


def test_folders_of_splits_may_lie_inside_or_outside(tmp_path: Path) -> None:
    make_folder(tmp_path / "inside", ["train/a", "test/a"])
    for split in ("train", "test"):
        make_folder(tmp_path / "outside" / split, ["a"])
    for folder in ("inside", "outside"):
        assert sorted(str(pair.split) for pair in read(tmp_path / folder).pairs) == ["test", "train"]


def test_json_lines_of_the_authors(tmp_path: Path) -> None:
    make_folder(tmp_path, ["a", "b"])
    lines = [
        {"source": "masks/a.png", "target": "./images/a.png", "prompt": "a polyp"},
        {"source": "masks/b.png", "target": "images/none.png", "prompt": ""},
        {"source": "../masks/b.png", "target": "images/b.png", "prompt": ""},
        {"source": "masks/b.png", "target": "images/b.png"},
    ]
    path = tmp_path / "prompt.json"
    path.write_text("\n".join([*map(json.dumps, lines), "no json", ""]))
    source = read(path)
    assert [(p.image, p.mask, p.prompt) for p in source.pairs] == [("images/a.png", "masks/a.png", "a polyp")]
    assert set(reasons(source)) == {
        "missing image",
        "path leaves the file's folder",
        "line without source, target and prompt",
        "line is not JSON",
    }


@pytest.mark.parametrize("layout", ["nothing", "empty", "only images", "no jsonl"])
def test_a_source_without_pairs_is_the_users_mistake(tmp_path: Path, layout: str) -> None:
    source = tmp_path / "source"
    if layout != "nothing":
        source.mkdir()
    if layout == "only images":
        make_folder(source, ["a"])
        (source / "masks/a.png").unlink()
    with pytest.raises(UserError, match=r"data\.source"):
        read(source / "x.jsonl" if layout == "no jsonl" else source)


def groups_file(folder: Path, text: str) -> str:
    path = folder / "groups.csv"
    path.write_text(text)
    return str(path)


def test_groups_name_files_by_stem_name_or_path(tmp_path: Path) -> None:
    make_folder(tmp_path, ["a", "b", "c", "d"])
    (tmp_path / "masks/d.png").unlink()
    groups = groups_file(tmp_path, "group,file\np1,a\np1,b.png\np2,images/c.png\np3,d\n")
    assert [pair.group for pair in read(tmp_path, groups=groups).pairs] == ["p1", "p1", "p2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,patient\na,p1\n", "has the columns name,patient; it needs file,group"),
        ("file,group\nz,p1\n", "no file 'z'"),
        ("file,group\na,\n", "1 lines lack"),
        ("file,group\na,p1\na.png,p2\n", "is in the groups 'p1' and 'p2'"),
        ("file,group\nsame,p1\n", "give the path"),
    ],
)
def test_groups_that_do_not_fit_are_the_users_mistake(tmp_path: Path, text: str, message: str) -> None:
    make_folder(tmp_path, ["a", "train/same", "test/same"])
    with pytest.raises(UserError, match=message):
        read(tmp_path, groups=groups_file(tmp_path, text))
    with pytest.raises(UserError, match="does not exist"):
        read(tmp_path, groups=str(tmp_path / "none.csv"))


def test_the_fingerprint_tells_sources_apart(tmp_path: Path) -> None:
    make_folder(tmp_path, ["a", "b"])
    before = read(tmp_path).fingerprint
    assert read(tmp_path).fingerprint == before
    grouped = read(tmp_path, groups=groups_file(tmp_path, "file,group\na,p1\n")).fingerprint
    make_folder(tmp_path, ["c"])
    assert len({str(f) for f in (before, grouped, read(tmp_path).fingerprint)}) == 3


def test_a_file_written_anew_has_another_version(tmp_path: Path, s3: S3Server) -> None:
    make_folder(tmp_path / "raw", ["a"])
    uri = f"{s3.bucket_uri}/raw/{tmp_path.name}"
    transfer.upload_folder(uri, tmp_path / "raw")
    for source in (str(tmp_path / "raw"), uri):
        before = read(source)
        assert [name for name, _ in before.versions] == ["images/a.png", "masks/a.png"]
        assert read(source).versions == before.versions
        storage.write_bytes(storage.join(source, "masks/a.png"), bytes(before.fingerprint[1][1]))
        after = read(source)
        assert after.fingerprint == before.fingerprint and after.versions[0] == before.versions[0]
        assert after.versions[1] != before.versions[1]


def test_phantoms_are_indices() -> None:
    source = read("phantom", count=3)
    assert [pair.phantom for pair in source.pairs] == [0, 1, 2]
    with pytest.raises(UserError, match="phantoms have no groups"):
        read("phantom", groups="g.csv")


def test_a_source_in_an_object_store(s3: S3Server, tmp_path: Path) -> None:
    uri = f"{s3.bucket_uri}/raw/{tmp_path.name}"
    with pytest.raises(UserError, match="does not exist or is empty"):
        read(uri)
    with pytest.raises(UserError, match="does not exist or is empty"):
        read("s3://no-such-bucket/raw")
    transfer.upload_folder(uri, make_folder(tmp_path, ["a", "b"]))
    assert [pair.image for pair in read(uri).pairs] == ["images/a.png", "images/b.png"]
