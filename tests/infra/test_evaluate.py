"""Evaluation on a real local Ray: figures, sheet and samples beside each other, made once."""

import io
import json
import logging

import numpy as np
import pytest
from PIL import Image

from infra.evaluate import evaluate
from siamdiff import storage
from siamdiff.config import Config
from siamdiff.data.phantom import render_phantom
from siamdiff.data.sample import Synthetic, make_sample
from siamdiff.data.shards import shard_name, tar_uri, write_shard
from siamdiff.data.shardset import ShardSet, finish_set
from siamdiff.errors import SiamdiffError, UserError
from siamdiff.evaluation.distances import frechet_distance
from siamdiff.evaluation.features import EfficientNetLite0

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


@pytest.fixture(scope="module")
def ray(s3, tmp_path_factory):
    import ray

    from infra import cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIAMDIFF_CACHE", str(tmp_path_factory.mktemp("cache")))
        cluster.connect()
        yield ray
        ray.shutdown()


def folder_of(root):
    folder = storage.join(root, "evaluation")
    (name,) = {file.partition("/")[0] for file in storage.list_files(folder) if "/" in file} - {"cache"}
    return storage.join(folder, name)


@pytest.mark.cluster
def test_an_evaluation_is_complete_and_made_once(ray, root, caplog):
    real, synthetic = (ShardSet.open(storage.join(root, *name)) for name in (["data"], ["synthetic", "plan"]))
    caplog.set_level(logging.INFO)
    evaluate(configure(root), demo=False)
    assert "mask agreement (Dice)" in caplog.text and "on held-out real images" in caplog.text

    output = folder_of(root)
    assert set(storage.list_files(output)) == {
        "metrics.json", "table.csv", "table.tex", "contact_sheet-synthetic.png", "agreement.jsonl", "config.yaml",
        "status.json",
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

    frechet, mmd = result["figures"]
    assert (frechet["name"], mmd["name"]) == ("frechet_efficientnet_lite0", "mmd_linear_efficientnet_lite0")
    assert (frechet["n_reference"], frechet["n_synthetic"]) == (COUNTS["train"], SYNTHETIC)
    extract = EfficientNetLite0()
    by_hand = frechet_distance(
        *(extract(np.stack([of.read(key).image for key in of.keys("train")])) for of in (synthetic, real))
    )
    assert frechet["value"] == pytest.approx(by_hand, rel=1e-4)

    lines = storage.read_bytes(storage.join(output, "agreement.jsonl")).decode().splitlines()
    assert [json.loads(line)["key"] for line in lines] == synthetic.keys()
    sheet = Image.open(io.BytesIO(storage.read_bytes(storage.join(output, result["contact_sheet"]))))
    assert sheet.width > 1000 and len(np.unique(np.asarray(sheet))) > 50

    caplog.clear()
    evaluate(configure(root), demo=False)
    assert "evaluated already" in caplog.text and "mask agreement (Dice)" in caplog.text
    assert storage.read_json(storage.join(output, "metrics.json")) == metrics
    with pytest.raises(UserError, match="other sets or settings"):
        evaluate(configure(root, output=output, seed=5), demo=False)


@pytest.mark.cluster
def test_a_damaged_shard_fails_with_one_line(ray, tmp_path):
    root = str(tmp_path)
    real = write_real(storage.join(root, "data"), counts={"train": 3, "val": 1})
    synthetic = write_synthetic(storage.join(root, "synthetic", "plan"), real)
    tar = storage.local_path(tar_uri(synthetic.uri, shard_name("fold0", 0)))
    assert tar is not None
    content = bytearray(tar.read_bytes())
    content[1000] ^= 1
    tar.write_bytes(content)
    with pytest.raises(SiamdiffError, match="is damaged"):
        evaluate(configure(root, synthetic=synthetic.uri), demo=False)
    output = folder_of(root)
    assert "metrics.json" not in storage.list_files(output)
    assert storage.read_json(storage.join(output, "status.json"))["exit_code"] == 1


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
