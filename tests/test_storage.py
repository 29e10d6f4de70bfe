"""Objects appear whole or not at all, on a disk and in a store, and every failure says what to do."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from siamdiff import storage, transfer
from siamdiff.errors import SiamdiffError, UserError


@pytest.fixture(params=["disk", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "root") if request.param == "disk" else request.getfixturevalue("s3").new_root()


def test_what_is_written_is_read_and_listed(root: str):
    storage.write_bytes(storage.join(root, "a", "b.bin"), b"12345")
    storage.write_json(storage.join(root, "c.json"), {"x": [1, 2]})
    assert storage.read_bytes(storage.join(root, "a", "b.bin")) == b"12345"
    assert storage.read_json(storage.join(root, "c.json")) == {"x": [1, 2]}
    assert list(storage.list_files(root)) == ["a/b.bin", "c.json"]
    assert storage.list_files(root)["a/b.bin"] == 5


def test_missing_objects_are_missing(root: str):
    assert not storage.exists(storage.join(root, "x"))
    assert storage.list_files(root) == {}
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(storage.join(root, "x"))
    storage.delete(storage.join(root, "x"))
    storage.delete_folder(root)


def test_a_folder_is_no_object(root: str):
    storage.write_bytes(storage.join(root, "folder", "one"), b"1")
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(storage.join(root, "folder"))


def test_of_many_who_put_at_once_one_wins_and_its_bytes_stay(root: str):
    uri, won = storage.join(root, "one"), []

    def put(i: int) -> None:
        if storage.put_if_absent(uri, bytes([i]) * 1000):
            won.append(i)

    threads = [threading.Thread(target=put, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert storage.read_bytes(uri) == bytes(won) * 1000


def test_folders_go_there_and_back(root: str, tmp_path: Path):
    source = tmp_path / "source"
    (source / "inner").mkdir(parents=True)
    (source / "inner" / "x.txt").write_text("hello")
    transfer.upload_folder(root, source)
    transfer.download_folder(root, tmp_path / "target")
    assert (tmp_path / "target" / "inner" / "x.txt").read_text() == "hello"
    with transfer.local_copy(root) as folder:
        assert (folder / "inner" / "x.txt").read_text() == "hello"
    with pytest.raises(FileNotFoundError):
        transfer.download_folder(storage.join(root, "nothing"), tmp_path / "y")


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    uri = str(tmp_path / "file")
    storage.write_bytes(uri, b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(SiamdiffError, match="no space left"):
        storage.write_bytes(uri, b"new")
    assert storage.read_bytes(uri) == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_broken_json_is_damage(tmp_path: Path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(SiamdiffError, match="not valid JSON"):
        storage.read_json(str(tmp_path / "x.json"))


def test_a_store_that_is_away_for_seconds_is_waited_for(s3):
    uri = storage.join(s3.new_root(), "x")
    storage.write_bytes(uri, b"1")
    answers = []
    s3.stop()
    reader = threading.Thread(target=lambda: answers.extend([storage.exists(uri), storage.read_bytes(uri)]))
    reader.start()
    s3.start()
    reader.join()
    assert answers == [True, b"1"]


def test_a_store_that_stays_away_is_not_an_empty_one(s3, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(storage, "RETRY_SECONDS", 0.5)
    uri = storage.join(s3.new_root(), "x")
    storage.write_bytes(uri, b"1")
    s3.stop()
    try:
        for call in (storage.exists, storage.list_files, storage.read_bytes):
            with pytest.raises(SiamdiffError, match="cannot be reached"):
                call(uri)
    finally:
        s3.start()


def test_an_unreadable_folder_is_not_an_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(UserError, match="no access"):
        storage.list_files(str(tmp_path))


def probe_in_process(uri: str, **environment: str) -> str:
    """The error of `probe` in a fresh process, whose S3 client reads the environment anew."""
    code = (
        "import sys; from siamdiff import storage; from siamdiff.errors import SiamdiffError\n"
        "try: storage.probe(sys.argv[1])\n"
        "except SiamdiffError as error: print(error.exit_code, error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, uri],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout


def test_wrong_credentials_are_the_users_mistake(s3):
    text = probe_in_process(s3.new_root(), AWS_SECRET_ACCESS_KEY="wrong")
    assert text.startswith("2 no access to s3://")
    assert "credentials" in text


def test_an_unreachable_store_is_not(s3):
    text = probe_in_process(s3.new_root(), AWS_ENDPOINT_URL="http://127.0.0.1:9")
    assert text.startswith("1 the store of s3://")
    assert "AWS_ENDPOINT_URL" in text


def test_a_missing_bucket_is_named(s3):
    assert "bucket 'nosuchbucket'" in probe_in_process("s3://nosuchbucket/x")


def test_a_root_that_cannot_be_a_folder_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for place in (tmp_path / "file", tmp_path / "file" / "x", tmp_path / "dangling", Path("/proc/x")):
        with pytest.raises(UserError, match=f"cannot use {place} .*; give a folder that can be made there"):
            storage.probe(str(place))


def test_a_file_in_a_folder_that_cannot_be_made_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    for folder in (tmp_path / "file", tmp_path / "file" / "x", Path("/proc/x")):
        for write in (storage.write_bytes, storage.put_if_absent):
            with pytest.raises(
                UserError, match=f"cannot use {folder}.*; give a folder that can be made there"
            ):
                write(str(folder / "page.html"), b"x")
