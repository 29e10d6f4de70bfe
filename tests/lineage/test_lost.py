"""What was made of sets, models and bases that are not here any more is open, or found by what was left."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest

from siamdiff import storage
from siamdiff.data.shardset import ShardSet
from siamdiff.export.folder import export_folder
from siamdiff.lineage.answer import trace
from tests.lineage.roots import child_of, found, lines, places, write_measured, write_synthetic
from tests.sets import write_phantoms

MODEL = {"digest": "e" * 64, "data_digest": "d" * 64}
NEVER = "0123456789abcdef"
GIVEN = "sha256 " + "b" * 64  # what a run is pinned to whose base was given by a path
SHEETS = {"evaluation/e/contact_sheet-synthetic.png", "evaluation/e/nearest-synthetic.png"}
TABLES = {"evaluation/e/metrics.json", "evaluation/e/table.csv"}


@pytest.fixture
def real(tmp_path: Path) -> ShardSet:
    """A small real set, alone under a root."""
    return write_phantoms(f"{tmp_path}/data")


@pytest.fixture
def root(real: ShardSet, tmp_path: Path) -> str:
    return str(tmp_path)


def test_what_was_measured_on_a_synthetic_set_that_is_gone_is_open(root: str, real: ShardSet) -> None:
    made = write_synthetic(f"{root}/synthetic/a", real, real.keys("train")[:2], MODEL)
    write_measured(root, real, made)
    shutil.rmtree(f"{root}/synthetic/a")
    answer = trace([NEVER], [root])
    assert answer.exit_code == 1
    assert places(answer, "MAY") == {
        *SHEETS,
        *TABLES,
        "evaluation/e/tsne.jsonl",
        "segmentation/s/metrics.json",
        "segmentation/trainings/t1",  # not t0, the arm without synthetic pairs
    }


def test_an_arm_on_another_set_than_the_one_that_is_gone_is_not_open(root: str, real: ShardSet) -> None:
    made = write_synthetic(
        f"{root}/synthetic/a", real, real.keys("train")[:2], MODEL | {"data_digest": real.digest}
    )
    write_measured(root, real, made)
    inputs = storage.read_json(f"{root}/segmentation/s/inputs.json")
    inputs["synthetic"] = {"our own": made.digest, "gone": "f" * 64}
    inputs["trainings"] = {
        "unet-small--real+1_our_own--seed0": "t0",
        "unet-small--synthetic_gone--seed0": "t1",
    }
    storage.write_json(f"{root}/segmentation/s/inputs.json", inputs)
    segmenters = {
        place for place in places(trace([NEVER], [root]), "MAY") if place.startswith("segmentation/trainings")
    }
    assert segmenters == {"segmentation/trainings/t1"}


def test_an_export_tells_of_a_synthetic_set_that_is_gone(root: str, real: ShardSet) -> None:
    parent, other = real.keys("train")[:2]
    made = write_synthetic(f"{root}/synthetic/a", real, [parent], MODEL)
    copied = write_synthetic(f"{root}/synthetic/c", real, [other], None)
    export_folder([real.uri], f"{root}/exports/real")
    export_folder([made.uri], f"{root}/exports/made")
    export_folder([copied.uri], f"{root}/exports/copied")
    shutil.rmtree(f"{root}/synthetic")
    answer = trace([parent, other, NEVER], [root])
    assert "exports exports/made" in found(answer, parent)["COMPUTED"]
    assert "exports exports/copied" in found(answer, other)["HOLDS"]
    assert found(answer, NEVER) == {"MAY": {"exports exports/made", "exports exports/copied"}}
    shutil.rmtree(real.uri)
    answer = trace([child_of(parent), NEVER], [root])
    assert "exports exports/made" in found(answer, child_of(parent))["HOLDS"]
    assert "exports exports/real" not in found(answer, NEVER)["MAY"]  # its lines are all that it holds


def test_an_unfinished_set_of_a_model_that_is_not_here_is_open(root: str, real: ShardSet) -> None:
    write_synthetic(f"{root}/synthetic/a", real, real.keys("train")[:1], MODEL)
    Path(root, "synthetic/a/dataset.json").unlink()
    Path(root, "synthetic/a/index.parquet").unlink()
    key = real.keys("train")[5]
    assert places(trace([key], [root]), "MAY") == {"synthetic/a/shards"}
    imported = {"model_digest": MODEL["digest"], "data_digest": None}
    storage.write_json(f"{root}/imported/siamdiff.json", imported)
    assert "MAY" not in found(trace([key], [root]))


def write_run(
    root: str,
    name: str,
    real: ShardSet,
    consumed: list[str],
    base: str,
    identity: str = GIVEN,
    said: dict[str, Any] | None = None,
) -> str:
    """A finished run of one step; returns the URI of its model."""
    run = f"{root}/runs/{name}"
    pinned = {"digest of data": real.digest, "digest of base": identity, "train.steps": 1}
    storage.write_json(f"{run}/pinned.json", pinned | {"model.base": base})
    storage.write_bytes(f"{run}/logs/keys/00000000-00000001.jsonl", lines([{"step": 0, "keys": consumed}]))
    info = {"model_digest": hashlib.sha256(name.encode()).hexdigest(), "data_digest": real.digest}
    storage.write_json(f"{run}/model/siamdiff.json", info)
    if said is not None:
        storage.write_json(f"{run}/base.json", {"bases": [{"uri": base, **said}]})
    return f"{run}/model"


def relation_to(root: str, key: str, place: str) -> str | None:
    """What a model has to do with a key."""
    told = {of.uri: of.relation.name for of in trace([key], [root]).trails[0].findings}
    return told.get(f"{root}/{place}")


def test_a_run_that_began_with_the_model_of_another_is_of_its_images_too(root: str, real: ShardSet) -> None:
    first, other, unused = real.keys("train")[:3]
    hub = "owner/name"
    model = write_run(root, "a", real, [first], hub, f"{hub}@{'c' * 40}")
    write_run(root, "b", real, [other], model)
    write_run(root, "c", real, [unused], "/before/it/moved/runs/b/model", "versions " + "d" * 64)
    write_synthetic(
        f"{root}/synthetic/c",
        real,
        [unused],
        {"digest": hashlib.sha256(b"c").hexdigest(), "data_digest": real.digest},
    )
    assert [relation_to(root, first, f"runs/{name}/model") for name in "abc"] == ["TRAINED"] * 3
    assert [relation_to(root, other, f"runs/{name}/model") for name in "abc"] == [None, "TRAINED", "TRAINED"]
    assert "synthetic/c/shards" in places(trace([first], [root]), "MADE")
    assert [relation_to(root, NEVER, f"runs/{name}/model") for name in "abc"] == [None] * 3
    shutil.rmtree(f"{root}/runs/a/model")  # its run is still here
    assert relation_to(root, first, "runs/c/model") == "TRAINED"


def test_a_run_that_began_with_a_tiny_base_by_its_path_is_of_its_images(root: str, real: ShardSet) -> None:
    key, other = real.keys("train")[:2]
    base = f"{root}/bases/tiny-{'0' * 16}"
    info = {"images_digest": "a" * 64, "data_digest": real.digest, "images": 10}
    storage.write_json(f"{base}/siamdiff.json", info)
    write_run(root, "a", real, [other], base)
    write_run(root, "b", real, [other], base, said=info)
    assert [relation_to(root, key, f"runs/{name}/model") for name in "ab"] == ["TRAINED", "TRAINED"]
    assert relation_to(root, real.keys("val")[0], "runs/a/model") is None
    shutil.rmtree(base)
    assert relation_to(root, key, "runs/b/model") == "TRAINED"  # by what it noted


def test_a_base_that_cannot_be_identified_is_open_where_it_may_be_of_the_image(
    root: str, real: ShardSet
) -> None:
    key, other = real.keys("train")[:2]
    write_run(root, "a", real, [key], "/elsewhere/one", "sha256 of one")
    write_run(root, "b", real, [other], "/elsewhere/two")
    write_run(root, "c", real, [other], "/elsewhere/three", said={})  # it noted that this was none of ours
    write_run(root, "d", real, [other], "/elsewhere/one", "sha256 of one")  # as a began
    write_run(root, "e", real, [other], "/elsewhere/e.safetensors", said={})  # may be any model, converted
    told = {name: relation_to(root, key, f"runs/{name}/model") for name in "abcde"}
    assert told == {"a": "TRAINED", "b": "MAY", "c": None, "d": None, "e": "MAY"}
    assert {relation_to(root, NEVER, f"runs/{name}/model") for name in "abcde"} == {None}


def test_models_that_claim_to_be_each_others_base_end(root: str, real: ShardSet) -> None:
    key, other = real.keys("train")[:2]
    write_run(root, "a", real, [other], f"{root}/runs/b/model")
    write_run(root, "b", real, [other], f"{root}/runs/a/model")
    assert relation_to(root, key, "runs/a/model") == "MAY"


def test_a_run_notes_what_its_base_says_of_its_origin(made: str) -> None:
    (base,) = Path(made, "bases").glob("tiny-*")
    (noted,) = storage.read_json(f"{made}/runs/r/base.json")["bases"]
    info = storage.read_json(f"{base}/siamdiff.json")
    assert noted["uri"] == str(base)
    assert (noted["images_digest"], noted["data_digest"]) == (info["images_digest"], info["data_digest"])
