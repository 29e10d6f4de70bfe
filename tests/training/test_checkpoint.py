"""Checkpoints in a real store: parts of several workers, what counts, what is kept, what is found out."""

import errno
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from siamdiff import storage
from siamdiff.errors import SiamdiffError
from siamdiff.run import Lease, lease
from siamdiff.training import checkpoint
from siamdiff.training.checkpoint import Writer
from siamdiff.training.context import SingleProcess


class Place(SingleProcess):
    """Worker `rank` of `world_size` threads of this process."""

    def __init__(self, rank: int, world_size: int, attempt: str = "a1") -> None:
        super().__init__()
        self.rank, self.world_size, self.attempt = rank, world_size, attempt

    def gather(self, value: Any) -> list[Any]:
        return [self.attempt if isinstance(value, str) else value] * self.world_size


def files(rank: int, step: int) -> Callable[[Path], Callable[[], None]]:
    """A snapshot: what is written is the state at the call, whenever it is written."""

    def snapshot(folder: Path) -> Callable[[], None]:
        content = f"rank {rank} step {step}".encode()
        return lambda: (folder / f"state-{rank}.bin").write_bytes(content) and None

    return snapshot


def nothing() -> None:
    """No record in these tests."""


@contextmanager
def writers(run: str, count: int, kept: int = 2, attempt: str = "a1") -> Iterator[list[Writer]]:
    with lease(run) as held:
        made = [Writer(run, Place(rank, count, attempt), held, kept) for rank in range(count)]
        yield made
        for writer in made:
            writer.close(10)


def save(made: list[Writer], step: int, **about: Any) -> None:
    for rank, writer in enumerate(made):
        writer.begin(step, files(rank, step), nothing, about)
    for writer in made:
        writer.wait()


@pytest.fixture
def run(s3) -> str:
    return f"{s3.new_root()}/runs/r"


def test_it_counts_when_every_part_is_there_and_is_read_back_whole(run: str):
    with writers(run, 2) as (first, second):
        first.begin(7, files(0, 7), nothing, {"validation": None})
        time.sleep(0.5)
        assert checkpoint.complete_steps(run) == []
        second.begin(7, files(1, 7), nothing, {})
        first.wait()
    (found,) = checkpoint.complete_checkpoints(run)
    with checkpoint.fetched(found, SingleProcess()) as (folder, marker):
        assert (folder / "state-1.bin").read_bytes() == b"rank 1 step 7"
        assert (marker["step"], marker["world_size"], sorted(marker["files"])) == (
            7, 2, ["state-0.bin", "state-1.bin"],
        )  # fmt: skip
    assert not folder.exists()


def test_what_another_attempt_left_behind_is_no_part_of_it_and_is_removed(run: str):
    with writers(run, 2, attempt="dead") as (_, second):
        second.begin(7, files(1, 7), nothing, {})
        second.wait()
    with writers(run, 2, attempt="new") as made:
        made[0].begin(7, files(0, 7), nothing, {})
        time.sleep(0.5)
        assert checkpoint.complete_steps(run) == []
        checkpoint.remove_incomplete(run)
        made[1].begin(7, files(1, 7), nothing, {})
        made[0].wait()
    assert [name.split("/")[1] for name in storage.list_files(run) if name.endswith("complete.json")] == [
        "step-00000007.new"
    ]
    assert not any("dead" in name for name in storage.list_files(run))


def test_the_newest_and_the_best_are_kept(run: str):
    with writers(run, 1, kept=2) as made:
        for step, loss in [(1, 0.9), (2, 0.3), (3, 0.5), (4, 0.6), (5, 0.4)]:
            save(made, step, validation=loss)
    assert checkpoint.complete_steps(run) == [2, 4, 5]


def test_training_goes_on_while_it_is_written(run: str):
    written = threading.Event()

    def slow(folder: Path) -> Callable[[], None]:
        return lambda: written.wait(10) and files(0, 1)(folder)()

    with writers(run, 1) as (writer,):
        writer.begin(1, slow, nothing, {})
        writer.check()  # returns at once
        assert checkpoint.complete_steps(run) == []
        written.set()
        writer.wait()
    assert checkpoint.complete_steps(run) == [1]


def test_what_fails_in_the_background_comes_out_in_one_line(run: str):
    def full(_folder: Path) -> Callable[[], None]:
        def write() -> None:
            with open("/dev/full", "wb") as file:
                file.write(b"x" * 10**6)

        return write

    with writers(run, 1) as (writer,):
        save([writer], 1)
        writer.begin(2, full, nothing, {})
        with pytest.raises(SiamdiffError, match=r"step 2 cannot be written .*No space left.*TMPDIR"):
            writer.wait()
        save([writer], 3)
    assert checkpoint.complete_steps(run) == [1, 3]


def test_a_disk_that_is_full_before_the_first_byte_is_told_in_the_same_line(run: str):
    def no_room(_folder: Path) -> Callable[[], None]:
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        writers(run, 1) as (writer,),
        pytest.raises(SiamdiffError, match=r"step 2 cannot be written to .*No space left.*TMPDIR"),
    ):
        writer.begin(2, no_room, nothing, {})


def test_it_does_not_count_once_another_job_holds_the_run(run: str):
    with lease(run) as held:
        stranger = Lease(held.uri, "another token")
        writer = Writer(run, SingleProcess(), stranger, 2)
        writer.begin(1, files(0, 1), nothing, {})
        with pytest.raises(SiamdiffError, match="another job took over"):
            writer.wait()
    assert checkpoint.complete_steps(run) == []


@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing"])
def test_damage_is_named_with_the_way_out(run: str, damage: str):
    with writers(run, 1) as made:
        save(made, 1)
        save(made, 2)
    newest = checkpoint.find(run, 2)
    uri = f"{newest.uri}/state-0.bin"
    if damage == "missing":
        storage.delete(uri)
    else:
        storage.write_bytes(uri, {"flipped": b"rank 0 step 3", "truncated": b"rank"}[damage])
    with (
        pytest.raises(SiamdiffError, match=r"is damaged: state-0\.bin .*; delete .* to go on from"),
        checkpoint.fetched(newest, SingleProcess()),
    ):
        pass
    storage.delete_folder(newest.uri)
    assert checkpoint.complete_steps(run) == [1]
