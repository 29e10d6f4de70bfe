"""What readers said, at rest: nothing lost, nothing twice, nothing overwritten unseen."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from siamdiff.errors import SiamdiffError
from siamdiff.study.answers import Answer, Answers, Mark, Sent

STUDY, IMAGE = "a" * 32, "b" * 32


def change(number: int, *knows: int, **answer: object) -> Sent:
    return Sent(change=f"{number:032x}", knows=[f"{n:032x}" for n in knows], answer=Answer(**answer))  # type: ignore[arg-type]


@pytest.fixture
def answers(tmp_path: Path) -> Answers:
    return Answers(tmp_path / "answers.sqlite", STUDY)


def test_an_answer_is_there_for_whoever_opens_the_file_next(answers: Answers, tmp_path: Path):
    answer = Answer(
        verdict="real", realism=4, confidence=2, words="\N{SNOWMAN}", marks=[Mark(x=0.5, y=1, reason="blur")]
    )
    assert answers.save("reader-1", IMAGE, Sent(change="0" * 32, answer=answer))
    kept = Answers(tmp_path / "answers.sqlite", STUDY, reading=True).of("reader-1")[IMAGE]
    assert kept.answer == answer and kept.answer.is_complete
    assert answers.of("reader-2") == {}


def test_the_same_change_counts_once(answers: Answers):
    for _ in range(3):
        assert answers.save("reader-1", IMAGE, change(1, realism=3))
    assert len(answers.changes()) == 1


def test_a_page_that_does_not_know_what_another_said_is_refused_and_kept_in_the_log(answers: Answers):
    assert answers.save("reader-1", IMAGE, change(1, realism=3))
    assert not answers.save("reader-1", IMAGE, change(2, realism=5))
    assert answers.of("reader-1")[IMAGE].answer.realism == 3
    assert answers.save("reader-1", IMAGE, change(3, 1, realism=4))
    assert answers.save("reader-2", IMAGE, change(4, realism=1))
    assert [(of["reader"], of["refused"]) for of in answers.changes()] == [
        ("reader-1", 0), ("reader-1", 1), ("reader-1", 0), ("reader-2", 0),
    ]  # fmt: skip
    assert answers.of("reader-1")[IMAGE].answer.realism == 4


def test_a_change_that_arrives_late_does_not_undo_a_later_one(answers: Answers):
    assert answers.save("reader-1", IMAGE, change(1, realism=1))
    assert answers.save("reader-1", IMAGE, change(3, 1, 2, realism=3))
    assert not answers.save("reader-1", IMAGE, change(2, 1, realism=2))
    assert answers.of("reader-1")[IMAGE].answer.realism == 3


def test_the_log_cannot_be_rewritten(answers: Answers, tmp_path: Path):
    answers.save("reader-1", IMAGE, change(1, realism=3))
    with sqlite3.connect(tmp_path / "answers.sqlite") as database:
        for statement in ("DELETE FROM changes", "UPDATE changes SET reader = 'reader-2'"):
            with pytest.raises(sqlite3.IntegrityError, match="append only"):
                database.execute(statement)


def test_it_is_on_the_disk_at_once(answers: Answers, tmp_path: Path):
    with answers._connected() as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert database.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


def test_many_windows_at_once_lose_nothing(answers: Answers):
    def write(number: int) -> bool:
        return answers.save(f"reader-{number % 4 + 1}", f"{number // 4:032x}", change(number, realism=3))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(write, range(80)))
    assert len(answers.all()) == len(answers.changes()) == 80


def test_another_studys_or_a_damaged_file_is_refused(answers: Answers, tmp_path: Path):
    with pytest.raises(SiamdiffError, match="another study"):
        Answers(tmp_path / "answers.sqlite", "c" * 32)
    (tmp_path / "damaged.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(SiamdiffError, match="cannot be used"):
        Answers(tmp_path / "damaged.sqlite", STUDY)
