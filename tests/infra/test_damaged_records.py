"""What evaluate and segment read again of their own, damaged in between: one line, exit code 1, nothing touched."""

import json

import numpy as np
import pytest
import safetensors.numpy

from infra.embed import Part, cache_uri, embed
from infra.evaluate import evaluate
from infra.measure import _kept_judge
from infra.named_sets import newest
from infra.segment import segment
from infra.segmentation import prepare
from infra.trainings import result_uri
from siamdiff import storage
from siamdiff.config import Config
from siamdiff.errors import SiamdiffError, UserError
from siamdiff.evaluation.extractors import EFFICIENTNET_EXTRACTOR
from siamdiff.segmentation.metrics import DEFINITIONS
from tests.segmentation.sets import real_set, synthetic_set

DAMAGED = [b"", b"{", b"[]", b"7", b"\xff\xfe", b"{}"]


@pytest.fixture
def config(tmp_path) -> Config:
    """A root with a real set and a synthetic one; outputs of their own for evaluation and segmentation."""
    root = str(tmp_path / "root")
    real = real_set(storage.join(root, "data"))
    synthetic = synthetic_set(storage.join(root, "synthetic", "plan"), real)
    storage.write_json(storage.join(root, "synthetic", "latest.json"), {"uri": synthetic.uri})
    return Config.model_validate(
        {
            "root": root,
            "data": {"source": "polyps"},
            "evaluate": {"output": str(tmp_path / "evaluation")},
            "segment": {"arms": ["real"], "seeds": [0], "steps": 2, "output": str(tmp_path / "segmentation")},
        }
    ).resolve()


def refused(stage, config, output, name) -> str:
    """The line with which a stage ends; the output holds what it held, and its status."""
    before = {file: size for file, size in storage.list_files(output).items() if file != "status.json"}
    with pytest.raises(SiamdiffError) as caught:
        stage(config, demo=False)
    assert "\n" not in str(caught.value) and storage.join(output, name) in str(caught.value)
    assert (caught.value.exit_code, "run the same command again" in str(caught.value)) == (1, True)
    after = {file: size for file, size in storage.list_files(output).items() if file != "status.json"}
    assert before == after
    return str(caught.value)


@pytest.mark.parametrize("content", DAMAGED)
def test_damaged_metrics_of_an_evaluation(config, content) -> None:
    output = config.evaluate.output
    storage.write_bytes(storage.join(output, "metrics.json"), content)
    assert "is damaged" in refused(evaluate, config, output, "metrics.json")


@pytest.mark.parametrize("content", DAMAGED)
def test_damaged_metrics_and_results_of_a_segmentation(config, content) -> None:
    output = config.segment.output
    job = prepare(config, demo=False)
    assert list(storage.list_files(output)) == ["inputs.json"]
    result = result_uri(job.results, job.trainings[0])
    for uri in (storage.join(output, "metrics.json"), result):
        storage.write_bytes(uri, content)
        assert "is damaged" in refused(segment, config, output, uri.removeprefix(f"{output}/"))
        storage.delete(uri)


def test_results_and_metrics_of_another_segmentation_are_not_taken_for_this_one(config) -> None:
    output = config.segment.output
    job = prepare(config, demo=False)
    uri = result_uri(job.results, job.trainings[0])
    name = uri.removeprefix(f"{output}/")
    count = len(job.tests["test"].keys)
    scores = {score: [0.5] * count for score in DEFINITIONS} | {"false_alarms": 0}
    short = scores | {"dice_at_0.5": [0.5]}
    digest = job.trainings[0].digest
    for training, of in (("0" * 16, {"test": scores}), (digest, {"test": short}), (digest, {"t": scores})):
        storage.write_json(uri, {"training": training, "scores": of})
        message = refused(segment, config, output, name)
        assert "holds the scores of another training or other images" in message
    storage.delete(uri)
    score = {"images": 4, "mean": 0.5, "deviation": 0.1}
    row = {"network": "unet", "arm": "real", "test": "test", "seeds": 1, "training_pairs": 8}
    results = [row | {"scores": dict.fromkeys(DEFINITIONS, score)}]
    other = {"inputs_digest": "0", "patient_separated": False, "baseline": None, "results": results}
    storage.write_json(storage.join(output, "metrics.json"), other)
    with pytest.raises(UserError, match=r"other sets or settings; give another --segment\.output"):
        segment(config, demo=False)


@pytest.mark.parametrize("content", DAMAGED[:-1])
def test_damaged_inputs_of_a_segmentation(config, content) -> None:
    storage.write_bytes(storage.join(config.segment.output, "inputs.json"), content)
    assert "is damaged" in refused(segment, config, config.segment.output, "inputs.json")


@pytest.mark.parametrize("content", DAMAGED)
def test_what_names_the_newest_set_is_told_when_damaged(config, content) -> None:
    storage.write_bytes(storage.join(config.root, "synthetic", "latest.json"), content)
    with pytest.raises(SiamdiffError, match=r"latest.json is damaged .*generate again, or give X") as caught:
        newest(config, "X")
    assert "\n" not in str(caught.value)


def test_a_damaged_status_hinders_nobody(config) -> None:
    for stage, folder in ((evaluate, "evaluation"), (segment, "segmentation")):
        uri = storage.join(config.root, folder, "status.json")
        storage.write_bytes(uri, b"{")
        broken = config.model_copy(
            update={
                name: getattr(config, name).model_copy(update={"real": "/nothing"})
                for name in ("evaluate", "segment")
            }
        )
        with pytest.raises(UserError, match="not a complete set"):
            stage(broken, demo=False)
        assert json.loads(storage.read_bytes(uri))["exit_code"] == 2


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        safetensors.numpy.save({"features": np.zeros((3, 5), np.float32)}),
        safetensors.numpy.save({"features": np.zeros(8, np.float32)}),
        safetensors.numpy.save({"others": np.zeros((8, 5), np.float32)}),
    ],
)
def test_damaged_features_are_told_before_others_are_made(config, tmp_path, content) -> None:
    real = real_set(str(tmp_path / "again"))
    part = Part(real, real.keys("train"))
    assert len(part.keys) == 8
    uri = cache_uri(config, "features", extractor=EFFICIENTNET_EXTRACTOR.identity(), **part.inputs())
    storage.write_bytes(uri, content)
    with pytest.raises(SiamdiffError, match=f"{uri} is damaged .*; delete it and run") as caught:
        embed(config, EFFICIENTNET_EXTRACTOR, [part])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"garbage", safetensors.numpy.save({"weight": np.zeros(3, np.float32)})]
)
def test_a_damaged_segmenter_is_told(tmp_path, content) -> None:
    uri = str(tmp_path / "segmenter.safetensors")
    storage.write_bytes(uri, content)
    with pytest.raises(SiamdiffError, match=f"{uri} is damaged .*; delete it and run") as caught:
        _kept_judge(uri, 3, 3, 0, "cpu")
    assert "\n" not in str(caught.value)
