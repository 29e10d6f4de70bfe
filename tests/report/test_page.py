"""The page: what it says of an experiment, of one that lacks stages, of one that is damaged."""

import re
import shutil
from pathlib import Path
from typing import get_args

import pytest

from siamdiff import storage
from siamdiff.__main__ import main
from siamdiff.errors import SiamdiffError, UserError
from siamdiff.report.page import write_report
from siamdiff.report.record import Setting, Stage, read_experiment
from tests.report.experiments import write_experiment, write_record

SECTIONS = (
    "segmentation",
    "folds",
    "pairs",
    "figures",
    "agreement",
    "copies",
    "masks",
    "training",
    "provenance",
)
EXTERNAL = re.compile(r"(?:src|href)\s*=\s*[\"'](?!data:|#)|url\((?!#)|@import|<script|<link|<iframe", re.I)


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_experiment(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def page(uri: str) -> str:
    return Path(write_report(uri)).read_text()


def test_a_page_has_every_part_of_an_experiment(page: str):
    assert [name for name in re.findall(r'<section id="([\w-]+)"', page) if name in SECTIONS] == list(
        SECTIONS
    )
    plain = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert "Trained on real pairs alone, unet-small reaches Dice (0.5)" in plain
    assert "Significantly better with synthetic pairs, image by image: real+2," in plain
    assert "Significantly worse: synthetic," in plain
    assert "The splits are not patient-separated" in plain
    assert "1 of 8 images (12.5%) are copies of training images" in plain
    assert plain.count("p to 10.0% of new real images would be") == 3  # summary, card, section
    assert "small 0% to 5% of the image" in plain  # the breakdown by size
    assert "real against real" in plain and "95% interval" in plain
    assert "cannot be told" not in plain and "two halves" not in plain
    assert "two disjoint random parts of the real images" in plain
    assert "For Precision, Recall, Density and Coverage, where higher is better, it is a ceiling" in plain
    assert "LPIPS" not in plain  # which is not among the figures
    assert "CC-BY-4.0" in plain and "cd" * 32 in plain  # licence, digest of the model
    assert "$0.07" in plain  # 120 s of a GPU at 2 dollars an hour
    assert "DEMO" not in plain


def test_a_page_needs_nothing_but_itself(page: str):
    assert EXTERNAL.findall(page) == []
    assert "default-src 'none'" in page
    assert " style=" not in page  # which the policy would not allow
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="#|url\(#|labelledby=")([^")]+)', page)) <= set(ids)


def test_the_same_experiment_gives_the_same_bytes_wherever_they_are_to_go(
    uri: str, page: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["report", uri, "--output", str(tmp_path / "a.html")]) == 0
    assert capsys.readouterr().out == f"report: {tmp_path / 'a.html'}\n"
    assert (tmp_path / "a.html").read_text() == page


def test_figures_of_pairs_have_another_floor(uri: str, tmp_path: Path):
    (setting,) = read_experiment(uri).settings
    shutil.copytree(setting.outputs["evaluate"], tmp_path / "e")
    metrics = storage.read_json(f"{tmp_path}/e/metrics.json")
    first = metrics["results"]["synthetic"]["figures"][0]
    pairs = [("lpips_vgg16", False), ("clip_i", True)]
    figures = [first | {"name": name, "higher_is_better": is_high} for name, is_high in pairs]
    metrics["results"]["synthetic"]["figures"] = figures
    storage.write_json(f"{tmp_path}/e/metrics.json", metrics)
    changed = setting.model_copy(update={"outputs": setting.outputs | {"evaluate": f"{tmp_path}/e"}})
    plain = Path(write_report(write_record(str(tmp_path / "r"), [changed]))).read_text()
    assert "LPIPS and CLIP-I compare an image with the real one that its mask was made from" in plain
    assert "pairs of different real images" in plain
    assert "it is a ceiling" not in plain and "two disjoint random parts" not in plain


def test_a_demo_says_so_loudly_and_a_missing_map_is_named(tmp_path: Path):
    page = Path(write_report(write_experiment(tmp_path, demo=True, tsne=False))).read_text()
    assert "<title>DEMO: " in page and "<strong>DEMO</strong>" in page
    assert "This evaluation was made without a t-SNE map" in page


def test_settings_are_compared(tmp_path: Path):
    page = Path(write_report(write_experiment(tmp_path, settings=2))).read_text()
    assert '<section id="settings"' in page
    assert page.count("table5-2") > 5


@pytest.mark.parametrize("left", [(), ("ingest", "train", "generate"), ("segment",), ("evaluate",)])
def test_what_was_not_run_is_said_in_its_section(uri: str, tmp_path: Path, left: tuple[str, ...]):
    root = uri.removesuffix("/experiments/0")
    places = {"ingest": "data", "train": "runs/a", "generate": "synthetic/a", "evaluate": "evaluation/0"}
    outputs = {stage: f"{root}/{(places | {'segment': 'segmentation/0'})[stage]}" for stage in left}
    record = write_record(
        str(tmp_path), [Setting(name="a", meaning="", fields={}, outputs=outputs, seconds={})]
    )
    page = Path(write_report(record)).read_text()
    assert ("Segmentation was not run" in page) == ("segment" not in left)
    assert ("The evaluation was not run" in page) == ("evaluate" not in left)
    assert ("Training was not run" in page) == ("train" not in left)


def test_what_is_gone_is_said_too(uri: str, tmp_path: Path):
    outputs = dict.fromkeys(get_args(Stage), f"{tmp_path}/gone")
    record = write_record(
        str(tmp_path), [Setting(name="a", meaning="", fields={}, outputs=outputs, seconds={})]
    )
    page = Path(write_report(record)).read_text()
    assert page.count("has left nothing where the experiment says it lies") >= 3


def test_sets_that_are_others_by_now_have_no_pictures(tmp_path: Path):
    uri = write_experiment(tmp_path)
    storage.delete_folder(f"{tmp_path}/synthetic/a")
    page = Path(write_report(uri)).read_text()
    assert "Its samples are gone, or others by now" in page


def test_masks_that_no_bar_holds_are_counted(page: str):
    assert re.search(r"Size: [^<]*\d of more than \d+\.\d% lie beyond the axis", page)


def test_names_are_written_as_text(tmp_path: Path):
    setting = Setting(name="<b>&", meaning='"<script>', fields={}, outputs={}, seconds={})
    page = Path(write_report(write_record(str(tmp_path), [setting]))).read_text()
    assert "<script>" not in page and "<b>" not in page


def test_texts_of_sets_and_models_are_written_as_text(tmp_path: Path):
    uri = write_experiment(tmp_path)
    attack = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    for name, fields in {
        "runs/a/model/siamdiff.json": {"license": attack, "permitted_use": attack},
        "data/dataset.json": {"license": attack, "made_from": {"data.prompt": attack}},
    }.items():
        storage.write_json(f"{tmp_path}/{name}", storage.read_json(f"{tmp_path}/{name}") | fields)
    page = Path(write_report(uri)).read_text()
    assert "<script" not in page and "<img src=x" not in page
    assert page.count("&lt;script&gt;alert(1)") >= 3


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["report", str(tmp_path / "none")]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "there is no finished experiment" in told


@pytest.mark.parametrize(
    ("stage", "file", "content", "told"),
    [
        ("evaluate", "metrics.json", b"{", "Invalid JSON"),
        ("evaluate", "metrics.json", b"{}", "inputs_digest: Field required"),
        ("evaluate", "metrics.json", b"[]", "should be an object"),
        ("evaluate", "copies.jsonl", b"{\n", "copies.jsonl is damaged"),
        ("evaluate", "tsne.jsonl", b"1\n", "a line is no object with set, x, y"),
        ("evaluate", "copies.jsonl", b'{"set": "a"}\n', "a line is no object with copy, key, set"),
        ("segment", "metrics.json", b'{"inputs_digest": 1}', "jobs/segment.py again"),
        ("train", "metrics.jsonl", b"]", "metrics.jsonl is damaged"),
        ("train", "config.yaml", b"a: [", "not valid YAML"),
    ],
)
def test_damage_is_one_line(
    uri: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    stage: Stage,
    file: str,
    content: bytes,
    told: str,
):
    (setting,) = read_experiment(uri).settings
    shutil.copytree(setting.outputs[stage], tmp_path / stage)
    (tmp_path / stage / file).write_bytes(content)
    damaged = setting.model_copy(update={"outputs": setting.outputs | {stage: str(tmp_path / stage)}})
    record = write_record(str(tmp_path), [damaged])
    assert main(["report", record, "--share"]) == 1
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and told in line and line.startswith("error: ")
    assert not storage.exists(f"{record}/report-share.html")


def test_errors_have_their_kinds(tmp_path: Path):
    with pytest.raises(UserError, match="ROOT/experiments/DIGEST"):
        write_report(str(tmp_path))
    write_record(str(tmp_path), [Setting(name="a", meaning="", fields={}, outputs={}, seconds={})])
    storage.write_bytes(f"{tmp_path}/experiment.json", b"no")
    with pytest.raises(SiamdiffError, match=r"jobs/experiment\.py again"):
        write_report(str(tmp_path))
