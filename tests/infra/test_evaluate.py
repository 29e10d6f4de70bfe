"""Evaluation on a real local Ray: figures, sheet and samples beside each other, made once."""

import io
import json
import logging

import numpy as np
import pytest
from PIL import Image

from infra.evaluate import evaluate
from infra.experiment import experiment
from siamdiff import storage
from siamdiff.config import Config
from siamdiff.data.phantom import render_phantom
from siamdiff.data.sample import Foreign, Synthetic, make_sample
from siamdiff.data.shards import shard_name, tar_uri, write_shard
from siamdiff.data.shardset import ShardSet, finish_set, verify
from siamdiff.errors import SiamdiffError, UserError
from siamdiff.evaluation.distances import frechet_distance
from siamdiff.evaluation.extractors import find
from siamdiff.evaluation.features import EfficientNetLite0
from siamdiff.evaluation.perceptual import Lpips
from tests.evaluation.small_networks import save_clip, save_lpips

SIDE = 32
COUNTS = {"train": 10, "val": 3}
FIRST_INDEX = {"train": 0, "val": 100}
SYNTHETIC = 6


def configure(root, **settings):
    return Config(root=root, data={"source": "polyps"}, evaluate={"agreement_steps": 3, **settings}).resolve()


def write_real(uri, side=SIDE, counts=COUNTS):
    for split, count in counts.items():
        samples = []
        for index in range(count):
            image, mask = render_phantom(seed=0, index=FIRST_INDEX[split] + index, size=side)
            about = {"prompt": "a polyp", "split": split, "group": None, "source_size": (side, side)}
            samples.append(make_sample(image, mask, image_format="png", **about))
        write_shard(uri, shard_name(split, 0), samples)
    return finish(uri, [shard_name(split, 0) for split in counts], "real", side)


def write_synthetic(uri, real):
    samples = []
    for index, parent in enumerate(real.keys("train")[:SYNTHETIC]):
        image, _ = render_phantom(seed=1, index=index, size=SIDE)
        origin = Synthetic(parent=parent, fold=0, transform={}, seed=index, model_digest="m", sampler={})
        mask = real.read(parent).mask
        about = {"prompt": "a polyp", "split": "train", "group": None, "source_size": (SIDE, SIDE)}
        samples.append(make_sample(image, mask, image_format="png", synthetic=origin, **about))
    write_shard(uri, shard_name("fold0", 0), samples)
    return finish(uri, [shard_name("fold0", 0)], "synthetic", SIDE)


def finish(uri, names, kind, side):
    finish_set(
        uri,
        names,
        kind=kind,
        resolution=side,
        demo=False,
        license="CC-BY-4.0",
        permitted_use="research",
        made_from={},
    )
    return ShardSet.open(uri)


@pytest.fixture(scope="module")
def root(s3):
    """A root in the store with a real set and a synthetic one that generation left as the latest."""
    root = s3.new_root()
    real = write_real(storage.join(root, "data"))
    synthetic = write_synthetic(storage.join(root, "synthetic", "plan"), real)
    storage.write_json(storage.join(root, "synthetic", "latest.json"), {"uri": synthetic.uri})
    return root


def folder_of(root):
    folder = storage.join(root, "evaluation")
    (name,) = {file.partition("/")[0] for file in storage.list_files(folder) if "/" in file} - {"cache"}
    return storage.join(folder, name)


def lines_of(uri):
    return [json.loads(line) for line in storage.read_bytes(uri).splitlines()]


