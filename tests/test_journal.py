"""What a process logged lies in the store: also of one that failed, and while the store was away."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from siamdiff import journal as journals
from siamdiff import storage
from siamdiff.errors import AlreadyRunningError, SiamdiffError
from siamdiff.journal import Journal, journal
from tests.s3 import S3Server

log = logging.getLogger("tests.journal")
log.setLevel(logging.INFO)


def lines(folder: str) -> list[dict[str, Any]]:
    found = []
    for name in storage.list_files(folder):
        assert name.endswith(".jsonl")
        found += [json.loads(line) for line in storage.read_bytes(storage.join(folder, name)).splitlines()]
    return found


def test_lines_tell_who_said_what_and_of_which_shard(s3: S3Server) -> None:
    folder = s3.new_root()
    with journal(folder, "worker-3", run="a", rank=3):
        log.info("step %d", 7)
        log.warning("it was begun twice", extra={"shard": "fold1-000002"})
        log.debug("not kept")
    start, first, second = lines(folder)
    assert start["message"].startswith("started") and "traceback" not in start
    assert (first["message"], first["run"], first["rank"], first["level"]) == ("step 7", "a", 3, "INFO")
    assert first["node"] and first["pid"] and first["time"].endswith("+00:00")
    assert (second["level"], second["shard"]) == ("WARNING", "fold1-000002")
    (name,) = storage.list_files(folder)
    assert name.startswith("worker-3-") and name.endswith("-000.jsonl")
    log.info("after the block nothing is kept")
    assert len(lines(folder)) == 3


@pytest.mark.parametrize(
    ("error", "level"), [(KeyError("a fault of ours"), "ERROR"), (AlreadyRunningError("by another"), "INFO")]
)
def test_what_ended_a_process_is_the_last_line_with_its_traceback(
    tmp_path: Path, error: Exception, level: str
) -> None:
    with pytest.raises(type(error)), journal(str(tmp_path), "job"):
        raise error
    _, line = lines(str(tmp_path))
    assert line["level"] == level and str(error) in line["message"]
    assert "test_journal.py" in line["traceback"] and type(error).__name__ in line["traceback"]


def test_many_lines_come_in_parts_that_are_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "PART_LINES", 4)
    handler = Journal(str(tmp_path), "job", {})
    messages = [f"line {i}" for i in range(10)]
    for message in messages:
        handler.handle(logging.LogRecord("a", logging.INFO, "", 0, message, (), None))
        handler.flush()
    handler.close()
    files = sorted(tmp_path.iterdir())
    assert [len(file.read_bytes().splitlines()) for file in files] == [4, 4, 2]
    assert [line["message"] for line in lines(str(tmp_path))] == messages


def test_lines_wait_for_a_store_that_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "RETRY_SECONDS", 0.1)
    monkeypatch.setattr(journals, "MAX_LINES", 3)
    folder = tmp_path / "logs"
    folder.write_bytes(b"a file where the folder should be")
    handler = Journal(str(folder), "job", {})
    for i in range(3):
        handler.handle(logging.LogRecord("a", logging.INFO, "", 0, f"line {i}", (), None))
    handler.flush()
    for i in range(3, 8):
        handler.handle(logging.LogRecord("a", logging.INFO, "", 0, f"line {i}", (), None))
    folder.unlink()
    handler.flush()
    handler.close()
    told = [line["message"] for line in lines(str(folder))]
    assert told == ["line 0", "line 1", "line 2", "line 5", "line 6", "line 7"], "the oldest are given up"


def test_a_store_that_stays_away_does_not_hide_why_the_process_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "RETRY_SECONDS", 0.1)
    (tmp_path / "logs").write_bytes(b"")
    with pytest.raises(SiamdiffError, match="the reason"), journal(str(tmp_path / "logs"), "job"):
        raise SiamdiffError("the reason")


def test_a_store_that_stays_away_is_not_waited_for_again_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time would be RETRY_SECONDS, and logging's own end flushes and closes once more."""
    monkeypatch.setattr(storage, "RETRY_SECONDS", 0.1)
    folder = tmp_path / "logs"
    folder.write_bytes(b"")
    handler = Journal(str(folder), "job", {})
    handler.handle(logging.LogRecord("a", logging.INFO, "", 0, "a line", (), None))
    handler.flush()
    folder.unlink()  # from here on an attempt would leave something
    handler.close()
    handler.flush()
    handler.close()
    assert not folder.exists()
