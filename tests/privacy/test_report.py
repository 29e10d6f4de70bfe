"""The report as a whole: planted copies are found, shown and removable; what leaves the building holds nothing real."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from siamdiff import storage
from siamdiff.__main__ import main
from siamdiff.data.sample import Synthetic
from siamdiff.data.shardset import ShardSet, verify
from siamdiff.errors import UserError
from siamdiff.privacy.examine import Settings
from siamdiff.privacy.inputs import find_inputs
from siamdiff.privacy.record import Report
from siamdiff.privacy.report import Written, write_report
from siamdiff.sampling.audit import audit_of
from tests.privacy.sets import compressed, drawn, noisy, phantoms, real_set, synthetic_set
from tests.s3 import S3Server
from tests.tiny_model import write_model

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
TRAINING, HELD_OUT, NEW = 24, 4, 4
SETTINGS = Settings(quantile=0.2, members=4)  # of 12 groups the least that gives a threshold
WAYS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as it is": lambda image: image,
    "mirrored": lambda image: image[:, ::-1],
    "upside down": lambda image: image[::-1],
    "turned": np.rot90,
    "re-encoded": lambda image: compressed(image, 30),
    "noisy": noisy,
    "turned and noisy": lambda image: noisy(np.rot90(image, 3)),
    "cropped": lambda image: np.kron(image, np.ones((2, 2, 1), np.uint8))[6:-6, 6:-6][::2, ::2],
}
EXTERNAL = re.compile(r"(?:src|href)\s*=\s*[\"'](?!data:|#)|url\((?!#)|@import|<script|<link|<iframe", re.I)
HOSTILE = "<script>alert(1)</script>"


def planted(images: np.ndarray) -> dict[str, np.ndarray]:
    """A disturbed training image for each of WAYS, as large as the others."""
    side = images.shape[1]
    found = {}
    for i, (way, disturb) in enumerate(WAYS.items()):
        image = np.ascontiguousarray(disturb(images[3 * i]))
        if image.shape[0] < side:
            image = np.pad(image, ((0, side - image.shape[0]), (0, side - image.shape[1]), (0, 0)), "edge")
        found[way] = image
    return found


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real set with its private files, a model, a synthetic set with planted copies."""
    folder = tmp_path_factory.mktemp("privacy")
    images = phantoms(TRAINING + HELD_OUT)
    real = real_set(f"{folder}/data", images, HELD_OUT)
    private = folder / "private" / "data"
    private.mkdir(parents=True)
    (private / "keys.jsonl").write_text(
        json.dumps({"key": "0" * 16, "image": "images/mueller_0042.png", "mask": None, "group": None}) + "\n"
    )
    write_model(f"{folder}/runs/a/model", folder / "base", real)
    digest = json.loads((folder / "runs/a/model/siamdiff.json").read_text())["model_digest"]
    shown = [*planted(images).values(), *phantoms(NEW, seed=5)]
    parents = real.keys("train")
    samples = [drawn(image, i, parents[i]) for i, image in enumerate(shown)]
    model = {"uri": f"{folder}/runs/a/model", "digest": digest, "data_digest": real.digest}
    synthetic_set(f"{folder}/synthetic/a", samples, real, made_from={"model": model})
    return folder


@pytest.fixture(scope="module")
def keys(root: Path) -> dict[str, str]:
    """Way of disturbing -> the key of the sample that is such a copy."""
    of, by_seed = ShardSet.open(f"{root}/synthetic/a"), {}
    for key in of.keys(None):
        origin = of.read_encoded(key).meta.synthetic
        assert isinstance(origin, Synthetic)
        by_seed[origin.seed] = key
    return {way: by_seed[i] for i, way in enumerate(WAYS)}


@pytest.fixture(scope="module")
def made(root: Path) -> Written:
    return write_report(f"{root}/synthetic/a", SETTINGS, NOW, share=True, without=f"{root}/synthetic/without")


def test_a_planted_copy_is_found_whatever_was_done_to_it(made: Written, keys: dict[str, str]):
    nearness = made.report.nearness
    assert {way: key in nearness.over_keys for way, key in keys.items()} == dict.fromkeys(WAYS, True)
    assert nearness.verdict == made.report.verdict == "fail"


def test_neither_new_images_nor_real_ones_of_other_groups_are_taken_for_copies(made: Written):
    nearness = made.report.nearness
    assert nearness.over and nearness.over.count == len(WAYS) and nearness.over.of == len(WAYS) + NEW
    held_out = nearness.held_out_over
    assert held_out and (held_out.count, held_out.of) == (0, HELD_OUT)
    assert held_out.high == pytest.approx(
        1 - 0.025 ** (1 / HELD_OUT)
    )  # none of four: it may be more than half