@pytest.mark.soak
@pytest.mark.cluster
def test_an_evaluation_is_complete_and_made_once(ray, root, tmp_path, caplog):
    real, synthetic = (ShardSet.open(storage.join(root, *name)) for name in (["data"], ["synthetic", "plan"]))
    caplog.set_level(logging.INFO)
    clip = f"clip={save_clip(tmp_path / 'clip')}"
    config = configure(
        root,
        extractors=["efficientnet-lite0", clip, f"lpips-squeezenet={save_lpips(tmp_path)}"],
        resamples=20,
    )
    evaluate(config, demo=False)
    assert "mask agreement (Dice)" in caplog.text and "on held-out real images" in caplog.text

    output = folder_of(root)
    assert set(storage.list_files(output)) == {
        "metrics.json", "table.csv", "table.tex", "contact_sheet-synthetic.png", "agreement.jsonl", "copies.jsonl",
        "tsne.jsonl", "nearest-synthetic.png", "config.yaml", "status.json",
    }  # fmt: skip
    metrics = storage.read_json(storage.join(output, "metrics.json"))
    assert metrics["sets"]["real"]["digest"] == real.digest
    assert metrics["sets"]["synthetic"]["synthetic"]["digest"] == synthetic.digest
    assert metrics["sets"]["synthetic"]["synthetic"]["license"] == "CC-BY-4.0"
    assert (metrics["demo"], metrics["inputs"]["agreement_steps"]) == (False, 3)
    result = metrics["results"]["synthetic"]
    assert result["mask_agreement"]["n_synthetic"] == SYNTHETIC
    assert result["mask_agreement"]["n_real"] == COUNTS["val"]
    assert any("6 samples for 1280 feature dimensions" in warning for warning in metrics["warnings"])

    frechet, mmd, *_ = result["figures"]
    assert (frechet["name"], mmd["name"]) == ("frechet_efficientnet_lite0", "mmd_linear_efficientnet_lite0")
    assert (frechet["n_reference"], frechet["n_synthetic"]) == (COUNTS["train"], SYNTHETIC)
    extract = EfficientNetLite0()
    by_hand = frechet_distance(
        *(extract(np.stack([of.read(key).image for key in of.keys("train")])) for of in (synthetic, real))
    )
    assert frechet["value"] == pytest.approx(by_hand, rel=1e-4)
    figures = {figure["name"]: figure for figure in result["figures"]}
    of_clip = find("clip", clip.partition("=")[2]).spec.label
    for name, count in (
        (f"cmmd_{of_clip}", COUNTS["train"]),
        (f"clip_i_{of_clip}", 6),
        ("lpips_squeezenet", 6),
    ):
        assert (figures[name]["n_synthetic"], figures[name]["n_reference"]) == (SYNTHETIC, count)
        assert np.isfinite(figures[name]["value"]) and figures[name]["floor"] is not None
    keys = synthetic.keys()
    pairs = [(synthetic.read(key).image, real.read(synthetic.row(key).parent).image) for key in keys]
    lpips = Lpips("squeezenet", tmp_path / "features.pth", tmp_path / "heads.pth")
    by_hand = lpips(*(np.stack(images) for images in zip(*pairs, strict=True)))
    assert figures["lpips_squeezenet"]["value"] == pytest.approx(by_hand.mean(), rel=1e-4)

    lines = lines_of(storage.join(output, "agreement.jsonl"))
    assert [line["key"] for line in lines] == keys
    lines = lines_of(storage.join(output, "copies.jsonl"))
    assert [line["key"] for line in lines] == keys
    assert result["copies"]["count"] == sum(line["copy"] for line in lines)
    assert (
        len(result["copies"]["nearest"]) == SYNTHETIC
        and result["copies"]["limits"]["images"] == COUNTS["train"]
    )
    points = lines_of(storage.join(output, "tsne.jsonl"))
    places = {"real": real.keys("train"), "synthetic": keys}
    assert [(at["set"], at["key"]) for at in points] == [
        (name, key) for name in places for key in places[name]
    ]
    assert np.isfinite([(at["x"], at["y"]) for at in points]).all()
    told = {name: metrics["tsne"][name] for name in ("extractor", "perplexity", "seed", "counts")}
    counts = {"real": COUNTS["train"], "synthetic": SYNTHETIC}
    assert told == {"extractor": "efficientnet-lite0", "perplexity": 5.0, "seed": 0, "counts": counts}
    sheet = Image.open(io.BytesIO(storage.read_bytes(storage.join(output, result["contact_sheet"]))))
    nearest = Image.open(io.BytesIO(storage.read_bytes(storage.join(output, result["nearest_sheet"]))))
    assert nearest.width > 1000
    assert sheet.width > 1000 and len(np.unique(np.asarray(sheet))) > 50

    caplog.clear()
    evaluate(config, demo=False)
    assert "evaluated already" in caplog.text and "mask agreement (Dice)" in caplog.text
    assert storage.read_json(storage.join(output, "metrics.json")) == metrics
    with pytest.raises(UserError, match="other sets or settings"):
        evaluate(configure(root, output=output, seed=5), demo=False)


