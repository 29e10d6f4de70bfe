"""From pairs to a plan: what is kept, what is left out, and what the sample holds."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from siamdiff.data.duplicates import MAX_DISTANCE, near_pairs, perceptual_hash
from siamdiff.data.pairing import Source, scan
from siamdiff.data.raw import DUPLICATE, Plan, Planned, encode, examine, make_plan
from siamdiff.errors import SiamdiffError, UserError
from siamdiff.sections import Data
from tests.data.raw_folders import image, make_folder, mask


def config(folder: Path | str, **fields: object) -> Data:
    return Data.model_validate({"source": str(folder), "resolution": 32} | fields)


def plan_of(data: Data) -> tuple[Source, Plan]:
    source = scan(data)
    return source, make_plan(
        source.pairs, [examine(source.folder, pair, data) for pair in source.pairs], data
    )


def planned(plan: Plan) -> list[Planned]:
    return [sample for samples in plan.shards.values() for sample in samples]


def test_a_shard_holds_one_split_and_at_most_its_size(tmp_path: Path) -> None:
    make_folder(tmp_path, [f"train_{i}" for i in range(5)] + ["test_0"])
    _, plan = plan_of(config(tmp_path, shard_size=2))
    assert {name: len(samples) for name, samples in plan.shards.items()} == {
        "test-000000": 1,
        "train-000000": 2,
        "train-000001": 2,
        "train-000002": 1,
    }
    assert all(
        sample.split == name.partition("-")[0] for name, found in plan.shards.items() for sample in found
    )
    assert plan.codings == {"0/255": 6} and plan.rejected == []


def test_the_plan_does_not_depend_on_file_names(tmp_path: Path) -> None:
    make_folder(tmp_path / "one", ["a", "b", "c", "d"])
    make_folder(tmp_path / "two", ["z", "y", "x", "w"])
    found = [planned(plan_of(config(tmp_path / name))[1]) for name in ("one", "two")]
    one, two = ([(sample.key, sample.split, sample.group) for sample in samples] for samples in found)
    assert one == two


def test_the_key_does_not_depend_on_the_resolution_and_the_sample_does(tmp_path: Path) -> None:
    make_folder(tmp_path, ["jane_doe"])
    for side in (16, 64):
        data = config(tmp_path, resolution=side, prompt="a polyp")
        source, plan = plan_of(data)
        sample = encode(source.folder, planned(plan)[0], data).decode()
        assert sample.image.shape == (side, side, 3) and set(np.unique(sample.mask)) == {0, 255}
        meta = sample.meta
        assert (meta.width, meta.source_width, meta.source_height, meta.prompt) == (side, 40, 32, "a polyp")
        assert meta.group == meta.key == planned(plan_of(config(tmp_path))[1])[0].key
        assert "jane" not in meta.model_dump_json()


def test_bad_pairs_are_left_out_with_their_reason(tmp_path: Path) -> None:
    make_folder(tmp_path, ["ok", "empty", "torn", "sizes", "blank"])
    (tmp_path / "images/empty.png").write_bytes(b"")
    (tmp_path / "masks/torn.png").write_bytes((tmp_path / "masks/torn.png").read_bytes()[:60])
    image(9, 50, 50).save(tmp_path / "images/sizes.png")
    Image.new("L", (40, 32)).save(tmp_path / "masks/blank.png")
    _, plan = plan_of(config(tmp_path))
    assert {Path(bad.files[0]).stem: bad.reason for bad in plan.rejected} == {
        "empty": "image is empty",
        "torn": "mask cannot be read",
        "sizes": "image and mask differ in size",
        "blank": "mask is empty",
    }
    assert len(planned(plan)) == 1
    assert len(planned(plan_of(config(tmp_path, allow_empty=True))[1])) == 2


def test_a_lesion_that_vanishes_is_empty(tmp_path: Path) -> None:
    make_folder(tmp_path, ["a"])
    image(0, 640, 640).save(tmp_path / "images/a.png")
    dot = Image.new("L", (640, 640))
    dot.putpixel((0, 0), 255)
    dot.save(tmp_path / "masks/a.png")
    assert "vanishes at 32 pixels" in plan_of(config(tmp_path))[1].rejected[0].detail
    assert plan_of(config(tmp_path, resolution=640))[1].rejected == []


def test_of_copies_the_test_sets_is_kept(tmp_path: Path) -> None:
    make_folder(tmp_path, ["train_0"])
    make_folder(tmp_path, ["test_0"])
    make_folder(tmp_path, ["train_1", "train_2"], first_seed=1)
    Image.open(tmp_path / "images/train_1.png").save(tmp_path / "images/train_2.tif")
    (tmp_path / "images/train_2.png").unlink()
    _, plan = plan_of(config(tmp_path))
    assert [(bad.files[0], bad.reason, bad.detail) for bad in plan.duplicates] == [
        ("images/train_0.png", DUPLICATE, "of images/test_0.png"),
        ("images/train_2.tif", DUPLICATE, "of images/train_1.png"),
    ]
    assert sorted(sample.pair.image for sample in planned(plan)) == [
        "images/test_0.png",
        "images/train_1.png",
    ]


def test_near_copies_across_splits_are_listed_and_kept(tmp_path: Path) -> None:
    make_folder(tmp_path, ["train_0", "test_1"])
    image(0).save(tmp_path / "images/test_0.jpg", quality=80)
    mask().save(tmp_path / "masks/test_0.png")
    _, plan = plan_of(config(tmp_path))
    (near,) = plan.near_duplicates
    assert (
        set(near["files"]) == {"images/test_0.jpg", "images/train_0.png"} and near["distance"] <= MAX_DISTANCE
    )
    assert len(planned(plan)) == 3


def test_groups_stay_together_under_a_neutral_name(tmp_path: Path) -> None:
    make_folder(tmp_path, [f"f{i}" for i in range(12)])
    groups = tmp_path / "groups.csv"
    groups.write_text("file,group\n" + "".join(f"f{i},patient{i // 4}\n" for i in range(8)))
    _, plan = plan_of(config(tmp_path, groups=str(groups), split={"train": 0.5, "val": 0.5}))
    by_name: dict[str | None, set[tuple[str, str]]] = {}
    for sample in planned(plan):
        by_name.setdefault(sample.pair.group, set()).add((sample.group, sample.split))
    assert len(by_name["patient0"]) == len(by_name["patient1"]) == 1
    assert len(by_name[None]) == 4
    keys = {sample.key for sample in planned(plan)}
    assert {group for found in by_name.values() for group, _ in found} <= keys


def test_a_pair_that_changes_between_the_passes_is_an_error(tmp_path: Path) -> None:
    make_folder(tmp_path, ["a"])
    data = config(tmp_path)
    source, plan = plan_of(data)
    image(77).save(tmp_path / "images/a.png")
    with pytest.raises(SiamdiffError, match="changed while it was ingested") as error:
        encode(source.folder, planned(plan)[0], data)
    assert not isinstance(error.value, UserError)


def test_a_plan_travels_as_plain_values(tmp_path: Path) -> None:
    make_folder(tmp_path, ["a"])
    sample = planned(plan_of(config(tmp_path))[1])[0]
    assert Planned.from_dict(sample.as_dict()) == sample


def test_phantoms_take_the_same_way() -> None:
    data = config("phantom", count=4)
    source, plan = plan_of(data)
    assert len(planned(plan)) == 4 and plan.codings == {"phantom": 4}
    sample = encode(source.folder, planned(plan)[0], data).decode()
    assert sample.image.shape == (32, 32, 3) and sample.mask.any()


def test_copies_look_the_same_and_others_do_not() -> None:
    pictures = [image(seed, 96, 80) for seed in range(30)]
    hashes = [perceptual_hash(np.array(picture)) for picture in pictures]
    assert list(near_pairs(hashes, [str(i) for i in range(30)])) == []
    buffer = io.BytesIO()
    pictures[3].save(buffer, "JPEG", quality=50)
    copies = [
        Image.open(buffer),
        pictures[3].resize((48, 40)),
        ImageEnhance.Brightness(pictures[3]).enhance(1.1),
    ]
    for copy in copies:
        hashes.append(perceptual_hash(np.array(copy)))
    parts = ["train"] * 30 + ["test"] * 3
    assert [(i, j) for i, j, _ in near_pairs(hashes, parts)] == [(3, 30), (3, 31), (3, 32)]
    assert list(near_pairs([], [])) == []


def test_known_near_copies_of_kvasir_are_found(shared: Path) -> None:
    names = [
        "train_0459",
        "train_0620",
        "train_0510",
        "train_0593",
        *(f"validation_{i:04d}" for i in range(20)),
    ]
    paths = [shared / "data/kvasir_seg/images" / f"{name}.jpg" for name in names]
    hashes = [perceptual_hash(np.array(Image.open(path))) for path in paths]
    assert [(i, j) for i, j, _ in near_pairs(hashes, names)] == [(0, 1), (2, 3)]
