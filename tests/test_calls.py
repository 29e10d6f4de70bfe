"""What whoever watches the store is told of each call."""

from collections.abc import Iterator

import pytest
from tenacity import Retrying

from siamdiff import calls, storage
from siamdiff.calls import StoreCall
from siamdiff.errors import SiamdiffError, UserError
from tests.s3 import S3Server


@pytest.fixture
def seen() -> Iterator[list[StoreCall]]:
    told: list[StoreCall] = []
    calls.observe(told.append)
    yield told
    calls.observe(None)


def test_each_call_is_told_with_its_bytes(seen: list[StoreCall], s3: S3Server, tmp_path) -> None:
    root, there = s3.new_root(), tmp_path / "there"
    storage.write_bytes(f"{root}/a", b"123")
    storage.read_bytes(f"{root}/a")
    storage.put_if_absent(f"{root}/a", b"12345")
    storage.download_file(f"{root}/a", there)
    storage.upload_file(f"{root}/b", there)
    storage.list_files(root)
    assert [(call.operation, call.read, call.written) for call in seen] == [
        ("write_bytes", 0, 3),
        ("read_bytes", 3, 0),
        ("put_if_absent", 0, 0),
        ("download_file", 3, 0),
        ("upload_file", 0, 3),
        ("list_files", 0, 0),
    ]
    assert all(
        call.scheme == "s3" and call.seconds > 0 and not call.error and not call.retries for call in seen
    )


def test_what_is_missing_is_no_error_and_what_goes_wrong_is_told_as_what_it_is(
    seen: list[StoreCall], tmp_path
) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(f"{tmp_path}/none")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError):
        storage.write_bytes(f"{tmp_path}/file/below", b"1")
    with pytest.raises(SiamdiffError):
        storage.read_bytes("/proc/self/mem")  # an I/O error, as of a disk that fails
    missing, refused, failed = seen
    assert (missing.error, missing.scheme) == ("", "file")
    assert (refused.error, refused.written, refused.retries) == (calls.REFUSED, 0, 0)
    assert (failed.error, failed.read) == (calls.FAILED, 0)


def test_attempts_after_the_first_are_counted(seen: list[StoreCall]) -> None:
    answers = iter([OSError(), OSError(), b"12"])

    def answer() -> bytes:
        one = next(answers)
        if isinstance(one, OSError):
            raise one
        return one

    assert calls.watched(lambda retrying: retrying(answer), "read_bytes", ("/a",), Retrying()) == b"12"
    assert [(call.retries, call.read) for call in seen] == [(2, 2)]


def test_nobody_is_told_of_a_call_after_the_end(seen: list[StoreCall], tmp_path) -> None:
    calls.observe(None)
    storage.write_bytes(f"{tmp_path}/a", b"1")
    assert seen == []
