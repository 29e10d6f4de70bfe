"""`study score`: from answers on the disk to tables, plot and CSV."""

import csv
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from siamdiff.__main__ import main
from siamdiff.study.answers import Answer, Answers, Mark, Sent
from siamdiff.study.folder import ANSWERS, read_key, read_study
from siamdiff.study.making import Made
from tests.study.sets import small_study

GRADES = {"real": 5, "ours": 4, "other": 2}


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return small_study(tmp_path, readers=3)


def answer_all(made: Made, leave: int = 0) -> None:
    """Readers 1 and 2 know real images and rate by method; the second leaves the last ones; the third says nothing."""
    study, key = read_study(made.place), read_key(made.place)
    answers = Answers(made.place / ANSWERS, study.id)
    for number, reader in enumerate(("reader-1", "reader-2")):
        order = study.orders[reader]
        for i, name in enumerate(order[: len(order) - leave * number]):
            origin = key.images[name]
            answer = Answer(
                verdict="real" if origin.method == "real" else "synthetic",
                realism=GRADES[origin.method] - (i % 2),
                confidence=5,
                seconds=3.5,
                marks=[Mark(x=0.5, y=0.5, reason="blur")] if origin.method == "other" else [],
                words="=1+1" if i == 0 else "",
            )
            answers.save(reader, name, Sent(change=f"{1000 * number + i:032x}", answer=answer))
    rest = study.orders["reader-2"][-1]
    if leave:
        answers.save("reader-2", rest, Sent(change="f" * 32, answer=Answer(verdict="real")))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_everything_is_written_and_says_the_same(made: Made, capsys: pytest.CaptureFixture[str]):
    answer_all(made, leave=3)
    assert main(["study", "score", str(made.place)]) == 0
    told = capsys.readouterr().out
    folder = made.place / "scores"
    assert sorted(file.name for file in folder.iterdir()) == [
        "answers.csv", "scores.csv", "scores.json", "scores.svg", "table.tex", "table.txt",
    ]  # fmt: skip
    assert "reader-2 answered 17 of 20 images; 1 more were begun and count for nothing" in told
    assert "reader-3 answered 0 of 20 images" in told
    assert (folder / "table.txt").read_text() in told
    figures = {
        (row["measure"], row["reader"], row["method"], row["lesion"]): row
        for row in rows(folder / "scores.csv")
    }
    assert float(figures["accuracy", "all", "all", "all"]["value"]) == 1
    assert float(figures["called_real", "all", "ours", "all"]["value"]) == 0
    assert 4 <= float(figures["mos", "all", "real", "all"]["value"]) <= 5
    assert 1 <= float(figures["mos", "all", "other", "small"]["value"]) <= 2
    scores = json.loads((folder / "scores.json").read_text())
    mos = next(
        row["mos"]["value"] for row in scores["opinions"] if (row["method"], row["lesion"]) == ("real", "all")
    )
    assert mos == pytest.approx(float(figures["mos", "all", "real", "all"]["value"]))
    assert scores["reasons"]["other"]["blur"] > 0 and scores["reasons"]["real"]["blur"] == 0
    assert "real & all & 8 &" in (folder / "table.tex").read_text()


def test_every_answer_is_listed_and_no_reader_by_a_code(made: Made):
    answer_all(made)
    assert main(["study", "score", str(made.place), "--to", str(made.place.parent / "out")]) == 0
    listed = rows(made.place.parent / "out" / "answers.csv")
    assert len(listed) == 40
    assert [int(row["position"]) for row in listed if row["reader"] == "reader-1"] == list(range(1, 21))
    assert [row["is_repeat"] for row in listed].count("True") == 8
    assert listed[0]["words"] == "'=1+1"  # which a spreadsheet would reckon
    assert all(row["is_right"] == "True" for row in listed)
    for file in (made.place.parent / "out").iterdir():
        assert not any(code in file.read_text() for code in made.codes.values())


def test_the_plot_shows_every_method(made: Made):
    answer_all(made)
    main(["study", "score", str(made.place)])
    svg = (made.place / "scores" / "scores.svg").read_text()
    ElementTree.fromstring(svg)
    for text in ("real", "ours", "other", "all", "small", "medium", "large"):
        assert f">{text}</text>" in svg
    main(["study", "score", str(made.place)])
    assert (made.place / "scores" / "scores.svg").read_text() == svg


def test_what_cannot_be_scored_is_one_line(made: Made, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    def line(code: int) -> str:
        assert main(["study", "score", str(made.place)]) == code
        told = capsys.readouterr().err
        assert told.count("\n") == 1
        return told

    assert "has no answers yet" in line(2)
    study = read_study(made.place)
    answers = Answers(made.place / ANSWERS, study.id)
    assert "nobody has answered all questions" in line(2)
    name = study.orders["reader-1"][0]
    answers.save(
        "reader-1", name, Sent(change="0" * 32, answer=Answer(verdict="real", realism=3, confidence=3))
    )
    assert main(["study", "score", str(made.place)]) == 0  # one answer: figures without intervals
    capsys.readouterr()
    key = made.place / "private" / "key.json"
    content = key.read_text()
    key.write_text(content.replace(read_key(made.place).study, "0" * 32))
    assert "the key of another study" in line(1)
    key.write_text("{")
    assert "is damaged" in line(1)
    key.unlink()
    assert "nothing says which image is real" in line(2)
