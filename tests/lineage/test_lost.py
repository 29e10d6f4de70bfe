"""What was made of sets, models and bases that are not here any more is open, or found by what was left."""

import shutil
from pathlib import Path

import pytest

from siamdiff import storage
from siamdiff.data.shardset import ShardSet
from siamdiff.export.folder import export_folder
from siamdiff.lineage.answer import trace
from tests.lineage.roots import child_of, found, places, write_measured, write_synthetic
from tests.sets import write_phantoms

MODEL = {"digest": "e" * 64, "data_digest": "d" * 64}
NEVER = "0123456789abcdef"
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
