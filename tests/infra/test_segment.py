"""Segmentation as a job: what it writes, that it is made once, what it refuses."""

import csv
import io
import logging

import numpy as np
import pytest
import safetensors.torch

from infra.segment import segment
from siamdiff import storage
from siamdiff.config import Config
from siamdiff.data.shardset import ShardSet
from siamdiff.errors import SiamdiffError, UserError
from siamdiff.segmentation.metrics import DEFINITIONS
from siamdiff.segmentation.networks import build_network
from siamdiff.segmentation.pairs import score
from tests import jobs
from tests.segmentation.sets import SIDE, real_set, synthetic_set

ARMS = ["real", "real+1"]


def configure(root, **settings) -> Config:
    """Two arms, two seeds, two steps each."""
    chosen = {"arms": ARMS, "seeds": [0, 1], "steps": 2, "batch_size": 4, "validations": 1} | settings
    return Config.model_validate({"root": root, "data": {"source": "polyps"}, "segment": chosen}).resolve()


def write_sets(root: str) -> tuple[ShardSet, ShardSet]:
    """A real set and a synthetic one that generation left as the latest."""
    real = real_set(storage.join(root, "data"))
    synthetic = synthetic_set(storage.join(root, "synthetic", "plan"), real)
    storage.write_json(storage.join(root, "synthetic", "latest.json"), {"uri": synthetic.uri})
    return real, synthetic


def output_of(root: str) -> str:
    """The only segmentation under a root."""
    folder = storage.join(root, "segmentation")
    (name,) = {file.partition("/")[0] for file in storage.list_files(folder) if "/" in file} - {"trainings"}
    return storage.join(folder, name)


def finals(root: str) -> dict[str, bytes]:
    """Everything that a segmentation is a function of, but for times."""
    folder = storage.join(root, "segmentation")
    weights = {name for name in storage.list_files(folder) if name.endswith(".safetensors")}
    found = {name: storage.read_bytes(storage.join(folder, name)) for name in weights}
    return found | {"table": storage.read_bytes(storage.join(output_of(root), "table.csv"))}


@pytest.mark.soak
@pytest.mark.cluster
def test_a_segmentation_is_complete_made_once_and_grows_by_what_is_new(ray, s3, caplog):
    root = s3.new_root()
    real, synthetic = write_sets(root)
    caplog.set_level(logging.INFO)
    segment(configure(root), demo=False)
    assert "unet-small, test: 4 images, 2 seeds" in caplog.text and "not patient-separated" in caplog.text

    output = output_of(root)
    names = [f"unet-small--{arm}--seed{seed}.json" for arm in ARMS for seed in (0, 1)]
    assert set(storage.list_files(output)) == {
        "metrics.json", "table.csv", "table.tex", "inputs.json", "config.yaml", "status.json",
        *(f"results/{name}" for name in names),
    }  # fmt: skip
    metrics = storage.read_json(storage.join(output, "metrics.json"))
    assert (metrics["baseline"], metrics["patient_separated"], metrics["demo"]) == ("real", False, False)
    assert metrics["sets"]["synthetic"]["synthetic"]["digest"] == synthetic.digest
    assert (
        metrics["sets"]["real"]["license"] == "CC-BY-4.0" and metrics["sets"]["tests"]["test"]["scored"] == 4
    )
    assert [(row["arm"], row["training_pairs"]) for row in metrics["results"]] == [
        ("real", 8),
        ("real+1", 16),
    ]
    assert [(of["arm"], of["seed"], of["steps"]) for of in metrics["trainings"]] == [
        (arm, seed, 2) for arm in ARMS for seed in (0, 1)
    ]
    table = list(csv.DictReader(io.StringIO(storage.read_bytes(storage.join(output, "table.csv")).decode())))
    assert [row["arm"] for row in table] == ARMS

    # the weights that lie there give the scores that are told
    training = metrics["trainings"][0]
    network = build_network("unet-small")
    network.load_state_dict(safetensors.torch.load(storage.read_bytes(training["weights"])))
    scores, _ = score(network.eval(), real, real.keys("test"), SIDE, "cpu")
    result = storage.read_json(storage.join(output, "results", names[0]))
    assert {name: result["scores"]["test"][name] for name in DEFINITIONS} == {
        name: pytest.approx(values) for name, values in scores.items()
    }
    told = metrics["results"][0]["scores"]["dice_at_0.5"]
    assert told["per_seed"][0] == pytest.approx(np.mean(scores["dice_at_0.5"]))

    caplog.clear()
    segment(configure(root), demo=False)
    assert "segmentation already" in caplog.text and "unet-small, test" in caplog.text
    assert storage.read_json(storage.join(output, "metrics.json")) == metrics
    with pytest.raises(UserError, match="other sets or settings"):
        segment(configure(root, output=output, steps=3), demo=False)

    # what is lost is made again, the same; what was trained is not trained for another arm
    before = finals(root)
    for name in ("metrics.json", "table.csv", f"results/{names[1]}"):
        storage.delete(storage.join(output, name))
    storage.delete_folder(training["weights"].rpartition("/")[0])
    storage.delete(storage.join(output, "results", names[0]))
    caplog.clear()
    segment(configure(root), demo=False)
    assert "4 trainings" in caplog.text and "2 to make" in caplog.text
    assert finals(root) == before
    segment(configure(root, arms=[*ARMS, "copy-paste"], output=storage.join(root, "more")), demo=False)
    more = storage.read_json(storage.join(root, "more", "metrics.json"))
    assert [of["seconds"] for of in more["trainings"][2:4]] == [
        of["seconds"] for of in metrics["trainings"][2:4]
    ]
    assert more["results"][1] == metrics["results"][1]
    assert len(more["trainings"]) == 6