def write_folder(folder, count, has_masks=True, size=(48, 40), first=0):
    """Another method's images as files; the last is a copy of the first."""
    for index in range(count):
        image, mask = render_phantom(seed=2, index=first + index % (count - 1), size=SIDE)
        arrays = {"images": image, "masks": mask} if has_masks else {"": image}
        for kind, array in arrays.items():
            (folder / kind).mkdir(parents=True, exist_ok=True)
            resized = Image.fromarray(array).resize(size, Image.Resampling.NEAREST)
            resized.save(folder / kind / f"sample_{index}.png")
    return str(folder)


@pytest.mark.soak
@pytest.mark.cluster
def test_sets_of_any_origin_are_compared_in_one_table(ray, tmp_path, caplog):
    root = str(tmp_path / "root")
    real = write_real(storage.join(root, "data"))
    ours = write_synthetic(storage.join(root, "synthetic", "plan"), real)
    other = write_folder(tmp_path / "other", 6)
    bare = write_folder(tmp_path / "bare", 4, has_masks=False, size=(SIDE, SIDE))
    sets = {"ours": ours.uri, "twin": ours.uri, "Other Net": other, "bare": bare}
    caplog.set_level(logging.INFO)
    evaluate(configure(root, synthetic=sets), demo=False)

    output = folder_of(root)
    metrics = storage.read_json(storage.join(output, "metrics.json"))
    results = metrics["results"]
    assert [row["set"] for row in metrics["table"]] == ["Other Net", "bare", "ours", "twin"]
    for field in ("figures", "mask_agreement", "shown"):
        assert results["ours"][field] == results["twin"][field]
    assert results["Other Net"]["figures"][0]["n_synthetic"] == 5
    assert results["Other Net"]["left_out"] == {"exact duplicate": 1}
    assert results["Other Net"]["source_sizes"] == {"48 x 40": 5}
    assert "Other Net: 5 of 5 images were resized to 32 x 32 pixels (squash)" in metrics["warnings"]
    assert results["bare"]["mask_agreement"] is None and results["bare"]["figures"][0]["n_synthetic"] == 3
    assert "bare: its images came without masks: there is no mask agreement" in metrics["warnings"]
    assert any("different numbers of images" in warning for warning in metrics["warnings"])
    agreements = [results[name]["mask_agreement"] for name in ("ours", "Other Net")]
    assert agreements[0]["real"] == agreements[1]["real"]  # one segmenter judges all
    files = storage.list_files(output)
    assert {f"contact_sheet-{name}.png" for name in ("Other_Net", "bare", "ours", "twin")} <= files.keys()
    lines = storage.read_bytes(storage.join(output, "table.csv")).decode().splitlines()
    assert len(lines) == 5 and lines[1].startswith("Other Net,5,")

    described = metrics["sets"]["synthetic"]["Other Net"]
    assert described["origin"] == {"method": "Other Net", "has_mask": True}
    assert described["uri"].startswith(storage.join(root, "others", "Other_Net-"))
    assert verify(described["uri"]) == []
    made = ShardSet.open(described["uri"])
    sample = made.read_encoded(made.keys()[0])
    assert sample.meta.synthetic == Foreign(method="Other Net", has_mask=True)
    assert made.manifest.kind == "synthetic" and made.row(sample.meta.key).parent is None

    caplog.clear()
    evaluate(configure(root, synthetic=dict(reversed(sets.items()))), demo=False)
    assert "evaluated already" in caplog.text and "ingest " not in caplog.text
    again = configure(root, synthetic={"mine": ours.uri}, output=str(tmp_path / "one"), tsne=1)
    evaluate(again, demo=False)
    assert "efficientnet-lite0: features of 2 of 2 sets are there already" in caplog.text
    assert "no t-SNE: fewer than 4 different images" in caplog.text
    assert "tsne.jsonl" not in storage.list_files(str(tmp_path / "one"))
    alone = storage.read_json(str(tmp_path / "one" / "metrics.json"))
    assert alone["tsne"] is None
    alone = alone["results"]["mine"]
    assert (alone["figures"], alone["mask_agreement"]) == (
        results["ours"]["figures"],
        results["ours"]["mask_agreement"],
    )


