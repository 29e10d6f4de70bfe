"""A folder that a node makes once for all its processes."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from siamdiff.data.cache import made_once
from siamdiff.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SIAMDIFF_CACHE", str(tmp_path))
    return tmp_path


def is_whole(folder: Path) -> bool:
    return (folder / "file").is_file()


def test_of_many_that_want_it_one_makes_it():
    made = []

    def make(folder: Path) -> None:
        made.append(folder)
        folder.mkdir()
        time.sleep(0.1)
        (folder / "file").write_text("whole")

    with ThreadPoolExecutor(4) as pool:
        places = list(pool.map(lambda _: made_once("bases/x", make, is_whole), range(4)))
    assert len(made) == 1 and len(set(places)) == 1
    assert (places[0] / "file").read_text() == "whole"


def test_what_is_damaged_or_was_left_by_a_killed_process_is_made_anew(cache: Path):
    for leftover in ("x", "x.partial"):
        (cache / "bases" / leftover).mkdir(parents=True)
        (cache / "bases" / leftover / "half").write_text("")

    def make(folder: Path) -> None:
        folder.mkdir()
        (folder / "file").write_text("whole")

    place = made_once("bases/x", make, is_whole)
    assert [path.name for path in place.iterdir()] == ["file"]
    assert not (cache / "bases" / "x.partial").exists()


def test_one_that_cannot_be_made_leaves_nothing(cache: Path):
    def make(folder: Path) -> None:
        folder.mkdir()
        (folder / "half").write_text("")
        raise UserError("it is a pickle with code")

    with pytest.raises(UserError, match="pickle"):
        made_once("bases/x", make, is_whole)
    assert [path.name for path in (cache / "bases").iterdir()] == ["x.lock"]
