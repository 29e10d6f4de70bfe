"""Whatever is wrong with a synthetic set is found, dropped on request, and made again as the next revision."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from siamdiff import storage
from siamdiff.__main__ import main
from siamdiff.data.manifest import Manifest, finish_set, read_manifest
from siamdiff.data.repair import collect, repair
from siamdiff.data.sample import EncodedSample, Synthetic, content_key, make_sample
from siamdiff.data.shards import finished_shards, tar_uri, write_shard
from siamdiff.data.verify import verify
from siamdiff.errors import UserError
from siamdiff.run import InUseError, lease
from siamdiff.sampling.audit import audit_of
from siamdiff.sampling.conditions import Condition, read_conditions
from siamdiff.sampling.plan import Plan
from siamdiff.sections import Generate
from tests.tiny_model import RESOLUTION, write_masks

MODEL = "d" * 64


def drawn(condition: Condition, **changes) -> EncodedSample:
    """A sample whose image is noise: what draws it is not the point here."""
    origin = {
        "parent": condition.parent,
        "fold": condition.fold,
        "transform": condition.transform,
        "seed": condition.seed,
        "model_digest": MODEL,
        "sampler": {"name": "noise"},
    } | {name: value for name, value in changes.items() if name != "mask"}
    mask = changes.get("mask", condition.mask)
    image = np.random.default_rng(condition.seed).integers(0, 256, (*mask.shape, 3), dtype=np.uint8)
    return make_sample(
        image,
        mask,
        prompt=condition.prompt,
        split=condition.split,
        group=condition.group,
        source_size=(RESOLUTION, RESOLUTION),
        image_format="png",
        key=content_key(image.tobytes(), str(origin["fold"]).encode()),
        synthetic=Synthetic(**origin),
    )


class Work:
    """A mask set of 7, a plan of 2 folds in shards of 4, and the one command that makes what has no marker."""

    def __init__(self, folder: Path) -> None:
        self.masks = write_masks(str(folder / "masks"), 7)
        settings = Generate(folds=2, fold_masks=["real", "random"], shard_size=4)
        self.plan = Plan.of(settings, masks=self.masks.digest, model=MODEL, resolution=RESOLUTION)
        self.uri = str(folder / "set")

    def make(self, name: str, **changes) -> None:
        """Writes one shard; `changes` are made to its first sample."""
        shard = next(shard for shard in self.shards() if shard.name == name)
        conditions = read_conditions(self.masks, self.plan, shard)
        samples = [drawn(condition) for condition in conditions]
        samples[0] = drawn(conditions[0], **changes)
        write_shard(self.uri, name, samples)

    def shards(self):
        return self.plan.shards(self.plan.choose(self.masks.keys("train")))

    def finish(self) -> Manifest:
        for shard in self.shards():
            if shard.name not in finished_shards(self.uri):
                self.make(shard.name)
        return self.declare()

    def declare(self) -> Manifest:
        made_from = {
            "masks": {"uri": self.masks.uri, "digest": self.masks.digest},
            "plan": {"digest": self.plan.digest} | self.plan.model_dump(mode="json"),
        }
        return finish_set(
            self.uri, finished_shards(self.uri), kind="synthetic", resolution=RESOLUTION, demo=False,
            license="CC0", permitted_use="any", made_from=made_from,
        )  # fmt: skip


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path)


def test_a_set_as_planned_is_whole(work: Work, capsys: pytest.CaptureFixture[str]):
    work.finish()
    assert verify(work.uri, audit_of) == []
    assert main(["verify", work.uri]) == 0
    assert capsys.readouterr().out == "whole: 14 samples in 4 shards, revision 1\n"


def other_mask() -> np.ndarray:
    mask = np.zeros((RESOLUTION, RESOLUTION), dtype=np.uint8)
    mask[3:9, 4:11] = 255
    return mask


@pytest.mark.parametrize(
    ("shard", "changes", "message"),
    [
        ("fold0-000000", {"mask": other_mask()}, "its mask is not that of"),
        ("fold1-000001", {"mask": other_mask()}, "its mask is not that of"),
        ("fold1-000000", {"fold": 0}, "not planned here, or there twice"),
        ("fold0-000001", {"parent": "0" * 16}, "not planned here, or there twice"),
        ("fold0-000000", {"model_digest": "e" * 64}, "drawn by model eeee"),
        ("fold1-000000", {"seed": 5}, "its seed is not the plan's"),
        ("fold0-000001", {"draw": 4}, "it is draw 4, the plan permits 0 to 3"),
        ("fold1-000001", {"scores": {"rejected_copy": 1.0}}, "rejected (copy) and not drawn again"),
    ],
    ids=["real mask", "transformed mask", "fold", "parent", "model", "seed", "draw", "not drawn again"],
)
def test_a_sample_that_was_not_planned_so_is_found_dropped_and_made_again(
    work: Work, capsys: pytest.CaptureFixture[str], shard: str, changes: dict, message: str
):
    whole = work.finish().digest
    storage.delete_folder(work.uri)
    work.make(shard, **changes)
    work.finish()
    problems = verify(work.uri, audit_of)
    assert all(shard in problem for problem in problems)
    assert any(message in problem for problem in problems)
    assert main(["verify", work.uri]) == 1

    assert main(["verify", work.uri, "--repair"]) == 0
    assert "1 shards are to be made again" in capsys.readouterr().out.splitlines()[-1]
    assert shard not in finished_shards(work.uri) and len(finished_shards(work.uri)) == 3
    assert main(["verify", work.uri]) == 2, "until it is made again the set is incomplete"
    again = work.finish()
    assert (again.digest, again.revision) == (whole, 2)
    assert verify(work.uri, audit_of) == []


def test_a_lost_and_a_strange_shard_are_found(work: Work):
    work.finish()
    storage.delete(tar_uri(work.uri, "fold1-000001"))
    storage.delete(tar_uri(work.uri, "fold1-000001").replace(".tar", ".json"))
    work.declare()
    assert verify(work.uri, audit_of) == ["shard fold1-000001 is planned: dataset.json does not list it"]
    assert repair(work.uri, audit_of).dropped == ["fold1-000001"]
    some = read_conditions(work.masks, work.plan, next(work.shards()))[0]
    write_shard(work.uri, "fold7-000000", [drawn(some, fold=7)])
    work.finish()
    assert any("fold7-000000 is not of the plan" in problem for problem in verify(work.uri, audit_of))


def damage(work: Work, kind: str) -> None:
    tar = Path(tar_uri(work.uri, "fold0-000001"))
    marker = tar.with_suffix(".json")
    data = tar.read_bytes()
    match kind:
        case "truncated":
            tar.write_bytes(data[:-3000])
        case "flipped":
            tar.write_bytes(data[:2000] + bytes([data[2000] ^ 1]) + data[2001:])
        case "tar without marker":
            marker.unlink()
        case "marker without tar":
            tar.unlink()
        case "marker":
            marker.write_text(marker.read_text().replace('"split": "train"', '"split": "val"', 1))
        case "index":
            Path(work.uri, "index.parquet").write_bytes(b"no index")
        case "manifest":
            Path(work.uri, "dataset.json").write_text("{}")


@pytest.mark.parametrize(
    "kind",
    ["truncated", "flipped", "tar without marker", "marker without tar", "marker", "index", "manifest"],
)
def test_what_repair_drops_is_made_again_with_the_same_bytes(work: Work, kind: str):
    whole = work.finish()
    damage(work, kind)
    assert main(["verify", work.uri]) == 1
    assert main(["verify", work.uri, "--repair"]) == 0
    assert not storage.exists(f"{work.uri}/dataset.json")
    again = work.finish()
    assert [shard.sha256 for shard in again.shards] == [shard.sha256 for shard in whole.shards]
    assert again.revision == 2 and verify(work.uri, audit_of) == []
    earlier = json.loads(storage.read_bytes(f"{work.uri}/revisions/000001.json"))
    assert again.previous == (whole.digest if kind != "manifest" else None) and earlier.get("revision") in (
        1,
        None,
    )


def test_an_incomplete_set_is_repaired_by_its_own_markers(work: Work):
    work.finish()
    storage.delete(f"{work.uri}/dataset.json")
    damage(work, "flipped")
    assert main(["verify", work.uri, "--repair"]) == 0
    assert finished_shards(work.uri) == {"fold0-000000", "fold1-000000", "fold1-000001"}
    work.finish()
    assert verify(work.uri, audit_of) == []


def test_a_set_without_problems_is_left_as_it_is(work: Work, capsys: pytest.CaptureFixture[str]):
    before = work.finish()
    assert main(["verify", work.uri, "--repair"]) == 0
    assert capsys.readouterr().out == "whole: nothing to repair\n"
    assert read_manifest(work.uri) == before and work.finish() == before


def test_without_its_masks_a_set_is_whole_and_that_they_were_not_looked_at_is_said(
    work: Work, caplog: pytest.LogCaptureFixture
):
    work.finish()
    storage.delete_folder(work.masks.uri)
    assert main(["verify", work.uri]) == 0
    assert "not compared with plan and masks" in caplog.text


def test_gc_removes_what_no_marker_names_and_nothing_else(work: Work, capsys: pytest.CaptureFixture[str]):
    whole = work.finish()
    storage.write_bytes(tar_uri(work.uri, "fold9-000000"), b"of a lost attempt")
    Path(work.uri, "shards", ".partial-1").write_bytes(b"of a killed writer")
    assert main(["gc", work.uri, "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "shards/fold9-000000.tar", "shards/.partial-1", "2 files would be removed",
    ]  # fmt: skip
    assert verify(work.uri, audit_of) == [
        "shards/fold9-000000.tar is not of this set: dataset.json does not list it"
    ]
    assert main(["gc", work.uri]) == 0
    assert verify(work.uri, audit_of) == [] and read_manifest(work.uri) == whole
    assert not Path(work.uri, "shards", ".partial-1").exists()
    assert main(["gc", work.uri]) == 0 and capsys.readouterr().out.endswith("0 files removed\n")


@pytest.mark.parametrize("command", [collect, lambda uri: repair(uri, lambda _: None)], ids=["gc", "repair"])
def test_a_set_that_a_job_writes_is_left_alone(work: Work, command: Callable[[str], object]):
    whole = work.finish()
    with lease(work.uri, renew_seconds=0.1), pytest.raises(InUseError, match="is in use by process"):
        command(work.uri)
    assert read_manifest(work.uri) == whole


def test_a_damaged_tar_is_put_aside_until_gc(work: Work):
    work.finish()
    damage(work, "flipped")
    damaged = storage.read_bytes(tar_uri(work.uri, "fold0-000001"))
    repair(work.uri, audit_of)
    assert storage.read_bytes(f"{work.uri}/damaged/fold0-000001.tar") == damaged
    work.finish()
    assert verify(work.uri, audit_of) == []
    assert collect(work.uri) == ["damaged/fold0-000001.tar"] and verify(work.uri, audit_of) == []


def test_a_set_of_another_schema_is_not_judged_by_this_one(work: Work):
    work.finish()
    path = Path(work.uri, "dataset.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99}))
    before = storage.list_files(work.uri)
    with pytest.raises(UserError, match="schema version 99"):
        repair(work.uri, audit_of)
    assert storage.list_files(work.uri) == before


@pytest.mark.parametrize("command", [["gc"], ["verify", "--repair"]])
def test_a_mistyped_folder_is_not_made(
    tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str]
):
    assert main([command[0], str(tmp_path / "st"), *command[1:]]) == 2
    assert "holds no shards" in capsys.readouterr().err and not list(tmp_path.iterdir())
