"""A study's folder: balanced, whole or not there, and without a trace of where an image comes from."""

import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamdiff.__main__ import main
from siamdiff.data.shardset import ShardSet
from siamdiff.study import making
from siamdiff.study.codes import reader_of
from siamdiff.study.folder import find, read_key, read_readers, read_study
from siamdiff.study.making import Made, Plan, make_study
from tests.study.sets import SHARES, real_set, small_study, synthetic_set


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("making")


@pytest.fixture(scope="module")
def made(root: Path) -> Made:
    return small_study(root)


def test_it_is_balanced_and_says_where_everything_comes_from(made: Made, root: Path):
    study, key = read_study(made.place), read_key(made.place)
    pictures = {origin.picture: origin for origin in key.images.values()}
    assert Counter(origin.method for origin in pictures.values()) == {"real": 8, "ours": 4, "other": 4}
    by_origin = Counter((origin.method == "real", origin.lesion) for origin in pictures.values())
    assert all(by_origin[True, lesion] == by_origin[False, lesion] for lesion in SHARES)
    assert len(key.images) == 20 and len(pictures) == 16
    assert all(sorted(order) == sorted(key.images) for order in study.orders.values())
    assert study.orders["reader-1"] != study.orders["reader-2"]
    assert key.related == made.related == 0
    name, origin = next((name, origin) for name, origin in key.images.items() if origin.method == "real")
    shown = np.array(Image.open(made.place / "images" / f"{name}.png")).astype(int)
    source = ShardSet.open(str(root / "real")).read(origin.source).image.astype(int)
    assert np.abs(shown - source).max() < 40 and np.abs(shown - source).mean() < 2


def test_nothing_but_pixels_differs_between_files(made: Made):
    files = sorted((made.place / "images").iterdir())
    assert len(files) == 20
    heads = set()
    for file in files:
        data = file.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            heads.add((image.format, image.mode, image.size, tuple(image.info), len(data)))
        chunks, place = [], 8  # kinds and lengths of all parts of the PNG
        while place < len(data):
            length = int.from_bytes(data[place : place + 4], "big")
            chunks.append((data[place + 4 : place + 8], length))
            place += 12 + length
        heads.add(tuple(chunks))
        stat = file.stat()
        heads.add((stat.st_size, stat.st_mtime, stat.st_mode))
    assert len(heads) == 3
    assert read_study(made.place).image_bytes == files[0].stat().st_size


def test_all_images_have_passed_the_same_jpeg_once_more(made: Made):
    """What was never a JPEG is one now: coding it again changes as little as with those that always were."""
    key = read_key(made.place)
    changes: dict[bool, list[float]] = {True: [], False: []}
    for name, origin in key.images.items():
        shown = np.array(Image.open(made.place / "images" / f"{name}.png"))
        again = making._alike(shown)
        changes[origin.method == "real"].append(float(np.abs(again.astype(int) - shown).mean()))
    assert max(np.mean(changes[True]), np.mean(changes[False])) < 0.35
    assert abs(np.mean(changes[True]) - np.mean(changes[False])) < 0.15


def test_what_is_served_tells_no_origin_and_no_code(made: Made):
    key = read_key(made.place)
    for file in made.place.rglob("*"):
        if file.is_file() and file.parent.name != "private":
            text = file.read_bytes()
            assert not any(code.encode() in text for code in made.codes.values())
            assert b"ours" not in text and not any(o.source.encode() in text for o in key.images.values())
    for name in ("key.json", "readers.json"):
        assert (made.place / "private" / name).stat().st_mode & 0o77 == 0
        assert not any(code in (made.place / "private" / name).read_text() for code in made.codes.values())


def test_codes_are_known_however_they_are_typed(made: Made):
    readers = read_readers(made.place)
    for reader, code in made.codes.items():
        assert reader_of(code, readers) == reader_of(f" {code.lower().replace('-', '')} ", readers) == reader
    assert reader_of("", readers) is None and reader_of("AAAA-AAAA-AAAA", readers) is None