@pytest.mark.soak
@pytest.mark.cluster
def test_damaged_and_lost_shards_fail_with_one_line(ray, tmp_path, caplog):
    root = str(tmp_path)
    real = write_real(storage.join(root, "data"), counts={"train": 3, "val": 1})
    synthetic = write_synthetic(storage.join(root, "synthetic", "plan"), real)
    tars = [
        storage.local_path(tar_uri(of.uri, shard_name(name, 0)))
        for of, name in ((synthetic, "fold0"), (real, "train"))
    ]

    def refused(message):
        with pytest.raises(SiamdiffError, match=message) as caught:
            evaluate(configure(root, synthetic=synthetic.uri), demo=False)
        assert "\n" not in str(caught.value) and "Traceback" not in caplog.text
        output = folder_of(root)
        assert set(storage.list_files(output)) == {"status.json"}
        assert storage.read_json(storage.join(output, "status.json"))["exit_code"] == 1

    of_synthetic, of_real = tars
    content = of_synthetic.read_bytes()
    of_synthetic.write_bytes(content[: len(content) // 2])
    refused("is damaged")
    of_synthetic.write_bytes(content)
    of_real.unlink()
    refused("is missing")


def test_what_cannot_be_compared_is_the_users_mistake(tmp_path):
    root = str(tmp_path / "root")
    real = write_real(storage.join(root, "data"), counts={"train": 2})
    synthetic = write_synthetic(storage.join(root, "synthetic", "plan"), real)
    storage.write_json(storage.join(root, "synthetic", "latest.json"), {"uri": synthetic.uri})
    empty = str(tmp_path / "empty")
    write_real(storage.join(empty, "data"), counts={"train": 2})
    with pytest.raises(UserError, match="generate first"):
        evaluate(configure(empty), demo=False)
    assert storage.read_json(storage.join(empty, "evaluation", "status.json"))["exit_code"] == 2
    with pytest.raises(UserError, match="not a complete set"):
        evaluate(configure(root, real=str(tmp_path)), demo=False)
    with pytest.raises(UserError, match="synthetic takes a synthetic one"):
        evaluate(configure(root, synthetic=real.uri), demo=False)
    other = write_real(str(tmp_path / "larger"), side=48, counts={"train": 2})
    with pytest.raises(UserError, match=r"48 pixels.*32; evaluate sets of one resolution"):
        evaluate(configure(root, real=other.uri), demo=False)
    single = write_real(str(tmp_path / "single"), counts={"train": 1})
    with pytest.raises(UserError, match="has 1 samples to compare"):
        evaluate(configure(root, real=single.uri), demo=False)


def test_what_is_wrong_with_one_set_is_found_before_another_is_ingested(tmp_path):
    root = str(tmp_path / "root")
    real = write_real(storage.join(root, "data"), counts={"train": 2})
    good = write_folder(tmp_path / "good", 3)
    incomplete = write_synthetic(str(tmp_path / "incomplete"), real)
    storage.delete(storage.join(incomplete.uri, "dataset.json"))
    single = str(tmp_path / "single")
    write_folder(tmp_path / "single", 2)
    (tmp_path / "single" / "images" / "sample_1.png").unlink()
    (tmp_path / "single" / "masks" / "sample_1.png").unlink()
    (tmp_path / "texts" / "images").mkdir(parents=True)
    (tmp_path / "texts" / "images" / "a.txt").write_text("none")
    for bad, message in (
        (str(tmp_path / "nothing"), "the set z at .*nothing does not exist or is empty"),
        (str(tmp_path / "texts"), "the set z: "),
        (single, "the set z: .* has 1 samples to compare"),
        (incomplete.uri, "not a complete set"),
        (real.uri, "is a real set"),
        ("latest", "generate first"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            evaluate(configure(root, synthetic={"a": good, "z": bad}), demo=False)
        assert "\n" not in str(caught.value)
        assert storage.list_files(storage.join(root, "others")) == {}


def test_an_experiment_looks_for_given_sets_before_it_begins(tmp_path):
    config = configure(
        str(tmp_path / "root"), synthetic={"ours": "latest", "other": str(tmp_path / "nothing")}
    )
    with pytest.raises(UserError, match=r"the set other at .*nothing does not exist"):
        experiment(config, demo=False)
    config = configure(str(tmp_path / "root"), extractors=["clip=/no/folder"])
    with pytest.raises(UserError, match=r"no folder /no/folder; give --evaluate.extractors clip=FOLDER"):
        experiment(config, demo=False)
    assert storage.list_files(str(tmp_path)) == {}
