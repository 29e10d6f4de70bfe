"""The whole road through the doors a person uses: two workers with ZeRO-2, a real store, real sampling actors."""

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import webdataset as wds

from siamdiff import storage, transfer
from siamdiff.data.shardset import ShardSet
from siamdiff.lineage.answer import trace
from siamdiff.lineage.findings import Relation
from siamdiff.lineage.objects import all_kinds
from siamdiff.report.record import read_experiment
from tests import jobs
from tests.sets import small_config


@pytest.fixture(scope="module")
def experiment(
    s3, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str, subprocess.CompletedProcess[str]]:
    """Root, configuration file, and how `jobs/experiment.py` ended."""
    root, folder = s3.new_root(), tmp_path_factory.mktemp("experiment")
    config = small_config(
        root,
        data={"count": 24, "shard_size": 8},
        train={"engine": "deepspeed", "workers": 2, "run": "demo"},
        generate={"folds": 2, "fold_masks": ["real", "random"], "limit": 6, "shard_size": 4, "batch_size": 2},
        evaluate={"agreement_steps": 2},
        segment={"arms": ["real", "real+1"], "steps": 2, "seeds": [0], "validations": 0},
    )
    file = jobs.config_file(config, folder)
    return root, file, jobs.run("experiment", "--config", file)


@pytest.mark.cluster
def test_all_stages_end_well_and_leave_their_outputs(experiment):
    root, _, result = experiment
    assert result.returncode == 0, result.stderr[-4000:]
    names = list(storage.list_files(root))
    assert "data/dataset.json" in names
    assert "runs/demo/model/siamdiff.json" in names
    assert any(name.startswith("evaluation/") and name.endswith("metrics.json") for name in names)
    assert any(name.startswith("evaluation/") and name.endswith(".png") for name in names)
    for stage in ("ingest", "train", "generate", "evaluate", "segment"):
        assert f"  {stage}" in result.stderr
    (record,) = (name for name in names if name.endswith("/experiment.json"))
    (setting,) = read_experiment(f"{root}/{record.removesuffix('/experiment.json')}").settings
    assert set(setting.outputs) == {"ingest", "train", "generate", "evaluate", "segment"}
    assert all(storage.list_files(uri) for uri in setting.outputs.values())
    page = storage.read_bytes(f"{root}/{record.removesuffix('experiment.json')}report.html").decode()
    assert page.count("data:image/") > 10 and "t-SNE" in page
    latest = storage.read_json(f"{root}/synthetic/latest.json")["uri"]
    assert len(ShardSet.open(latest)) == 12


@pytest.mark.cluster
def test_the_synthetic_set_opens_in_plain_webdataset_and_tar(experiment, tmp_path: Path):
    latest = storage.read_json(f"{experiment[0]}/synthetic/latest.json")["uri"]
    transfer.download_folder(latest, tmp_path)
    shards = sorted(str(path) for path in (tmp_path / "shards").glob("*.tar"))
    dataset = wds.WebDataset(shards, shardshuffle=False).decode("pil")
    samples = list(dataset)
    assert len({sample["__key__"] for sample in samples}) == 12
    assert {sample["png"].size for sample in samples} == {(32, 32)}
    listing = subprocess.run(
        ["tar", "tf", shards[0]], capture_output=True, text=True, check=True
    ).stdout.split()
    with tarfile.open(fileobj=io.BytesIO(Path(shards[0]).read_bytes())) as archive:
        assert archive.getnames() == listing


@pytest.mark.cluster
def test_one_flipped_bit_is_found(experiment, tmp_path: Path):
    latest = storage.read_json(f"{experiment[0]}/synthetic/latest.json")["uri"]
    transfer.download_folder(latest, tmp_path)

    def verify() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "siamdiff", "verify", str(tmp_path)], capture_output=True, text=True
        )

    assert verify().returncode == 0
    shard = sorted((tmp_path / "shards").glob("*.tar"))[0]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    broken = verify()
    assert broken.returncode == 1
    assert shard.stem in broken.stderr


@pytest.mark.cluster
def test_images_are_traced_through_everything_that_was_left(experiment):
    """A stage that leaves objects of a new kind fails here until siamdiff/lineage/objects.py knows them."""
    root, never = experiment[0], "0123456789abcdef"
    keys = ShardSet.open(f"{root}/data").keys()
    answer = trace([*keys, never], [root])
    assert answer.problems == [] and answer.exit_code == 0
    found = {trail.key: {of.kind for of in trail.findings} for trail in answer.trails}
    assert found.pop(never) == set()
    traced = {kind.name for kind in all_kinds() if kind.is_traced} & answer.looked_at.keys()
    assert traced - set().union(*found.values()) <= {
        "logs",
        "names of files left out",
    }  # which name no image here
    log = next(name for name in storage.list_files(root) if "/logs/keys/00000000-" in name)
    consumed = json.loads(storage.read_bytes(f"{root}/{log}").splitlines()[0])["keys"][0]
    (trail,) = (trail for trail in answer.trails if trail.key == consumed)
    relations = {(of.relation, of.kind) for of in trail.findings}
    for relation, kind in (
        (Relation.HOLDS, "shards"),
        (Relation.TRAINED, "checkpoints"),
        (Relation.TRAINED, "weights"),
        (Relation.TRAINED, "segmenters"),
        (Relation.MADE, "shards"),
        (Relation.COMPUTED, "features"),
        (Relation.NAMES, "log of keys"),
    ):
        assert (relation, kind) in relations
    assert any(of.kind == "pages" for of in trail.findings)


@pytest.mark.cluster
def test_running_it_again_does_nothing(experiment):
    root, file, _ = experiment
    before = storage.list_files(root)
    result = jobs.run("experiment", "--config", file)
    assert result.returncode == 0, result.stderr[-4000:]
    after = storage.list_files(root)
    kinds = (".tar", ".safetensors", "experiment.json", "inputs.json", "metrics.json")
    assert {name for name in after if name.endswith(kinds)} == {
        name for name in before if name.endswith(kinds)
    }
    assert json.loads(storage.read_bytes(f"{root}/runs/demo/status.json"))["phase"] == "finished"
