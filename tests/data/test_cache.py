"""A node's copies of objects: made once, made again when damaged, and honest about a disk that does not take them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from siamdiff import storage
from siamdiff.data.cache import cached
from siamdiff.errors import SiamdiffError, UserError
from tests.s3 import S3Server


def test_a_cache_that_cannot_be_written_is_the_users_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("SIAMDIFF_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="set SIAMDIFF_CACHE"), cached("shards/a.tar"):
        pass


def test_a_full_cache_is_not_told_as_a_full_store(s3: S3Server, tmp_path: Path) -> None:
    """A limit on the size of files stands for the end of a disk."""
    uri = storage.join(s3.new_root(), "object")
    storage.write_bytes(uri, bytes(2**20))
    program = f"""
import resource
from siamdiff import storage
from siamdiff.data.cache import cached
from siamdiff.errors import UserError

with cached("warm"):  # libraries write their own files before the limit
    storage.exists({uri!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with cached("object") as place:
        storage.download_file({uri!r}, place)
except UserError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "SIAMDIFF_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert f"cannot keep {tmp_path}/object on this node" in done.stdout, done.stderr
    assert "SIAMDIFF_CACHE" in done.stdout and "s3://" not in done.stdout


def test_what_the_store_says_comes_out_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIAMDIFF_CACHE", str(tmp_path))
    with pytest.raises(SiamdiffError, match="is missing") as error, cached("shards/a.tar"):
        raise SiamdiffError("s3://bucket/a.tar is missing") from FileNotFoundError()
    assert error.value.exit_code == 1
