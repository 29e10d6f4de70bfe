"""nnU-Net's raw data sets, read by nnU-Net's own code, and the split that keeps synthetic cases out of validation."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from siamdiff.__main__ import main
from siamdiff.data.sample import Foreign, make_sample
from siamdiff.data.shards import write_shard
from siamdiff.data.shardset import ShardSet, finish_set
from siamdiff.errors import UserError
from siamdiff.export.nnunet import export_nnunet
from tests.export.conftest import SIDE, Sets, photographs, real_samples, write_real, write_synthetic

NNUNET = Path(sys.prefix) / "nnunet"

# What nnU-Net's planner asks of a raw data set before anything else, by its own functions.
READ = """
import json, sys
import numpy as np
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

reader, found = NaturalImage2DIO(), {}
for case, files in get_filenames_of_train_images_and_targets(sys.argv[1]).items():
    image, of_image = reader.read_images(files["images"])
    label, of_label = reader.read_seg(files["label"])
    np.savez(f"{sys.argv[2]}/{case}.npz", image=image, label=label)
    found[str(case)] = of_image == of_label
print("found", json.dumps(found))
"""


def content(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


def cases(folder: Path) -> dict[str, dict[str, Any]]:
    """Lines of metadata.jsonl by case."""
    read = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    return {Path(line["mask"]).stem: line for line in read}


@pytest.fixture(scope="module")
def exported(sets: Sets, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nnUNet_raw") / "Dataset501_Polyps"
    export_nnunet([sets.real, sets.synthetic], str(folder))
    return folder


def test_nnunet_reads_every_case_as_it_lies_in_the_shards(sets: Sets, exported: Path, tmp_path: Path) -> None:
    if not NNUNET.is_dir():
        pytest.skip(f"{NNUNET} is missing; make setup")
    done = subprocess.run(
        [sys.executable, "-c", READ, str(exported), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(NNUNET)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1].removeprefix("found"))
    about = content(exported, "dataset.json")
    assert len(found) == about["numTraining"] == 8 + 12 and all(found.values())
    shard_sets = {one.manifest.kind: one for one in map(ShardSet.open, (sets.real, sets.synthetic))}
    for case in found:
        kind, _, key = case.partition("_")
        sample = shard_sets[kind].read(key)
        with np.load(tmp_path / f"{case}.npz") as arrays:
            assert np.array_equal(arrays["image"], sample.image.transpose(2, 0, 1)[:, None])
            assert np.array_equal(arrays["label"], (sample.mask // 255)[None, None])
            assert set(np.unique(arrays["label"])) == set(about["labels"].values())
    assert len(about["channel_names"]) == 3


def test_test_samples_are_kept_apart_with_their_labels(exported: Path) -> None:
    images = {path.name.removesuffix("_0000.png") for path in (exported / "imagesTs").iterdir()}
    assert images == {path.stem for path in (exported / "labelsTs").iterdir()} and len(images) == 2
    assert {cases(exported)[case]["split"] for case in images} == {"test"}
    assert not images & {case for split in content(exported, "splits_final.json") for case in split["train"]}


def test_the_split_of_the_set_is_kept_and_synthetic_cases_only_train(exported: Path) -> None:
    (split,) = content(exported, "splits_final.json")
    told = cases(exported)
    assert {(told[case]["kind"], told[case]["split"]) for case in split["val"]} == {("real", "val")}
    assert {told[case]["split"] for case in split["train"]} == {"train"}
    assert sorted(told[case]["kind"] for case in split["train"]) == ["real"] * 6 + ["synthetic"] * 12


def folds_of(folder: Path) -> None:
    """What holds of any number of folds: groups undivided, every real case validated once, nothing leaks."""
    told = cases(folder)
    validated: list[str] = []
    for split in content(folder, "splits_final.json"):
        seen = {told[case]["group"] for case in split["val"]}
        assert {told[case]["kind"] for case in split["val"]} == {"real"}
        assert not seen & {told[case]["group"] for case in split["train"]}
        left = {case for case, line in told.items() if line["split"] != "test" and line["group"] not in seen}
        assert set(split["train"]) == left
        validated += split["val"]
    assert sorted(validated) == sorted(
        case for case, line in told.items() if line["kind"] == "real" and line["split"] != "test"
    )


def test_folds_divide_no_group_and_leave_out_what_shows_a_validated_mask(sets: Sets, tmp_path: Path) -> None:
    export_nnunet([sets.real, sets.synthetic], str(tmp_path / "Dataset001_P"), folds=3)
    assert len(content(tmp_path / "Dataset001_P", "splits_final.json")) == 3
    folds_of(tmp_path / "Dataset001_P")


def test_a_set_without_val_is_dealt_to_five_folds(shared: Path, tmp_path: Path) -> None:
    samples = real_samples(shared / "data/kvasir_seg", ("train",) * 10)
    real = write_real(str(tmp_path / "real"), samples)
    synthetic = write_synthetic(str(tmp_path / "synthetic"), samples, real)
    export_nnunet([real.uri, synthetic.uri], str(tmp_path / "Dataset001_P"))
    assert len(content(tmp_path / "Dataset001_P", "splits_final.json")) == 5
    folds_of(tmp_path / "Dataset001_P")


def test_images_without_a_mask_are_left_out(sets: Sets, shared: Path, tmp_path: Path) -> None:
    """Their stored mask is empty, which a network would take for an image without a lesion."""
    image, _ = next(photographs(shared / "data/kvasir_seg"))
    foreign = make_sample(
        image, np.zeros((SIDE, SIDE), np.uint8), prompt="a polyp", split="train", group=None,
        source_size=(SIDE, SIDE), image_format="png", synthetic=Foreign(method="other", has_mask=False),
    )  # fmt: skip
    uri = str(tmp_path / "other")
    write_shard(uri, "train-000000", [foreign])
    finish_set(
        uri, ["train-000000"], kind="synthetic", resolution=SIDE, demo=False, license="", permitted_use="",
        made_from={},
    )  # fmt: skip
    counts = export_nnunet([sets.real, uri], str(tmp_path / "Dataset001_P"))
    assert counts["imagesTr"] == 8 and sum(counts.values()) == 11


def test_every_picture_is_png(exported: Path) -> None:
    for path in exported.rglob("*_0000.png"):
        with Image.open(path) as image:
            assert (image.format, image.mode) == ("PNG", "RGB")


def test_what_nnunet_could_not_use_is_refused(
    sets: Sets, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = str(tmp_path / "Dataset001_P")
    for arguments, says in (
        ([sets.real, "--to", str(tmp_path / "polyps")], "call the folder DatasetNNN_NAME"),
        ([sets.synthetic, "--to", good], "no real samples of train or val"),
        ([sets.real, "--to", good, "--folds", "8"], "8 real samples in 7 groups cannot be dealt to 8 folds"),
        ([sets.real, "--to", good, "--folds", "0"], "cannot be dealt to 0 folds"),
    ):
        assert main(["export", *arguments, "--format", "nnunet"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert says in line
    assert list(tmp_path.iterdir()) == []


def test_a_set_of_val_alone_must_be_dealt_anew(shared: Path, tmp_path: Path) -> None:
    real = write_real(str(tmp_path / "real"), real_samples(shared / "data/kvasir_seg", ("val",) * 10))
    with pytest.raises(UserError, match="only of val"):
        export_nnunet([real.uri], str(tmp_path / "Dataset001_P"))
    export_nnunet([real.uri], str(tmp_path / "Dataset001_P"), folds=2)
