"""Files of one JSON object a line, as editors and programs of other systems write them."""

import json
from pathlib import Path

import pytest

from siamdiff.data.pairing import Source, scan
from siamdiff.errors import UserError
from siamdiff.sections import Data
from tests.data.raw_folders import make_folder

PROMPT = "a polyp\u2028of two\x85lines"  # characters that str.splitlines breaks at, and JSON does not


def read(source: Path) -> Source:
    return scan(Data(source=str(source)))


def write(file: Path, rows: list[dict[str, str]], mark: str = "", end: str = "\n") -> Path:
    text = mark + "".join(json.dumps(row, ensure_ascii=False) + end for row in rows)
    file.write_bytes(text.encode())
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path, ["a", "b"])


ROWS = [
    {"source": f"masks/{name}.png", "target": f"images/{name}.png", "prompt": PROMPT} for name in ("a", "b")
]


@pytest.mark.parametrize(("mark", "end"), [("", "\n"), ("", "\r\n"), ("\ufeff", "\n\n")])
def test_lines_end_where_json_lines_do(folder: Path, mark: str, end: str) -> None:
    source = read(write(folder / "prompt.json", ROWS, mark, end))
    assert source.rejected == []
    assert [(pair.image, pair.prompt) for pair in source.pairs] == [
        ("images/a.png", PROMPT),
        ("images/b.png", PROMPT),
    ]


def test_huggingfaces_lines_end_there_too(folder: Path) -> None:
    (folder / "images").rename(folder / "train")
    rows = [{"file_name": "train/a.png", "mask_file_name": "masks/a.png", "text": PROMPT}]
    write(folder / "metadata.jsonl", rows, "\ufeff")
    source = read(folder)
    assert source.layout == "huggingface" and [pair.prompt for pair in source.pairs] == [PROMPT]


def test_a_line_too_deep_to_read_is_a_line_that_is_not_json(folder: Path) -> None:
    file = write(folder / "prompt.json", ROWS)
    file.write_text(file.read_text() + "[" * 100_000)
    source = read(file)
    assert len(source.pairs) == 2 and [bad.reason for bad in source.rejected] == ["line is not JSON"]
    (folder / "images").rename(folder / "train")
    (folder / "metadata.jsonl").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"metadata\.jsonl cannot be read"):
        read(folder)
