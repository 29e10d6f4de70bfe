"""What other tools make of a set: plain webdataset, datasets and MONAI, as the set's card says."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from siamdiff.data.shardset import ShardSet
from siamdiff.export.card import Described, Layout, card
from siamdiff.export.folder import export_folder
from siamdiff.export.recipes import RECIPES
from tests.export.conftest import SIDE, Sets


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def run_recipes(layout: Layout, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """`samples` of each Python block of a layout's recipe, run in the folder of the card."""
    monkeypatch.chdir(folder)
    found = []
    for block in re.findall(r"```python\n(.*?)```", RECIPES[layout], re.DOTALL):
        names: dict[str, Any] = {}
        exec(block, names)
        found.append(names["samples"])
    return found


def test_shards_open_in_plain_webdataset_and_datasets(sets: Sets, monkeypatch: pytest.MonkeyPatch) -> None:
    synthetic = ShardSet.open(sets.synthetic)
    plain, columns = run_recipes("shards", Path(sets.synthetic), monkeypatch)
    read = list(plain)
    assert sorted(sample["about"]["key"] for sample in read) == synthetic.keys() and len(columns) == len(read)
    for sample, row in zip(read, columns, strict=True):
        whole = synthetic.read(sample["about"]["key"])
        assert row["json"] == sample["about"] == whole.meta.model_dump(mode="json")
        for image, mask in ((sample["image"], sample["mask"]), (row["png"], row["mask.png"])):
            assert np.array_equal(np.array(image), whole.image) and np.array_equal(np.array(mask), whole.mask)


def test_without_features_datasets_drops_what_the_first_samples_lack(sets: Sets) -> None:
    """Why the recipe names them: fold 1 mirrors its masks, and `transform` of fold 0 is empty."""
    from datasets import load_dataset

    files = sorted(str(path) for path in (Path(sets.synthetic) / "shards").glob("*.tar"))
    guessed = load_dataset("webdataset", data_files=files)["train"]
    assert {len(sample["synthetic"]["transform"]) for sample in guessed["json"]} == {0}
    assert {image.mode for image in guessed["mask.png"]} == {"L"}


def test_a_folder_opens_in_monai(sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_folder([sets.real], str(tmp_path / "out"))
    (samples,) = run_recipes("folder", tmp_path / "out", monkeypatch)
    real = ShardSet.open(sets.real)
    assert len(samples) == real.manifest.splits["train"]
    about = [json.loads(line) for line in (tmp_path / "out/metadata.jsonl").read_text().splitlines()]
    for sample, line in zip(samples, (line for line in about if line["split"] == "train"), strict=True):
        whole = real.read(line["key"])
        assert sample["image"].shape == (3, SIDE, SIDE) and sample["mask"].shape == (1, SIDE, SIDE)
        expected = torch.from_numpy(whole.image / np.float32(255)).permute(2, 0, 1)
        assert torch.allclose(sample["image"].as_tensor(), expected, atol=1e-6)
        assert np.array_equal(sample["mask"].numpy()[0] * 255, whole.mask)


def test_the_card_of_a_set_stands_beside_its_shards(sets: Sets, tmp_path: Path) -> None:
    """Readers of the set do not mind a README.md in its folder."""
    shutil.copytree(sets.synthetic, tmp_path / "set")
    manifest = ShardSet.open(sets.synthetic).manifest
    (tmp_path / "set/README.md").write_text(card([Described(manifest)]))
    assert ShardSet.open(str(tmp_path / "set")).manifest == manifest
    assert os.listdir(tmp_path / "set").count("README.md") == 1