def test_the_same_seed_draws_the_same_under_other_names_in_another_order(
    root: Path, made: Made, tmp_path: Path
):
    sets = {name: str(root / name) for name in ("ours", "other")}
    drawn, sequences = [], []
    for seed in (7, 7, 8):
        place = make_study(
            str(root / "real"), sets, str(tmp_path / str(len(drawn))), Plan(16, 4, 2, seed)
        ).place
        drawn.append(read_key(place))
        sequences += [
            [drawn[-1].images[name].method == "real" for name in order]
            for order in read_study(place).orders.values()
        ]
    sources = [{origin.source for origin in key.images.values()} for key in (read_key(made.place), *drawn)]
    assert sources[0] == sources[1] == sources[2] != sources[3]
    assert not set(drawn[0].images) & set(drawn[1].images)
    # who knows the seed does not know what comes when
    assert len(set(map(tuple, sequences))) == 6


def test_a_synthetic_image_is_not_shown_beside_the_real_one_of_its_mask(tmp_path: Path):
    real = real_set(str(tmp_path / "real"), 6)
    ours = synthetic_set(str(tmp_path / "ours"), 1, 6, parents=real)
    made = make_study(real.uri, {"ours": ours.uri}, str(tmp_path / "study"), Plan(12, 0, 1, 0, "test"))
    key = read_key(made.place)
    shown = {origin.source for origin in key.images.values() if origin.method == "real"}
    parents = {ours.row(origin.source).parent for origin in key.images.values() if origin.method == "ours"}
    assert made.related == 0 and len(shown) == len(parents) == 6 and not shown & parents


def test_images_without_a_lesion_are_left_out(tmp_path: Path):
    real = real_set(str(tmp_path / "real"), 2, extra=["none"] * 3)
    ours = synthetic_set(str(tmp_path / "ours"), 1, 2, has_mask=False)
    made = make_study(real.uri, {"ours": ours.uri}, str(tmp_path / "study"), Plan(12, 0, 1, 0))
    assert made.counts == {"real": {"small": 2, "medium": 2, "large": 2}, "ours": {"unknown": 6}}


def test_a_study_is_whole_or_not_there(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        making, "_write_records", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left"))
    )
    with pytest.raises(making.UserError, match="No space left"):
        make_study(str(root / "real"), {"ours": str(root / "ours")}, str(tmp_path / "s"), Plan(12, 0, 1, 0))
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_the_codes_once(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    target = str(tmp_path / "study")
    given = ["--real", str(root / "real"), "--synthetic", f"ours={root / 'ours'}", "--to", target]
    assert main(["study", "make", *given, "--images", "12", "--repeats", "2", "--readers", "3"]) == 0
    told = capsys.readouterr().out
    codes = [line.split()[1] for line in told.splitlines() if line.startswith("  reader-")]
    readers = read_readers(find(target))
    assert [reader_of(code, readers) for code in codes] == ["reader-1", "reader-2", "reader-3"]
    assert "real: 2 small, 2 medium, 2 large" in told
    assert json.loads((tmp_path / "study" / "private" / "key.json").read_text())["sets"].keys() == {
        "real",
        "ours",
    }


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"--images": "13"}, "give a multiple of 2, such as 12"),
        ({"--images": "100"}, "give at most --images 36"),
        ({"--repeats": "7"}, "--repeats 7 is not in 0 to 6"),
        ({"--readers": "0"}, "--readers 0 is not in 1 to 100"),
        ({"--seed": "-1"}, "no seed below 0"),
        ({"--split": "tset"}, "has test, train"),
        ({"--synthetic": "real=OURS"}, "give it another"),
        ({"--synthetic": "ours=REAL"}, "holds real images and was given as synthetic"),
        ({"--synthetic": "ours=SMALL"}, "is of 32 pixels a side"),
        ({"--synthetic": "ours="}, "has no URI"),
        ({"--real": "NONE"}, "is not a complete set"),
        ({"--to": "REAL"}, "is there already"),
        ({"--to": "s3://bucket/study"}, "in an object store"),
    ],
)
def test_a_mistake_is_one_line(
    root: Path,
    made: Made,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, str],
    told: str,
):
    if not (root / "small").exists():
        synthetic_set(str(root / "small"), 3, 1, side=32)
    options = {"--real": "REAL", "--synthetic": "ours=OURS", "--to": str(tmp_path / "s"), "--images": "12"}
    options |= {"--readers": "1"} | change
    places = {"REAL": root / "real", "OURS": root / "ours", "SMALL": root / "small", "NONE": root / "none"}
    argv = []
    for name, value in options.items():
        for word, place in places.items():
            value = value.replace(word, str(place))
        argv += [name, value]
    assert main(["study", "make", *argv]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and line.startswith("error: ") and told in line
    assert not (tmp_path / "s").exists()