def test_the_training_image_is_named(made: Written, root: Path, keys: dict[str, str]):
    real = ShardSet.open(f"{root}/data")
    images = phantoms(TRAINING + HELD_OUT)
    named = {pair.key: pair.training for pair in made.report.nearness.nearest}
    for i, way in enumerate(WAYS):
        training = named[keys[way]]
        assert training and np.array_equal(real.read(training).image, images[3 * i]), way


def test_every_check_was_made(made: Written):
    verdicts = {title: check.verdict for title, check in made.report.checks.items()}
    assert "not done" not in verdicts.values()
    assert verdicts["Metadata"] == verdicts["Masks drawn on real images"] == "pass"
    assert [one.name for one in made.report.model_membership.attacks] == ["loss of the model"]
    assert made.report.membership.held_out_groups == HELD_OUT // 2
    assert all(one.true_positive_rate is None for one in made.report.membership.attacks)
    assert "too few to tell" in made.report.membership.said


def test_a_set_without_the_copies_is_whole_and_says_what_it_lacks(
    made: Written, root: Path, keys: dict[str, str]
):
    old, new = ShardSet.open(f"{root}/synthetic/a"), ShardSet.open(f"{root}/synthetic/without")
    assert verify(new.uri, audit_of) == [] == verify(old.uri, audit_of)
    assert set(old.keys()) - set(new.keys()) == set(keys.values()) and len(new) == NEW
    made_from = new.manifest.made_from
    assert made_from["filtered_from"] == {
        "uri": old.uri,
        "digest": old.digest,
        "made_from": old.manifest.made_from,
    }
    assert made_from["dropped"] == sorted(keys.values())
    for key in new.keys(None):
        assert new.read_encoded(key) == old.read_encoded(key)
    assert made.removed == len(WAYS)


def test_removing_samples_does_not_clear_a_doubtful_training_set(tmp_path: Path):
    images = phantoms(6, side=32)
    real = real_set(f"{tmp_path}/data", images, 2)
    wrong = real_set(f"{tmp_path}/wrong", phantoms(6, seed=9, side=32), 2)
    samples = [drawn(image, i) for i, image in enumerate([phantoms(6, 9, 32)[0], *phantoms(2, 3, 32)])]
    synthetic_set(f"{tmp_path}/s", samples, real)
    write_report(f"{tmp_path}/s", SETTINGS, NOW, training=wrong.uri, without=f"{tmp_path}/t")
    told = ShardSet.open(f"{tmp_path}/t").manifest.made_from
    assert told["training"]["digest"] == wrong.digest  # what it was compared with
    found = find_inputs(f"{tmp_path}/t")
    assert found.training and (found.training.uri, found.doubt) == (real.uri, "")
    assert "another digest" in find_inputs(f"{tmp_path}/t", training=wrong.uri).doubt
    again = [drawn(images[0], 7), samples[2]]
    filtered = {
        "filtered_from": {"uri": "x", "digest": "e" * 64, "made_from": told},
        "training": told["training"],
    }
    twice = synthetic_set(f"{tmp_path}/u", again, made_from=filtered)
    assert "another digest" in find_inputs(twice.uri, training=wrong.uri).doubt


def test_a_training_set_that_nobody_named_stays_in_doubt_after_samples_were_removed(tmp_path: Path):
    images = phantoms(6, side=32)
    real = real_set(f"{tmp_path}/data", images, 2)
    samples = [drawn(image, i) for i, image in enumerate([images[0], *phantoms(2, 3, 32)])]
    synthetic_set(f"{tmp_path}/s", samples)
    write_report(f"{tmp_path}/s", SETTINGS, NOW, training=real.uri, without=f"{tmp_path}/t")
    assert "names a training set" in find_inputs(f"{tmp_path}/t").no_training
    assert "Neither the set nor its model" in find_inputs(f"{tmp_path}/t", training=real.uri).doubt


@pytest.mark.soak
def test_the_new_set_passes_and_its_own_report_finds_all_that_it_needs(made: Written, root: Path):
    again = write_report(f"{root}/synthetic/without", SETTINGS, NOW)
    assert again.report.nearness.verdict == "pass" and again.report.model_membership.attacks
    assert "8 samples were removed" in again.report.origin


