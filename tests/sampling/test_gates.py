"""What does not pass the gates is drawn again, and only that."""

import json
import math

import numpy as np
import pytest
import safetensors.torch
import torch

from siamdiff.data.phantom import render_phantom
from siamdiff.data.shards import build_tar
from siamdiff.errors import UserError
from siamdiff.evaluation.copies import BothSpaces, CopyFilter, calibrate, from_rows
from siamdiff.evaluation.mask_finder import MaskFinder
from siamdiff.model.folder import load_model
from siamdiff.sampling.conditions import read_conditions
from siamdiff.sampling.gates import Gatekeeper, Tally
from siamdiff.sampling.plan import NO_MODEL, Plan, child_seed
from siamdiff.sampling.shard import ShardSampler
from siamdiff.sections import Gates, Generate
from siamdiff.segmentation.networks import unet
from siamdiff.segmentation.train import train_segmenter
from tests.tiny_model import RESOLUTION, write_masks, write_model

GATES = Gates(min_deviation=0.5, redraws=2)


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    return write_masks(str(tmp_path_factory.mktemp("masks")), 6)


@pytest.fixture(scope="module")
def model(tmp_path_factory, masks):
    folder = tmp_path_factory.mktemp("model")
    write_model(str(folder / "model"), folder / "base", masks)
    return load_model(str(folder / "model"))


@pytest.fixture(scope="module")
def copies(masks) -> CopyFilter:
    keys = masks.keys("train")
    training = from_rows(BothSpaces()(np.stack([masks.read(key).image for key in keys])))
    return CopyFilter(training, calibrate(training, keys, 0.01))


@pytest.fixture(scope="module")
def plan_of(masks, model):
    def make(**settings):
        chosen = {"folds": 1, "fold_masks": ["real"], "steps": 2, "batch_size": 6, "gates": GATES}
        generate = Generate(**{**chosen, **settings})
        digest = model.info["model_digest"]
        return Plan.of(
            generate, masks=masks.digest, model=digest, resolution=RESOLUTION, training=masks.digest
        )

    return make


@pytest.fixture
def conditions(masks, plan_of):
    return read_conditions(masks, plan_of(), next(plan_of().shards(masks.keys("train"))))


class Remembering(ShardSampler):
    """A model that gives for some masks, in their first draws, an image that it has seen."""

    remembered: dict[tuple[str, int], np.ndarray]  # (parent, draw) -> image

    def _images(self, batch):
        images = super()._images(batch)
        for place, condition in enumerate(batch):
            if (condition.parent, condition.draw) in self.remembered:
                images[place] = torch.from_numpy(self.remembered[condition.parent, condition.draw])
        return images


@pytest.fixture
def sampled(model, plan_of, copies, conditions):
    """Samples of a model that remembers {(place, draw): image}."""

    def make(remembered, **settings):
        plan = plan_of(**settings)
        sampler = Remembering(model, plan, Gatekeeper(plan.settings.gates, copies))
        sampler.remembered = {
            (conditions[place].parent, draw): image for (place, draw), image in remembered.items()
        }
        return sampler.make(conditions).samples

    return make


def origins(samples):
    return [sample.meta.synthetic for sample in samples]


def test_a_remembered_image_is_drawn_again_and_nothing_else_changes(masks, sampled):
    seen = masks.read(masks.keys("train")[4]).image
    brighter = np.minimum(seen.astype(int) + 12, 255).astype(np.uint8)
    first = sampled({})
    assert all(origin.draw == 0 and not origin.rejected for origin in origins(first))
    assert all(
        {"copy_distance", "copy_pixels", "deviation", "saturated"} <= one.scores.keys()
        for one in origins(first)
    )
    made = sampled({(1, 0): seen, (3, 0): brighter, (3, 1): seen})
    assert [origin.draw for origin in origins(made)] == [0, 1, 0, 2, 0, 0]
    assert not any(origin.rejected for origin in origins(made))
    for place, (one, other) in enumerate(zip(made, first, strict=True)):
        assert one.mask == other.mask and one.meta.synthetic.seed == other.meta.synthetic.seed
        assert (one.image == other.image) == (place not in (1, 3))
    tally = Tally.of(sample.meta for sample in made)
    assert (tally.samples, tally.redrawn, tally.draws, tally.rejected) == (6, 2, 9, 0)


def test_what_is_rejected_to_the_last_stays_and_says_so(masks, sampled):
    seen = masks.read(masks.keys("train")[0]).image
    made = sampled({(2, draw): seen for draw in range(9)})
    origin = origins(made)[2]
    assert (origin.draw, origin.rejected, origin.scores["rejected_copy"]) == (2, ("copy",), 1.0)
    assert origin.scores["copy_distance"] == pytest.approx(0, abs=1e-4)
    assert np.array_equal(made[2].decode().image, seen)
    tally = Tally.of(sample.meta for sample in made) + Tally.of([made[2].meta])
    assert (tally.rejected, tally.by_gate, tally.reasons) == (2, {"copy": 2}, "2 copy")
    assert Tally(**json.loads(json.dumps(tally.as_dict()))) == tally


def test_a_redraw_is_the_same_in_any_batch_and_each_time(masks, sampled):
    seen = masks.read(masks.keys("train")[0]).image
    remembered = {(place, 0): seen for place in (0, 1, 4)}
    whole, again, apart = (sampled(remembered, batch_size=size) for size in (6, 6, 1))
    assert build_tar(whole) == build_tar(again)
    for one, other in zip(whole, apart, strict=True):
        difference = np.abs(one.decode().image.astype(int) - other.decode().image)
        assert difference.max() <= 1 and one.meta.synthetic.draw == other.meta.synthetic.draw


