"""Every layout in which people keep images and masks: a small set of real files each, recognised, read and stored."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy import ndimage

from siamdiff.data.layouts.pairs import Pair
from siamdiff.data.pairing import Source, scan
from siamdiff.data.raw import Plan, Planned, encode, examine, make_plan
from siamdiff.data.sample import Sample
from siamdiff.errors import UserError
from siamdiff.sections import Data
from tests.data.raw_folders import image, make_folder, mask


def settings(source: Path, **fields: object) -> Data:
    return Data.model_validate({"source": str(source), "resolution": 32} | fields)


def ingested(source: Path, **fields: object) -> tuple[Source, Plan, list[Sample]]:
    """What the stage makes of a source, without Ray."""
    data = settings(source, **fields)
    found = scan(data)
    plan = make_plan(found.pairs, [examine(found.folder, pair, data) for pair in found.pairs], data)
    planned: list[Planned] = [sample for samples in plan.shards.values() for sample in samples]
    return found, plan, [encode(found.folder, sample, data).decode() for sample in planned]


def save(folder: Path, pictures: Mapping[str, Image.Image]) -> Path:
    for name, picture in pictures.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(folder / name)
    return folder


def reasons(source: Source) -> list[tuple[str, str]]:
    return sorted((bad.reason, bad.files[0]) for bad in source.rejected)


# PraNet


@pytest.fixture
def pranet(tmp_path: Path) -> Path:
    folders = [("TrainDataset", "image", "mask"), ("TestDataset/CVC-300", "images", "masks")]
    folders += [("TestDataset/TestDataset/Kvasir", "images", "masks")]  # as some tools unpack the archive
    pictures = {}
    for number, (folder, images, masks) in enumerate(folders):
        for i in range(2):
            pictures[f"{folder}/{images}/{i}.png"] = image(10 * number + i)
            pictures[f"{folder}/{masks}/{i}.png"] = mask()
    return save(tmp_path / "polyps", pictures)


def test_pranets_test_sets_keep_their_names(pranet: Path) -> None:
    source, plan, samples = ingested(pranet)
    assert source.layout == "pranet" and plan.rejected == source.rejected == []
    assert sorted((s.meta.split, str(s.meta.subset)) for s in samples) == [
        ("test", "CVC-300"), ("test", "CVC-300"), ("test", "Kvasir"), ("test", "Kvasir"),
        ("train", "None"), ("train", "None"),
    ]  # fmt: skip


def test_a_training_part_alone_is_dealt_by_shares(pranet: Path) -> None:
    for path in (pranet / "TestDataset").rglob("*.png"):
        path.unlink()
    assert {pair.split for pair in scan(settings(pranet)).pairs} == {None}
    inside = scan(settings(pranet / "TrainDataset"))
    assert inside.layout == "folder" and len(inside.pairs) == 2


# ISIC


def isic(folder: Path, images: str, masks: str, ids: range, extra: str = "") -> Path:
    pictures: dict[str, Image.Image] = {}
    for i in ids:
        pictures[f"{images}/ISIC_{i:07d}{extra}.jpg"] = image(i)
        pictures[f"{masks}/ISIC_{i:07d}{extra}_{'Ss'[i % 2]}egmentation.png"] = mask()
    return save(folder, pictures)


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (
            [
                ("ISBI2016_ISIC_Part1_Training_Data", "ISBI2016_ISIC_Part1_Training_GroundTruth"),
                ("ISBI2016_ISIC_Part1_Test_Data", "ISBI2016_ISIC_Part1_Test_GroundTruth"),
            ],
            ["train", "test"],
        ),
        (
            [
                ("ISIC-2017_Validation_Data", "ISIC-2017_Validation_Part1_GroundTruth"),
                ("ISIC-2017_Test_v2_Data", "ISIC-2017_Test_v2_Part1_GroundTruth"),
            ],
            ["val", "test"],
        ),
        (
            [
                ("ISIC2018_Task1-2_Training_Input", "ISIC2018_Task1_Training_GroundTruth"),
                ("ISIC2018_Task1-2_Validation_Input", "ISIC2018_Task1_Validation_GroundTruth"),
            ],
            ["train", "val"],
        ),
        ([("all", "all")], [None]),
        ([("images", "masks")], [None]),
    ],
)
def test_isic_in_the_folders_of_its_archives_or_any(
    tmp_path: Path, folders: list[tuple[str, str]], splits: list[str | None]
) -> None:
    for number, (images, masks) in enumerate(folders):
        isic(tmp_path, images, masks, range(2 * number, 2 * number + 2))
    # what lies beside them in the archives
    save(tmp_path, {f"{folders[0][0]}/ISIC_0000000_superpixels.png": image(7)})
    (tmp_path / folders[0][0] / "ISIC-2017_Training_Data_metadata.csv").write_text("image_id,sex\n")
    source, plan, samples = ingested(tmp_path)
    assert source.layout == "isic" and source.rejected == plan.rejected == []
    assert [pair.split for pair in sorted(source.pairs, key=lambda p: p.image[-11:])] == [
        split for split in splits for _ in range(2)
    ]
    assert len(samples) == 2 * len(folders)


def test_an_id_of_two_challenges_is_paired_within_each(tmp_path: Path) -> None:
    isic(tmp_path, "ISIC-2017_Training_Data", "ISIC-2017_Training_Part1_GroundTruth", range(2))
    isic(tmp_path, "ISIC2018_Task1-2_Training_Input", "ISIC2018_Task1_Training_GroundTruth", range(1, 3))
    (tmp_path / "ISIC-2017_Training_Data/ISIC_0000000.jpg").unlink()
    source, plan, samples = ingested(tmp_path)
    assert [(pair.image[-16:], pair.subset) for pair in source.pairs] == [
        ("ISIC_0000001.jpg", "ISIC2017"), ("ISIC_0000001.jpg", "ISIC2018"), ("ISIC_0000002.jpg", "ISIC2018"),
    ]  # fmt: skip
    assert [reason for reason, _ in reasons(source)] == ["mask without image"]
    assert len(plan.duplicates) == 1 and len(samples) == 2


# nnU-Net

LABELS = {"background": 0, "polyp": 1, "instrument": 2}


def label_map(*values: int) -> Image.Image:
    """A background of 0 with a square of each value."""
    array = np.zeros((32, 40), np.uint8)
    for i, value in enumerate(values):
        array[8:16, 8 * i : 8 * i + 8] = value
    return Image.fromarray(array)


def describe(folder: Path, labels: object = None, **fields: object) -> None:
    content = {
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": LABELS if labels is None else labels,
        "numTraining": 2,
        "file_ending": ".png",
    }
    (folder / "dataset.json").write_text(json.dumps(content | fields))


@pytest.fixture
def nnunet(tmp_path: Path) -> Path:
    folder = save(
        tmp_path / "Dataset120_Polyps",
        {
            "imagesTr/a_1_0000.png": image(1),
            "labelsTr/a_1.png": label_map(1, 2),
            "imagesTr/b_0000.png": image(2),
            "labelsTr/b.png": label_map(1),
            "imagesTs/c_0000.png": image(3),
        },
    )
    describe(folder)
    return folder


def test_nnunet_takes_all_labels_or_those_chosen(nnunet: Path) -> None:
    for chosen, area in ((None, 128), ((1, 2), 128), ((1,), 64), ((2,), 64)):
        fields = {} if chosen is None else {"foreground": chosen}
        source, plan, samples = ingested(nnunet, **fields)
        assert source.layout == "nnunet" and source.rejected == []
        sizes = sorted(int((s.mask > 0).sum()) * 40 // 32 for s in samples)
        assert max(sizes) == pytest.approx(area, abs=12)
        assert plan.codings == {"labels": len(samples)}
    assert [(bad.files[0], bad.reason) for bad in plan.rejected] == [("imagesTr/b_0000.png", "mask is empty")]


def test_nnunets_test_images_count_where_they_have_labels(nnunet: Path) -> None:
    assert {pair.split for pair in scan(settings(nnunet)).pairs} == {None}
    save(nnunet, {"labelsTs/c.png": label_map(2)})
    found = [(pair.image, pair.split) for pair in scan(settings(nnunet)).pairs]
    assert found == [
        ("imagesTr/a_1_0000.png", "train"),
        ("imagesTr/b_0000.png", "train"),
        ("imagesTs/c_0000.png", "test"),
    ]


def test_nnunets_colours_may_lie_in_three_files(nnunet: Path) -> None:
    for number, plane in enumerate(image(2).split()):
        plane.save(nnunet / f"imagesTr/b_{number:04d}.png")
    _, plan, samples = ingested(nnunet, resolution=32)
    assert plan.rejected == [] and len(samples) == 2
    (pair,) = (pair for pair in scan(settings(nnunet)).pairs if pair.planes)
    assert pair.files() == [f"imagesTr/b_{i:04d}.png" for i in range(3)] + ["labelsTr/b.png"]
    assert Pair(**json.loads(json.dumps(pair.__dict__, default=vars))) == pair, "it travels as JSON"
    whole = image(2).resize((32, 32), Image.Resampling.BICUBIC)
    assert any(np.array_equal(sample.image, np.array(whole)) for sample in samples)
    (nnunet / "imagesTr/b_0002.png").unlink()
    assert reasons(scan(settings(nnunet))) == [("image of other channels", "imagesTr/b_0000.png")]


def test_nnunets_regions_and_ignored_pixels(nnunet: Path) -> None:
    describe(nnunet, {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}, regions_class_order=[1, 2])
    label_map(1, 3).save(nnunet / "labelsTr/b.png")
    source, plan, _ = ingested(nnunet)
    assert [(bad.reason, bad.detail) for bad in plan.rejected] == [
        ("mask is partly ignored", "5.0% of its pixels, at most 1%")
    ]
    assert source.pairs[0].labels is not None and source.pairs[0].labels.lesion == (1, 2)
    label_map(1, 5).save(nnunet / "labelsTr/b.png")
    assert ingested(nnunet)[1].rejected[0].reason == "mask holds unknown labels"


def test_nnunets_other_choice_is_another_source(nnunet: Path) -> None:
    prints = [scan(settings(nnunet, foreground=labels)).fingerprint for labels in ((1,), (2,))]
    assert prints[0] != prints[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"foreground": (3,)}, r"data\.foreground 3: the labels of .* are polyp \[1\], instrument \[2\]"),
        ({"foreground": (1, 7)}, r"data\.foreground 1,7: .* choose among these numbers"),
        ({"labels": {"background": 0}}, r"the labels of .* are none but the background"),
        ({"labels": {"0": "background", "1": "polyp"}}, r"is not nnU-Net v2's: labels\.0.*convert"),
        ({"file_ending": ".nii.gz"}, r"file_ending '\.nii\.gz' cannot be read; 2D images in \.png, \.tif"),
        ({"text": "{"}, "is not valid JSON"),
        ({"text": "[]"}, "is not nnU-Net v2's: content: "),
        ({"text": None}, r"has imagesTr/ and labelsTr/, but no dataset\.json"),
    ],
)
def test_a_wrong_nnunet_description_is_one_line(
    nnunet: Path, change: dict[str, object], message: str
) -> None:
    chosen = {name: change[name] for name in ("foreground",) if name in change}
    describe(nnunet, **{name: value for name, value in change.items() if name not in ("foreground", "text")})
    if isinstance(change.get("text", ""), str) and "text" in change:
        (nnunet / "dataset.json").write_text(str(change["text"]))
    elif "text" in change:
        (nnunet / "dataset.json").unlink()
    with pytest.raises(UserError, match=message) as error:
        scan(settings(nnunet, **chosen))
    assert "\n" not in str(error.value)


# Hugging Face


def table(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_huggingfaces_tables(tmp_path: Path, suffix: str) -> None:
    for number, split in enumerate(("train", "validation", "test")):
        save(tmp_path / split, {"0.png": image(number), "m/0.png": mask()})
        row: dict[str, object] = {"file_name": "0.png", "mask_file_name": "m/0.png", "text": f"polyp {split}"}
        table(tmp_path / split / f"metadata.{suffix}", [row])
    source, plan, samples = ingested(tmp_path)
    assert source.layout == "huggingface" and source.rejected == plan.rejected == []
    assert sorted((s.meta.split, s.meta.prompt) for s in samples) == [
        ("test", "polyp test"), ("train", "polyp train"), ("val", "polyp validation"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"file_name": "0.png", "label": "m.png", "class": "polyp"}, None),
        ({"file_name": "0.png", "target_file_name": "m.png"}, None),
        ({"image_file_name": "0.png", "mask_file_name": "m.png", "depth_file_name": "d.png"}, None),
        ({"file_name": "0.png", "label": "polyp"}, "none is clearly that of masks; call them file_name and"),
        (
            {"file_name": "0.png", "a_file_name": "m.png", "b_file_name": "m.png"},
            r"a_file_name or b_file_name",
        ),
        ({"name": "0.png", "mask_file_name": "m.png"}, "none is clearly that of images"),
    ],
)
def test_huggingfaces_columns(tmp_path: Path, row: dict[str, object], fault: str | None) -> None:
    save(tmp_path, {"0.png": image(0), "m.png": mask()})
    table(tmp_path / "metadata.jsonl", [row])
    if fault is None:
        assert [(pair.image, pair.mask) for pair in scan(settings(tmp_path)).pairs] == [("0.png", "m.png")]
    else:
        with pytest.raises(UserError, match=fault):
            scan(settings(tmp_path))


def test_huggingfaces_rows_without_files_are_listed(tmp_path: Path) -> None:
    save(tmp_path / "dev", {"0.png": image(0), "1.png": image(1), "m.png": mask()})
    rows: list[dict[str, object]] = [
        {"file_name": "0.png", "mask_file_name": "m.png"},
        {"file_name": "1.png", "mask_file_name": None},
        {"file_name": "1.png", "mask_file_name": "none.png"},
        {"file_name": "2.png", "mask_file_name": "m.png"},
        {"file_name": "../0.png", "mask_file_name": "m.png"},
    ]
    table(tmp_path / "dev/metadata.jsonl", rows)
    source = scan(settings(tmp_path))
    assert [(pair.image, pair.split) for pair in source.pairs] == [("dev/0.png", "val")]
    assert [reason for reason, _ in reasons(source)] == [
        "image without mask", "image without mask", "missing image", "path leaves the file's folder",
    ]  # fmt: skip
    (tmp_path / "dev/metadata.jsonl").write_text("no json")
    with pytest.raises(UserError, match=r"metadata\.jsonl cannot be read"):
        scan(settings(tmp_path))


# Which layout it is


def test_a_source_in_no_layout_says_what_was_looked_for(tmp_path: Path) -> None:
    save(tmp_path, {"photos/a.png": image(0), "segmentations/a.png": mask()})
    with pytest.raises(UserError) as error:
        scan(settings(tmp_path))
    for layout in ("folder", "lines", "pranet", "isic", "nnunet", "huggingface"):
        assert layout in str(error.value)
    assert "\n" not in str(error.value)


def test_two_layouts_that_find_pairs_are_not_guessed_between(tmp_path: Path) -> None:
    make_folder(tmp_path, ["a"])
    table(tmp_path / "metadata.csv", [{"file_name": "images/a.png", "age": "40"}])
    assert scan(settings(tmp_path)).layout == "folder", "a table without masks"
    table(tmp_path / "metadata.csv", [{"file_name": "images/a.png", "mask_file_name": "masks/a.png"}])
    with pytest.raises(UserError, match=r"fits the layouts folder and huggingface; name one as data\.layout"):
        scan(settings(tmp_path))
    for layout in ("folder", "huggingface"):
        assert scan(settings(tmp_path, layout=layout)).layout == layout


@pytest.mark.parametrize("layout", ["pranet", "isic", "nnunet", "huggingface"])
def test_a_layout_that_the_source_has_not_is_refused(tmp_path: Path, layout: str) -> None:
    make_folder(tmp_path, ["a"])
    with pytest.raises(
        UserError, match=rf"is not laid out as data\.layout {layout}: there are no .*; give auto"
    ):
        scan(settings(tmp_path, layout=layout))


def test_files_and_folders_are_told_apart(tmp_path: Path) -> None:
    make_folder(tmp_path, ["a"])
    line = {"source": "masks/a.png", "target": "images/a.png", "prompt": ""}
    (tmp_path / "prompt.json").write_text(json.dumps(line))
    assert scan(settings(tmp_path / "prompt.json", layout="lines")).layout == "lines"
    with pytest.raises(UserError, match=r"data\.layout lines needs a \.json or \.jsonl file"):
        scan(settings(tmp_path, layout="lines"))
    with pytest.raises(UserError, match=r"data\.layout isic is that of a folder"):
        scan(settings(tmp_path / "prompt.json", layout="isic"))


def test_labels_are_chosen_in_nnunet_sets_only(tmp_path: Path) -> None:
    make_folder(tmp_path, ["a"])
    with pytest.raises(UserError, match=r"data\.foreground chooses labels of nnunet sets, .* as folder"):
        scan(settings(tmp_path, foreground=(1,)))
    with pytest.raises(UserError, match="phantoms have no foreground"):
        scan(Data(foreground=(1,)))


# Real data


def test_several_objects_in_a_mask_survive(shared: Path) -> None:
    folder = shared / "data/dsb2018_stained"
    data = Data(source=str(folder), resolution=256)
    source = scan(data)
    assert source.layout == "folder" and source.rejected == []
    for pair in source.pairs[::20]:
        record = examine(source.folder, pair, data)
        planned = Planned(pair, record.key, "train", record.key)
        sample = encode(source.folder, planned, data).decode()
        raw = np.array(Image.open(folder / pair.mask).convert("L"))
        before, after = (int(np.max(ndimage.label(m)[0])) for m in (raw > 127, sample.mask > 0))
        assert before > 1 and after >= 0.8 * before