def test_the_same_inputs_give_the_same_bytes_but_for_the_date(tmp_path: Path):
    images = phantoms(6, side=32)
    samples = [drawn(image, i) for i, image in enumerate([images[0], phantoms(1, 3, 32)[0]])]
    synthetic_set(f"{tmp_path}/s", samples, real_set(f"{tmp_path}/data", images, 2))
    first, second = (
        write_report(
            f"{tmp_path}/s",
            SETTINGS,
            datetime(year, 1, 1, tzinfo=UTC),
            output=f"{tmp_path}/{year}",
            without=f"{tmp_path}/w{year}",
        )
        for year in (2026, 2027)
    )
    pages = [Path(of.folder, "privacy.html").read_text() for of in (first, second)]
    digests = [
        hashlib.sha256(Path(of.folder, "privacy.json").read_bytes()).hexdigest() for of in (first, second)
    ]
    assert pages[0].replace("2026-", "2027-").replace(digests[0], digests[1]) == pages[1]
    assert second.report.model_copy(update={"date": first.report.date}) == first.report
    assert ShardSet.open(f"{tmp_path}/w2026").digest == ShardSet.open(f"{tmp_path}/w2027").digest


def test_page_and_data_name_each_other(made: Written):
    data = Path(made.folder, "privacy.json").read_bytes()
    page = Path(made.folder, "privacy.html").read_text()
    assert Report.model_validate_json(data) == made.report
    assert hashlib.sha256(data).hexdigest() in page and made.report.synthetic.digest in page
    assert Path(made.folder).name == made.report.synthetic.digest[:16]


