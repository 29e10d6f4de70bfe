"""Traces go through privacy reports, sets from which samples were removed, and reader studies."""

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from siamdiff import storage
from siamdiff.data.shardset import ShardSet
from siamdiff.export.folder import export_folder
from siamdiff.lineage.answer import trace
from siamdiff.lineage.findings import Relation
from siamdiff.lineage.objects import divide
from siamdiff.privacy.examine import Settings
from siamdiff.privacy.report import write_report
from siamdiff.segmentation.arms import check_origin, check_synthetic
from siamdiff.study.answers import Answer, Answers, Sent
from siamdiff.study.folder import ANSWERS, KEY, REAL, Secret, read_key, read_study
from siamdiff.study.making import Plan, make_study
from siamdiff.study.scoring import score
from siamdiff.terms import sources_of
from tests.lineage.roots import child_of, found, places, write_synthetic

NEVER = "0123456789abcdef"
CHECKED = "synthetic/checked"


@dataclass(frozen=True)
class Judged:
    """A root with what people judge by, which lost the set that samples were removed from."""

    root: str
    report: str  # folder of the report, in the root
    leaked: str  # key that was given away
    kept: list[str]  # parents of the samples that were not removed

    @property
    def real(self) -> ShardSet:
        return ShardSet.open(f"{self.root}/data")

    @property
    def secret(self) -> Secret:
        return read_key(Path(self.root, "study"))

    def copy(self, to: Path) -> "Judged":
        shutil.copytree(self.root, to)
        return Judged(str(to), self.report, self.leaked, self.kept)


@pytest.fixture(scope="module")
def judged(made: str, tmp_path_factory: pytest.TempPathFactory) -> Judged:
    """A root that no test changes: one of four samples is a copy; the others are read by one reader."""
    root = str(shutil.copytree(made, tmp_path_factory.mktemp("judged") / "r"))
    real, model = ShardSet.open(f"{root}/data"), storage.read_json(f"{root}/runs/r/model/siamdiff.json")
    leaked, *kept = real.keys("train")[:4]
    of_model = {"digest": model["model_digest"], "data_digest": real.digest}
    leaking = write_synthetic(f"{root}/synthetic/b", real, [leaked, *kept], of_model, leaked)
    settings, now = Settings(quantile=0.3, members=0), datetime(2026, 11, 29, tzinfo=UTC)
    written = write_report(
        leaking.uri, settings, now, training=real.uri, share=True, without=f"{root}/{CHECKED}"
    )
    assert written.report.nearness.over_keys == [child_of(leaked)]
    shutil.rmtree(f"{root}/synthetic/b")
    study = make_study(real.uri, {"ours": f"{root}/{CHECKED}"}, f"{root}/study", Plan(2, 0, 1, 0)).place
    answers, orders = Answers(study / ANSWERS, read_study(study).id), read_study(study).orders
    for i, name in enumerate(orders["reader-1"]):
        answer = Answer(verdict=REAL, realism=4, confidence=3, seconds=1.0, marks=[], words="")
        answers.save("reader-1", name, Sent(change=f"{i:032x}", answer=answer))
    score(str(study))
    return Judged(root, written.folder.removeprefix(f"{root}/"), leaked, kept)


def test_no_object_is_unknown_and_an_image_that_was_never_used_is_in_none(judged: Judged) -> None:
    assert divide(storage.list_files(judged.root)).unknown == []
    answer = trace([NEVER], [judged.root])
    assert found(answer) == {} and answer.problems == [] and answer.exit_code == 0


def test_the_internal_report_shows_the_nearest_image_and_both_are_computed_from_all(judged: Judged) -> None:
    answer = trace([judged.leaked], [judged.root])
    internal = {f"{judged.report}/privacy.{kind}" for kind in ("html", "json")}
    shared = {f"{judged.report}/privacy-share.{kind}" for kind in ("html", "json")}
    assert internal | shared <= places(answer, "COMPUTED")
    assert f"{judged.report}/privacy.html" in places(answer, "SHOWS")
    assert f"{judged.report}/privacy.json" in places(answer, "NAMES")
    assert not shared & (places(answer, "SHOWS") | places(answer, "NAMES"))
    held_out = trace(judged.real.keys("val")[:1], [judged.root])
    assert internal | shared <= places(held_out, "COMPUTED")