@pytest.mark.soak
@pytest.mark.cluster
def test_a_damaged_network_is_told_in_one_line_and_costs_no_other_training(ray, tmp_path):
    root = str(tmp_path)
    write_sets(root)
    segment(configure(root, arms=["real"]), demo=False)
    output = output_of(root)
    metrics = storage.read_json(storage.join(output, "metrics.json"))
    damaged, whole = (training["weights"] for training in metrics["trainings"])
    content = bytearray(storage.read_bytes(damaged))
    content[-1] ^= 1
    storage.write_bytes(damaged, bytes(content))
    storage.delete(storage.join(output, "metrics.json"))
    storage.delete_folder(storage.join(output, "results"))
    with pytest.raises(SiamdiffError, match=r"1 of 2 trainings could not be made .*is damaged") as caught:
        segment(configure(root, arms=["real"]), demo=False)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 1
    assert len(storage.list_files(storage.join(output, "results"))) == 1
    assert storage.read_json(storage.join(root, "segmentation", "status.json"))["exit_code"] == 1
    assert storage.exists(whole)

    about = f"{whole.rpartition('/')[0]}/training.json"
    storage.write_bytes(about, b"[]")
    storage.delete_folder(storage.join(output, "results"))
    with pytest.raises(SiamdiffError, match=r"2 of 2 trainings could not be made .*is damaged"):
        segment(configure(root, arms=["real"]), demo=False)
    for folder in (damaged, whole):
        storage.delete_folder(folder.rpartition("/")[0])
    segment(configure(root, arms=["real"]), demo=False)
    assert storage.read_json(storage.join(output, "metrics.json"))["results"] == metrics["results"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"real": "SYNTHETIC"}, "segment.real takes a real one"),
        ({"synthetic": "REAL"}, "segment.synthetic takes a synthetic one"),
        ({"arms": ["real+3"]}, "takes 3 folds, .* has 2"),
        ({"synthetic": "LEAK"}, "1 of 2 samples of .* were made from val or test samples"),
        (
            {"tests": {"t": "REAL", "again": "COPY"}},
            "11 of 15 samples of the test set again .* are also trained",
        ),
        ({"tests": {"l": "LARGER"}}, "48 pixels, segment.real of 32"),
        ({"synthetic": "/nothing/here"}, "not a complete set"),
        ({"networks": ["swin-unetr"], "size": 40}, "multiple of 32 pixels, not 40; give --segment.size 32"),
        ({"encoder": "/nothing/here"}, "segment.encoder is for segformer networks"),
        ({"networks": ["segformer-b0"], "encoder": "/nothing/here"}, "there is no segment.encoder"),
    ],
)
def test_what_cannot_be_compared_is_the_users_mistake(tmp_path, settings, message):
    root = str(tmp_path / "root")
    real, synthetic = write_sets(root)
    places = {"REAL": real.uri, "SYNTHETIC": synthetic.uri}
    if "LEAK" in settings.values():
        parents = [real.keys("train")[0], real.keys("test")[0]]
        places["LEAK"] = synthetic_set(str(tmp_path / "leak"), real, 1, parents=parents).uri
    if "tests" in settings:
        places["LARGER"] = real_set(str(tmp_path / "larger"), seed=4, side=48).uri
        places["COPY"] = real_set(str(tmp_path / "copy"), subsets=("another",)).uri

    def named(value):
        if isinstance(value, dict):
            return {name: named(of) for name, of in value.items()}
        return places.get(value, value) if isinstance(value, str) else value

    given = {name: named(value) for name, value in settings.items()}
    with pytest.raises(UserError, match=message) as caught:
        segment(configure(root, **given), demo=False)
    assert "\n" not in str(caught.value)
    status = storage.read_json(storage.join(root, "segmentation", "status.json"))
    assert status["exit_code"] == 2
    assert set(storage.list_files(storage.join(root, "segmentation"))) == {"status.json"}


def test_without_a_synthetic_set_only_real_arms_can_be_trained(tmp_path):
    root = str(tmp_path)
    real_set(storage.join(root, "data"))
    with pytest.raises(UserError, match=r"generate first, or give --segment\.synthetic URI"):
        segment(configure(root), demo=False)


@pytest.mark.soak
@pytest.mark.cluster
def test_killed_workers_and_a_killed_job_cost_only_what_they_were_at(tmp_path):
    """A worker is killed in its training, then the job with its cluster; what comes out is what it would have been."""
    whole, killed = str(tmp_path / "whole"), str(tmp_path / "killed")
    settings = {"seeds": [0, 1, 2], "steps": 150, "validations": 5}
    for root in (whole, killed):
        write_sets(root)
    undisturbed = jobs.run("segment", "--config", jobs.config_file(configure(whole, **settings), tmp_path))
    assert undisturbed.returncode == 0, undisturbed.stderr[-3000:]

    file = jobs.config_file(configure(killed, **settings), tmp_path)
    process = jobs.start("segment", "--config", file, log=tmp_path / "log")
    jobs.wait_for(lambda: jobs.descendants(process, "ray::train_and_score"), process)
    jobs.descendants(process, "ray::train_and_score")[0].kill()

    def made() -> int:
        return sum(".json" in name and "/results/" in name for name in storage.list_files(killed))

    jobs.wait_for(lambda: made() >= 2, process)
    jobs.kill_tree(process)
    left = made()
    assert 2 <= left < 6
    again = jobs.run("segment", "--config", file)
    assert again.returncode == 0, again.stderr[-3000:]
    assert f"6 trainings (real, real+1 x unet-small x 3 seeds), {6 - left} to make" in again.stderr
    assert finals(killed) == finals(whole)
    assert "segmentation already" in jobs.run("segment", "--config", file).stderr
