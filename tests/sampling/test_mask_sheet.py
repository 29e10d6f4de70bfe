"""Masks of planned shards with lesions of a second parent, folds that differ, and the sheet of them."""

import io

import numpy as np
import pytest
from PIL import Image

from siamdiff.__main__ import main
from siamdiff.data.transforms import apply, second_parent
from siamdiff.sampling.conditions import read_conditions
from siamdiff.sampling.plan import NO_MODEL, Plan
from siamdiff.sections import Generate, Transforms
from tests.tiny_model import write_masks


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    return write_masks(str(tmp_path_factory.mktemp("root") / "data"), 6)


def conditions(masks, **settings):
    plan = Plan.of(Generate(**settings), masks=masks.digest, model=NO_MODEL, resolution=32)
    keys = plan.choose(masks.keys("train"))
    return plan, [one for shard in plan.shards(keys) for one in read_conditions(masks, plan, shard)]


def test_masks_follow_from_their_parents_and_differ_between_folds(masks):
    transforms = Transforms(combine=1, elastic=(0, 0.5), field="estimate")
    plan, made = conditions(masks, folds=3, transforms=transforms, limit=5)
    chosen, used = plan.choose(masks.keys("train")), 0
    for one in made:
        other = second_parent(one.transform)
        assert other != one.parent and (other is None or other in chosen)
        used += other is not None
        given = masks.read(other).mask if other else None
        assert np.array_equal(apply(masks.read(one.parent).mask, one.transform, given), one.mask)
    assert used > 0
    for key in chosen:
        assert len({one.mask.tobytes() for one in made if one.parent == key}) == 3


def test_real_folds_have_one_mask_and_other_seeds(masks):
    _, made = conditions(masks, folds=3, fold_masks=["real"])
    for key in masks.keys("train"):
        own = [one for one in made if one.parent == key]
        assert len({one.seed for one in own}) == 3 and len({one.mask.tobytes() for one in own}) == 1


def test_the_command_draws_a_sheet(masks, tmp_path, capsys):
    file, sheet = tmp_path / "c.yaml", tmp_path / "sheet.png"
    file.write_text(f"root: {tmp_path}\ndata: {{uri: {masks.uri}, resolution: 32}}\n")
    command = ["masks", "--preview", str(sheet), "--config", str(file), "--rows", "2"]
    assert main([*command, "--generate.folds", "2"]) == 0
    assert "2 of 6 masks in 2 folds, 0 repeated" in capsys.readouterr().out
    two = Image.open(io.BytesIO(sheet.read_bytes())).width
    assert main([*command, "--generate.folds", "3"]) == 0
    assert Image.open(io.BytesIO(sheet.read_bytes())).width - two == 202
    assert main([*command[:-1], "0"]) == 2
    assert "--rows is 0" in capsys.readouterr().err