def test_a_report_that_did_not_end_or_whose_sets_are_elsewhere_is_open(
    judged: Judged, tmp_path: Path
) -> None:
    alone = tmp_path / "alone"
    shutil.copytree(Path(judged.root, judged.report), alone)
    assert places(trace([NEVER], [str(alone)]), "MAY") == {
        "privacy.html", "privacy.json", "privacy-share.html", "privacy-share.json",
    }  # fmt: skip
    (alone / "privacy.json").unlink()
    (alone / "privacy-share.json").unlink()
    answer = trace([NEVER], [str(alone), judged.root])
    assert places(answer, "MAY") == {"privacy.html", "privacy-share.html"} and answer.exit_code == 1


def test_what_was_left_of_a_set_is_found_without_that_set(judged: Judged) -> None:
    made_from = ShardSet.open(f"{judged.root}/{CHECKED}").manifest.made_from
    assert sources_of(made_from)["masks"].license == "CC-BY-NC-4.0"
    answer = trace([judged.leaked, judged.kept[0]], [judged.root])
    for key in (judged.leaked, judged.kept[0]):
        of_set = {name for name in found(answer, key)["MADE"] if f"{CHECKED}/shards" in name}
        assert len(of_set) == 1, key  # by its model
        assert f"limits of copies {CHECKED}/dataset.json" in found(answer, key)["COMPUTED"]
    assert f"shards {CHECKED}/shards" in found(answer, judged.kept[0])["COMPUTED"]  # for its mask
    assert f"shards {CHECKED}/shards" not in found(answer, judged.leaked)["COMPUTED"]  # that one was removed


def test_twice_filtered_and_not_complete_sets_are_found_too(judged: Judged, tmp_path: Path) -> None:
    root = judged.copy(tmp_path / "r").root
    manifest = storage.read_json(f"{root}/{CHECKED}/dataset.json")
    old = manifest["made_from"]
    again = old | {"filtered_from": {"uri": "x", "digest": "e" * 64, "made_from": old}}
    storage.write_json(f"{root}/{CHECKED}/dataset.json", manifest | {"made_from": again})
    assert f"{CHECKED}/shards" in places(trace([judged.leaked], [root]), "MADE")
    Path(root, CHECKED, "dataset.json").unlink()
    answer = trace([judged.kept[0]], [root])
    assert f"{CHECKED}/shards" in places(answer, "COMPUTED")
    assert f"{root}/{CHECKED}" in dict(answer.problems) and answer.exit_code == 1


def test_a_study_holds_real_images_and_shows_made_ones(judged: Judged) -> None:
    sources = {origin.method: (name, origin.source) for name, origin in judged.secret.images.items()}
    name, key = sources[REAL]
    answer = trace([key], [judged.root])
    assert f"images of a study study/images/{name}.png" in found(answer)["HOLDS"]
    assert f"key to a study study/{KEY}" in found(answer)["NAMES"]
    measured = {f"study/{ANSWERS}", "study/scores/scores.json", "study/scores/answers.csv"}
    assert measured <= places(answer, "COMPUTED")
    name, shown = sources["ours"]
    (parent,) = (key for key in judged.kept if child_of(key) == shown)
    assert f"study/images/{name}.png" in places(trace([parent], [judged.root]), "COMPUTED")
    others = trace([judged.leaked], [judged.root])
    assert {f"study/images/{name}.png", *measured} <= places(others, "MADE")
    assert not any(of.startswith("study") for of in places(others, "HOLDS"))


def test_without_its_key_a_study_is_open_but_for_what_its_scores_tell(judged: Judged, tmp_path: Path) -> None:
    key = next(of.source for of in judged.secret.images.values() if of.method == REAL)
    root = judged.copy(tmp_path / "r").root
    Path(root, "study", KEY).unlink()
    answer = trace([key, NEVER], [root])
    assert answer.exit_code == 1
    open_ends = {name.rpartition(" ")[2] for name in found(answer, NEVER)["MAY"]}
    journals = {f"study/{ANSWERS}-wal", f"study/{ANSWERS}-shm"}  # which a reading leaves
    assert open_ends - journals == {"study/images", f"study/{ANSWERS}"}
    assert (
        "answers by image study/scores/answers.csv" in found(answer, key)["COMPUTED"]
    )  # it names the source


def test_a_filtered_set_is_exported_segmented_and_reported_on_like_any_other(
    judged: Judged, tmp_path: Path
) -> None:
    checked = ShardSet.open(f"{judged.root}/{CHECKED}")
    check_synthetic(checked)
    assert check_origin("checked", checked, judged.real, {}) == []
    export_folder([checked.uri], str(tmp_path / "out"))
    assert judged.root not in (tmp_path / "out" / "export.json").read_text()
    assert (
        trace([judged.leaked], [judged.root, str(tmp_path)])
        .trails[0]
        .has(Relation.MADE, str(tmp_path / "out"))
    )