def test_the_page_shows_the_pairs_and_needs_nothing_but_itself(made: Written, keys: dict[str, str]):
    page = Path(made.folder, "privacy.html").read_text()
    assert EXTERNAL.findall(page) == [] and "default-src 'none'" in page and " style=" not in page
    assert page.count("<img ") == 2 * len(WAYS)
    assert all(f"Synthetic image {key}, over the threshold" in page for key in keys.values())
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="#|url\(#|labelledby=")([^")]+)', page)) <= set(ids)
    assert f"{len(WAYS)} pictures of real training images" in page  # what it says of itself


def test_the_shared_edition_holds_nothing_real(made: Written, root: Path):
    real = ShardSet.open(f"{root}/data")
    for name in ("privacy-share.html", "privacy-share.json"):
        text = Path(made.folder, name).read_text()
        assert not [key for key in real.keys(None) if key in text]
        assert str(root) not in text and "<img" not in text and "mueller" not in text
    data = Path(made.folder, "privacy-share.json").read_bytes()
    assert Report.model_validate_json(data).edition == "shared"
    assert hashlib.sha256(data).hexdigest() in Path(made.folder, "privacy-share.html").read_text()


def test_texts_of_a_set_are_escaped(tmp_path: Path):
    images = phantoms(8, seed=3, side=32)
    origin = {"origin": {"method": HOSTILE, "has_mask": True}}
    synthetic_set(f"{tmp_path}/s", [drawn(image, i) for i, image in enumerate(images)], made_from=origin)
    written = write_report(f"{tmp_path}/s", SETTINGS, NOW)
    page = Path(written.folder, "privacy.html").read_text()
    assert HOSTILE not in page and "&lt;script&gt;" in page


def test_without_a_training_set_the_checks_that_need_it_say_so(tmp_path: Path):
    samples = [drawn(image, i) for i, image in enumerate(phantoms(4, seed=3, side=32))]
    synthetic_set(f"{tmp_path}/s", samples)
    report = write_report(f"{tmp_path}/s", SETTINGS, NOW).report
    undone = [title for title, check in report.checks.items() if check.verdict == "not done"]
    assert len(undone) == 5 and report.verdict == "not done"
    assert "name it with --training" in report.nearness.said
    with pytest.raises(UserError, match="was compared with training images"):
        write_report(f"{tmp_path}/s", SETTINGS, NOW, without=f"{tmp_path}/w")
    assert not Path(tmp_path, "w").exists()


def test_held_out_images_are_asked_for_where_there_are_none(tmp_path: Path):
    real = real_set(f"{tmp_path}/data", phantoms(4, side=32), 0)
    samples = [drawn(image, i) for i, image in enumerate(phantoms(2, seed=3, side=32))]
    synthetic_set(f"{tmp_path}/s", samples, real)
    report = write_report(f"{tmp_path}/s", SETTINGS, NOW).report
    assert report.membership.verdict == "not done" and "no held-out images" in report.membership.said
    assert report.nearness.held_out_over is None
    assert report.nearness.verdict == "look" and "too few for the threshold" in report.nearness.said


def test_another_training_set_than_the_named_one_is_told(tmp_path: Path):
    real = real_set(f"{tmp_path}/data", phantoms(4, side=32), 2)
    other = real_set(f"{tmp_path}/other", phantoms(4, seed=9, side=32), 2)
    of = synthetic_set(f"{tmp_path}/s", [drawn(phantoms(1, seed=3, side=32)[0], 0)], real)
    assert find_inputs(of.uri).doubt == ""
    assert "another digest" in find_inputs(of.uri, training=other.uri).doubt
    moved = synthetic_set(f"{tmp_path}/t", [drawn(phantoms(1, seed=3, side=32)[0], 0)])
    assert "Neither the set nor its model" in find_inputs(moved.uri, training=real.uri).doubt


def test_a_training_set_that_was_replaced_is_not_compared_with(tmp_path: Path):
    real = real_set(f"{tmp_path}/data", phantoms(4, side=32), 2)
    of = synthetic_set(f"{tmp_path}/s", [drawn(phantoms(1, seed=3, side=32)[0], 0)], real)
    shutil.rmtree(f"{tmp_path}/data")
    assert "cannot be read" in find_inputs(of.uri).no_training
    real_set(f"{tmp_path}/data", phantoms(4, seed=9, side=32), 2)
    found = find_inputs(of.uri)
    assert found.training is None and "another set lies where" in found.no_training


def test_a_set_in_a_store_is_reported_on_and_filtered_there(s3: S3Server):
    root = s3.new_root()
    images = phantoms(6, side=32)
    real = real_set(f"{root}/data", images, 2)
    samples = [drawn(image, i) for i, image in enumerate([images[0], *phantoms(2, 3, 32)])]
    synthetic_set(f"{root}/s", samples, real)
    written = write_report(f"{root}/s", SETTINGS, NOW, without=f"{root}/w")
    assert written.report.nearness.over_keys == [samples[0].meta.key]
    assert storage.exists(f"{root}/privacy/{written.report.synthetic.digest[:16]}/privacy.json")
    assert verify(f"{root}/w", audit_of) == [] and len(ShardSet.open(f"{root}/w")) == 2


def test_copied_pairs_are_all_found_and_nothing_is_left(tmp_path: Path):
    images = phantoms(12, side=32)
    real = real_set(f"{tmp_path}/data", images, 2)
    samples = [drawn(image, i) for i, image in enumerate(images[:4])]
    synthetic_set(f"{tmp_path}/s", samples, made_from={"masks": {"uri": real.uri, "digest": real.digest}})
    with pytest.raises(UserError, match="nothing would be left"):
        write_report(f"{tmp_path}/s", SETTINGS, NOW, without=f"{tmp_path}/w")


def test_the_command_ends_as_verify_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    image = phantoms(2, seed=3, side=32)
    synthetic_set(f"{tmp_path}/a", [drawn(image[0], 0)])
    synthetic_set(f"{tmp_path}/b", [drawn(image[1], 1, prompt="for j.mueller@clinic.example")])
    assert main(["privacy", f"{tmp_path}/a"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("not done  Copies of training images: ") and "error" not in err
    assert main(["privacy", f"{tmp_path}/a", f"{tmp_path}/b"]) == 1
    out, err = capsys.readouterr()
    assert out.count("privacy.html") == 2 and "Metadata: Found: e-mail address (1)" in out
    assert err.splitlines()[-1] == "error: 1 checks fail, listed above; the report says what to do about each"
    assert "mueller" not in out + err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["{root}/data"], "is a real set"),
        (["{root}/nothing"], "not a complete set"),
        (["{root}/synthetic/a", "--quantile", "0.9"], "must be above 0 and at most 0.5"),
        (["{root}/synthetic/a", "--members", "-1"], "must be 0 or more"),
        (["{root}/synthetic/a", "--training", "{root}/synthetic/a"], "is a synthetic set"),
        (["{root}/synthetic/a", "--model", "{root}/data"], "no model at"),
        (["{root}/synthetic/a", "--output", "{root}/synthetic/a/privacy"], "lies in the set"),
        (["{root}/synthetic/a", "{root}/synthetic/b", "--output", "x"], "are for one set"),
    ],
)
def test_mistakes_are_told_in_one_line(
    root: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["privacy", *(option.format(root=root) for option in options)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and said in line


def test_a_target_that_is_there_is_left_alone(root: Path, tmp_path: Path):
    target = tmp_path / "there"
    target.mkdir()
    (target / "mine").write_text("x")
    with pytest.raises(UserError, match="name another with --without"):
        write_report(
            f"{root}/synthetic/a",
            SETTINGS,
            NOW,
            without=str(target),
        )
    assert [file.name for file in target.iterdir()] == ["mine"]