@pytest.mark.parametrize(
    "image",
    [
        np.full((RESOLUTION, RESOLUTION, 3), 130),
        np.full((RESOLUTION, RESOLUTION, 3), (180, 90, 70)),
        np.zeros((RESOLUTION, RESOLUTION, 3)),
    ],
    ids=["grey", "one colour", "black"],
)
def test_a_blank_image_is_drawn_again(sampled, image):
    made = sampled({(5, 0): image.astype(np.uint8)})
    assert [origin.draw for origin in origins(made)] == [0, 0, 0, 0, 0, 1]


def test_saturated_pixels_are_those_of_every_channel():
    image = np.random.default_rng(0).integers(1, 255, (1, 20, 20, 3)).astype(np.uint8)
    image[0, :, :, 0] = 255  # one channel alone is no clipping
    judge = Gatekeeper(Gates(max_saturated=0.5))
    assert judge(image, image[..., 0])[0]["saturated"] == 0
    image[0, :12] = 255
    assert judge(image, image[..., 0])[0] | {"deviation": 0.0} == {
        "saturated": 0.6, "deviation": 0.0, "rejected_blank": 1.0,
    }  # fmt: skip


def test_without_gates_samples_are_what_they_were(model, plan_of, conditions):
    plan = plan_of(gates=Gates(copies=False, min_deviation=0, max_saturated=1))
    assert plan.settings.gates is None and plan.training == ""
    for sample in ShardSampler(model, plan).make(conditions).samples:
        stored = sample.meta.model_dump(mode="json")["synthetic"]
        assert "draw" not in stored and stored["scores"] == {}


def test_gates_do_not_change_what_passes(model, plan_of, conditions, sampled):
    plan = plan_of(gates=Gates(copies=False, min_deviation=0, max_saturated=1))
    for without, judged in zip(ShardSampler(model, plan).make(conditions).samples, sampled({}), strict=True):
        assert (without.image, without.mask, without.meta.key) == (judged.image, judged.mask, judged.meta.key)


def test_the_first_draw_has_the_seeds_of_before():
    assert child_seed(5, "noise", 0) == child_seed(5, "noise")
    seeds = {child_seed(5, stream, draw) for stream in ("noise", "steps") for draw in range(5)}
    assert len(seeds) == 10


@pytest.mark.parametrize(
    ("settings", "has_gates", "looks_for_copies"),
    [
        ({}, True, True),
        ({"fold_masks": ["real"], "guide": "mask+image"}, True, False),
        ({"fold_masks": ["real"], "method": "copy-paste"}, False, False),
        ({"gates": Gates(copies=False)}, True, False),
    ],
    ids=["default", "image guides", "copied pairs", "off"],
)
def test_copies_are_looked_for_where_none_is_asked_for(settings, has_gates, looks_for_copies):
    plan = Plan.of(Generate(**settings), masks="m", model=NO_MODEL, resolution=32, training="t")
    gates = plan.settings.gates
    assert (gates is not None) == has_gates
    assert (gates is not None and gates.copies) == looks_for_copies == (plan.training == "t")
    assert Plan.model_validate_json(plan.model_dump_json()).digest == plan.digest


@pytest.fixture(scope="module")
def segmenter() -> bytes:
    """A small segmenter that has seen some phantoms."""
    pairs = [render_phantom(1, index, RESOLUTION) for index in range(48)]

    def read(places):
        return np.stack([pairs[i][0] for i in places]), np.stack([pairs[i][1] for i in places])

    network = train_segmenter(unet, read, len(pairs), steps=80, seed=0, batch_size=8)
    return safetensors.torch.save(network.state_dict())


def test_the_mask_must_be_where_the_segmenter_sees_it(segmenter: bytes):
    finder = MaskFinder(segmenter, "segmenter")
    images, masks = (
        np.stack(each) for each in zip(*(render_phantom(2, i, RESOLUTION) for i in range(12)), strict=True)
    )
    judge = Gatekeeper(Gates(copies=False, min_dice=0.4), finder=finder)
    right, wrong = judge(images, masks), judge(images, masks[:, ::-1, ::-1].copy())
    assert np.median([scores["dice"] for scores in right]) > 0.5
    for scores in (*right, *wrong):
        assert ("rejected_dice" in scores) == (scores["dice"] < 0.4)
    assert sum("rejected_dice" in scores for scores in wrong) > sum(
        "rejected_dice" in scores for scores in right
    )


def test_an_empty_mask_has_no_dice(segmenter: bytes):
    image = render_phantom(2, 0, RESOLUTION)[0][None]
    empty = np.zeros((1, RESOLUTION, RESOLUTION), np.uint8)
    finder = MaskFinder(segmenter, "segmenter")
    assert math.isnan(finder(image, empty)[0])
    assert "dice" not in Gatekeeper(Gates(copies=False), finder=finder)(image, empty)[0]


@pytest.mark.parametrize(
    "data", [b"", safetensors.torch.save({"weight": torch.zeros(2)})], ids=["empty", "another"]
)
def test_weights_of_something_else_are_no_segmenter(data: bytes):
    with pytest.raises(UserError, match=r"a\.safetensors is no segmenter .*ROOT/evaluation/cache") as error:
        MaskFinder(data, "a.safetensors")
    assert "\n" not in str(error.value)
