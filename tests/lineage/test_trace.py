"""`python -m siamdiff trace`: an image is found in everything that used it, and in nothing else."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from siamdiff import storage
from siamdiff.__main__ import main
from siamdiff.data.shardset import ShardSet
from siamdiff.export.folder import export_folder
from siamdiff.lineage import making, world
from siamdiff.lineage.answer import trace
from siamdiff.lineage.findings import Relation
from siamdiff.lineage.objects import all_kinds, divide
from siamdiff.training import bases, previews
from tests.lineage.roots import child_of, found, lines, places, write_cache, write_synthetic
from tests.sets import write_phantoms

NEVER = "0123456789abcdef"


@pytest.fixture
def root(made: str, tmp_path: Path) -> str:
    """A copy of it, at another place."""
    return str(shutil.copytree(made, tmp_path / "root"))


@pytest.fixture
def real(root: str) -> ShardSet:
    return ShardSet.open(f"{root}/data")


def consumed(root: str) -> list[tuple[int, list[str]]]:
    """Step and keys of each step of the run."""
    logs = sorted(Path(root).glob("runs/r/logs/keys/*.jsonl"))
    rows = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    return [(row["step"], row["keys"]) for row in rows]


def test_an_image_is_found_in_everything_that_used_it(root: str, real: ShardSet) -> None:
    key = real.keys("train")[0]
    answer = trace([key], [root])
    assert answer.exit_code == 0 and answer.problems == []
    assert places(answer, "HOLDS") == {f"data/shards/{real.row(key).shard}.tar"}
    assert {"runs/r/model", "segmentation/trainings/t0"} < places(answer, "TRAINED")
    assert any(place.startswith("bases/tiny-") for place in places(answer, "TRAINED"))
    assert "evaluation/cache/segmenter-1.safetensors" in places(answer, "TRAINED")
    assert {"synthetic/a/shards", "segmentation/trainings/t1", "segmentation/s/metrics.json"} <= places(
        answer, "MADE"
    )
    assert {
        "synthetic/a/shards",
        "evaluation/e/tsne.jsonl",
        "evaluation/cache/features-1.safetensors",
    } < places(answer, "COMPUTED")
    assert {"synthetic/cache/copies-1.json", "synthetic/cache/copies-abababababababab.safetensors"} < places(
        answer, "COMPUTED"
    )
    assert places(answer, "SHOWS") >= {
        "evaluation/e/contact_sheet-synthetic.png",
        "evaluation/e/nearest-synthetic.png",
        "experiments/x/report.html",
    }
    assert {"private/data/keys.jsonl", "data/index.parquet"} < places(answer, "NAMES")
    assert "MAY" not in found(answer)


def test_one_that_was_never_used_is_in_nothing(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", NEVER, "--root", root]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == NEVER and told[1].strip() == f"none under {root}"
    assert told[-1].startswith(f"none: {NEVER} was not used by anything that could be read of ")
    assert root in told[-1]


def test_checkpoints_before_its_first_use_are_told_apart(root: str, real: ShardSet) -> None:
    (_, before), (_, after) = consumed(root)
    late = next(key for key in after if key not in before)
    # A base that was given, not made of the set: only the steps count.
    pinned = storage.read_json(f"{root}/runs/r/pinned.json")
    storage.write_json(f"{root}/runs/r/pinned.json", pinned | {"digest of base": "sha256 of another"})
    trained = places(trace([late], [root]), "TRAINED")
    assert {place.split("/")[3][:13] for place in trained if "checkpoints" in place} == {"step-00000002"}
    assert "runs/r/model" in trained
    unused = next(key for key in real.keys("train") if key not in before + after)
    answer = trace([unused], [root])
    assert not {place for place in places(answer, "TRAINED") if place.startswith("runs/")}
    assert not {name for name in found(answer).get("MADE", set()) if "synthetic/a" in name}


def test_steps_without_a_log_leave_it_open(root: str, real: ShardSet) -> None:
    pinned = storage.read_json(f"{root}/runs/r/pinned.json")
    storage.write_json(f"{root}/runs/r/pinned.json", pinned | {"digest of base": "sha256 of another"})
    for log in Path(root).glob("runs/r/logs/keys/00000001-*"):
        log.unlink()
    used = {key for _, keys in consumed(root) for key in keys}
    answer = trace([next(key for key in real.keys("train") if key not in used)], [root])
    open_ends = [of for of in answer.trails[0].findings if of.relation is Relation.MAY]
    assert answer.exit_code == 1
    assert any(of.uri.endswith("runs/r/model") for of in open_ends)
    assert any("no log of steps 1 to 2" in of.detail for of in open_ends)


def test_an_image_of_the_val_split_is_shown_and_trained_nothing(root: str, real: ShardSet) -> None:
    answer = trace(real.keys("val")[:1], [root])
    assert places(answer, "SHOWS") == {"runs/r/previews"}
    assert "TRAINED" not in found(answer)
    assert {"runs/r/metrics.jsonl"} < places(answer, "COMPUTED")


def test_copies_of_a_pair_hold_the_image_itself(root: str, real: ShardSet) -> None:
    key = real.keys("train")[3]
    write_synthetic(f"{root}/synthetic/copies", real, [key], None)
    answer = trace([key], [root])
    assert "synthetic/copies/shards" in places(answer, "HOLDS")
    (copies,) = [of for of in answer.trails[0].findings if "copies of the pair" in of.detail]
    assert child_of(key) in copies.detail


def test_a_set_on_the_masks_of_a_synthetic_one_is_found(root: str, real: ShardSet) -> None:
    made = ShardSet.open(f"{root}/synthetic/a")
    foreign = {"digest": "e" * 64, "data_digest": None}
    write_synthetic(f"{root}/synthetic/b", made, made.keys()[:1], foreign)
    answer = trace(real.keys("train")[:1], [root])
    assert "synthetic/b/shards" in places(answer, "MADE")


def test_combined_masks_leave_it_open(root: str, real: ShardSet) -> None:
    of_model = {"digest": "e" * 64, "data_digest": "d" * 64}
    (one, other) = real.keys("train")[:2]
    write_synthetic(f"{root}/synthetic/c", real, [one], of_model, transforms={"combine": 0.5})
    answer = trace([other], [root])
    assert "synthetic/c/shards" in places(answer, "MAY") and answer.exit_code == 1


def test_an_export_and_a_model_elsewhere_are_found(root: str, real: ShardSet, tmp_path: Path) -> None:
    key = real.keys("train")[0]
    export_folder([real.uri], str(tmp_path / "elsewhere" / "out"))
    shutil.copytree(f"{root}/runs/r/model", tmp_path / "elsewhere" / "model")
    answer = trace([key], [root, str(tmp_path / "elsewhere")])
    told = {of.uri: of.relation for of in answer.trails[0].findings}
    assert told[str(tmp_path / "elsewhere" / "out")] is Relation.HOLDS
    assert told[str(tmp_path / "elsewhere" / "model")] is Relation.TRAINED
    alone = trace([key], [str(tmp_path / "elsewhere" / "model")])
    assert [of.relation for of in alone.trails[0].findings] == [
        Relation.MAY
    ]  # nothing here says what its set held


def test_a_model_that_does_not_say_its_data_is_named_beside_the_answer(root: str) -> None:
    imported = {"model_digest": "c" * 64, "data_digest": None, "license": "MIT", "permitted_use": "any"}
    storage.write_json(f"{root}/imported/siamdiff.json", imported)
    answer = trace([NEVER], [root])
    assert answer.origins == [f"{root}/imported"] and answer.exit_code == 0


@pytest.mark.parametrize(
    "name",
    ["images/patient-00.png", "/at/home/src/images/patient-00.png", "patient-00.png", "images/scan 1.png"],
)
def test_a_file_is_looked_up_in_the_private_map(root: str, real: ShardSet, name: str) -> None:
    (trail,) = trace([name], [root]).trails
    assert trail.key == real.keys()[0]
    assert trail.files == ["images/patient-00.png", "masks/patient-00.png"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ABCDEF0123456789", "neither a key of 16 hex digits nor a file"),
        ("patient-99.png", "neither a key of 16 hex digits nor a file"),
        ("images/blank.png", "was left out when its set was made (empty mask)"),
    ],
)
def test_what_is_neither_a_key_nor_a_known_file_is_refused(
    root: str, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    assert main(["trace", text, "--root", root]) == 2
    assert said in capsys.readouterr().err


def test_a_name_of_several_images_is_refused(
    root: str, real: ShardSet, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"key": key, "image": f"{i}/a.png", "mask": f"{i}/m.png"} for i, key in enumerate(real.keys()[:2])
    ]
    storage.write_bytes(f"{root}/private/data/keys.jsonl", lines(rows))
    assert main(["trace", "a.png", "--root", root]) == 2
    assert "the name of 2 images" in capsys.readouterr().err


def test_an_empty_root_and_no_key_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", NEVER, "--root", str(tmp_path)]) == 2
    assert main(["trace", "--root", str(tmp_path)]) == 2
    assert main(["trace", "--keys", str(tmp_path / "none"), "--root", str(tmp_path)]) == 2
    assert "no key was given" in capsys.readouterr().err


def damage_index(root: Path) -> str:
    (root / "data/index.parquet").write_bytes(b"PAR1")
    return "data/index.parquet"


def lose_a_marker(root: Path) -> str:
    (root / "data/shards/train-000001.json").unlink()
    (root / "data/dataset.json").unlink()
    return "data/shards/train-000001.tar"


def nest_deeply(root: Path) -> str:
    (root / "evaluation/e/metrics.json").write_text("[" * 200_000)
    return "evaluation/e/metrics.json"


def mistype(root: Path) -> str:
    (root / "evaluation/e/metrics.json").write_text(json.dumps({"sets": 1}))
    return "evaluation/e/metrics.json"


def damage_inputs(root: Path) -> str:
    (root / "segmentation/s/inputs.json").write_text("{")
    return "segmentation/s/inputs.json"


def damage_a_log(root: Path) -> str:
    (log, *_) = sorted(root.glob("runs/r/logs/keys/*"))
    log.write_text("[]\n")
    return str(log.relative_to(root))


def cut_features(root: Path) -> str:
    (root / "evaluation/cache/features-1.safetensors").write_bytes(b"\xff" * 20)
    return "evaluation/cache/features-1.safetensors"


def add_something(root: Path) -> str:
    (root / "notes").mkdir()
    (root / "notes/of.docx").write_bytes(b"?")
    return "notes"


@pytest.mark.parametrize(
    "damage",
    [
        damage_index,
        lose_a_marker,
        damage_inputs,
        mistype,
        nest_deeply,
        damage_a_log,
        cut_features,
        add_something,
    ],
)
def test_what_cannot_be_read_or_is_not_known_is_named_and_ends_with_1(
    root: str, capsys: pytest.CaptureFixture[str], damage: Any
) -> None:
    place = damage(Path(root))
    assert main(["trace", NEVER, "--root", root]) == 1
    told = capsys.readouterr().out
    assert "cannot be told:" in told and f"  {root}/{place}: " in told


def test_without_its_index_a_set_is_read_from_its_markers(root: str, real: ShardSet) -> None:
    damage_index(Path(root))
    key = real.keys("train")[0]
    assert places(trace([key], [root]), "HOLDS") == {f"data/shards/{real.row(key).shard}.tar"}


def test_caches_of_earlier_versions_leave_it_open(root: str, real: ShardSet) -> None:
    storage.write_json(f"{root}/synthetic/cache/copies-1.json", {"sha256": "ab" * 32, "limits": {}})
    answer = trace([NEVER], [root])
    assert answer.exit_code == 1
    assert {"synthetic/cache/copies-1.json", "synthetic/cache/copies-abababababababab.safetensors"} == places(
        answer, "MAY"
    )


def test_features_of_one_split_hold_nothing_of_another(root: str, real: ShardSet) -> None:
    write_cache(f"{root}/evaluation/cache/features-2.safetensors", real, real.keys())
    answer = trace(real.keys("val")[:1], [root])
    caches = {place for place in places(answer, "COMPUTED") if "features-" in place}
    assert caches == {"evaluation/cache/features-2.safetensors"}


def test_many_keys_are_answered_at_once_for_people_and_machines(
    root: str, real: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = [real.keys("train")[0], NEVER]
    (tmp_path / "keys").write_text(f"{keys[0]}  # withdrawn\n\n{NEVER}\n")
    told = str(tmp_path / "told.json")
    assert main(["trace", "--keys", str(tmp_path / "keys"), "--root", root, "--json", told]) == 0
    assert "found: 1 of 2 keys" in capsys.readouterr().out
    answer = storage.read_json(told)
    assert list(answer["keys"]) == sorted(keys)
    assert answer["keys"][NEVER]["found"] == []
    assert answer["keys"][keys[0]] == {
        "files": ["images/patient-00.png", "masks/patient-00.png"],
        "found": [of.as_dict() for of in trace(keys[:1], [root]).trails[0].ordered()],
    }
    assert answer["terms"]["permits"] == "non-commercial"  # CC-BY-NC of the synthetic set


def test_a_log_that_names_the_file_is_found_and_a_longer_name_is_another(root: str, real: ShardSet) -> None:
    for name, text in (
        ("a", "masks/patient-00.png is odd"),
        ("b", "images/patient-00.png.bak, xpatient-00.png"),
    ):
        storage.write_bytes(f"{root}/logs/data/{name}.jsonl", lines([{"message": text}]))
    logs = {place for place in places(trace([real.keys()[0]], [root]), "NAMES") if place.startswith("logs")}
    assert "logs/data/a.jsonl" in logs and "logs/data/b.jsonl" not in logs


def test_nothing_is_changed(root: str, real: ShardSet) -> None:
    before = {path: path.stat().st_mtime_ns for path in Path(root).rglob("*")}
    trace(real.keys(), [root])
    assert {path: path.stat().st_mtime_ns for path in Path(root).rglob("*")} == before


def test_one_image_in_two_sets_has_one_key(root: str, real: ShardSet) -> None:
    write_phantoms(f"{root}/other", count=3)
    answer = trace(real.keys("train")[:1], [root])
    assert (
        len(places(answer, "HOLDS") & {f"other/shards/{name}.tar" for name in ("train-000000", "val-000000")})
        <= 1
    )
    assert trace(ShardSet.open(f"{root}/other").keys()[:1], [root]).trails[0].findings


def test_every_kind_is_traced_or_said_to_be_of_no_image(root: str) -> None:
    contents = divide(storage.list_files(root))
    assert contents.unknown == []
    known = {kind.name for kind in all_kinds()}
    assert {kind.name for unit in contents.units for kind in unit.objects} <= known


def test_what_trace_knows_of_other_rooms_is_so() -> None:
    assert (making.PREVIEWED, world.BASE_IMAGES) == (previews.COUNT, bases.MAX_IMAGES)


def test_a_base_that_was_given_is_one_unit_of_weights() -> None:
    names = ("scheduler/scheduler_config.json", "unet/config.json", "vae/diffusion_pytorch_model.safetensors")
    contents = divide({f"some/base/{name}": 1 for name in names})
    assert contents.unknown == []
    assert [(unit.sort, unit.folder) for unit in contents.units] == [("weights", "some/base/"), ("", "")]
