"""The samples of a planned shard: what they are made from, and that nothing else changes them."""

import contextlib
import copy
import json
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from siamdiff.data.sample import encode_mask
from siamdiff.data.shards import build_tar
from siamdiff.data.transforms import apply
from siamdiff.errors import SiamdiffError
from siamdiff.model.folder import load_model
from siamdiff.sampling.conditions import read_conditions
from siamdiff.sampling.copies import PairCopier
from siamdiff.sampling.plan import NO_MODEL, Plan, sample_seed
from siamdiff.sampling.shard import ShardSampler
from siamdiff.sections import Generate
from tests.tiny_model import RESOLUTION, write_masks, write_model


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    return write_masks(str(tmp_path_factory.mktemp("masks")), 7)


@pytest.fixture(scope="module")
def model(tmp_path_factory, masks):
    folder = tmp_path_factory.mktemp("model")
    write_model(str(folder / "model"), folder / "base", masks)
    return load_model(str(folder / "model"))


@pytest.fixture(scope="module")
def plan_of(masks, model):
    def make(**settings):
        chosen = {
            "folds": 3,
            "fold_masks": ["real", "random"],
            "steps": 3,
            "batch_size": 3,
            "shard_size": 5,
            "seed": 7,
        }
        generate = Generate(**{**chosen, **settings})
        return Plan.of(generate, masks=masks.digest, model=model.info["model_digest"], resolution=RESOLUTION)

    return make


def samples_of(plan, masks, model, shard_number):
    shard = list(plan.shards(plan.choose(masks.keys("train"))))[shard_number]
    return ShardSampler(model, plan).make(read_conditions(masks, plan, shard)).samples


def test_a_sample_says_what_it_was_made_from(masks, model, plan_of):
    plan = plan_of()
    made = samples_of(plan, masks, model, 2)  # fold 1, random
    assert [sample.meta.synthetic.parent for sample in made] == masks.keys("train")[:5]
    assert len({sample.meta.key for sample in made}) == 5
    for sample in made:
        origin = sample.meta.synthetic
        parent = masks.read(origin.parent)
        assert (sample.meta.split, sample.meta.group) == (parent.meta.split, parent.meta.group)
        assert sample.meta.prompt == parent.meta.prompt
        assert (origin.fold, origin.seed) == (1, sample_seed(7, 1, origin.parent))
        assert origin.model_digest == model.info["model_digest"]
        assert origin.sampler == {
            "name": "ddim", "steps": 3, "guidance": 9.0, "eta": 0.0, "precision": "fp32", "guide": "mask",
        }  # fmt: skip
        assert encode_mask(apply(parent.mask, origin.transform)) == sample.mask
        decoded = sample.decode()
        assert decoded.image.shape == (RESOLUTION, RESOLUTION, 3) and decoded.image.std() > 1


def test_a_real_fold_keeps_the_masks_and_folds_differ(masks, model, plan_of):
    real, again = (samples_of(plan_of(), masks, model, number)[0] for number in (0, 4))  # folds 0 and 2
    random = samples_of(plan_of(), masks, model, 2)[0]
    assert real.meta.synthetic.transform == {}
    assert np.array_equal(real.decode().mask, masks.read(real.meta.synthetic.parent).mask)
    assert real.mask == again.mask and real.image != again.image
    assert random.mask != real.mask and random.image != real.image


def test_two_random_folds_have_other_masks(masks, plan_of):
    plan = plan_of(fold_masks=["random"])
    first, second, third = (
        [condition.mask for condition in read_conditions(masks, plan, shard)]
        for shard in list(plan.shards(plan.choose(masks.keys("train"))))[0:6:2]
    )
    for one, two, three in zip(first, second, third, strict=True):
        assert (
            not np.array_equal(one, two) and not np.array_equal(two, three) and not np.array_equal(one, three)
        )


def test_the_same_plan_gives_the_same_bytes(masks, model, plan_of):
    first = build_tar(samples_of(plan_of(), masks, model, 3))
    assert build_tar(samples_of(plan_of(), masks, model, 3)) == first
    assert build_tar(samples_of(plan_of(seed=8), masks, model, 3)) != first


def test_the_batch_changes_the_last_bits_at_most(masks, model, plan_of):
    whole, apart = (samples_of(plan_of(batch_size=size), masks, model, 0) for size in (5, 1))
    for one, other in zip(whole, apart, strict=True):
        difference = np.abs(one.decode().image.astype(int) - other.decode().image)
        assert difference.max() <= 1 and one.mask == other.mask


@contextlib.contextmanager
def room_for(model, fits):
    """A device with memory for so many images at once, both branches of guidance counted; gives the sizes asked for."""
    asked = []

    def check(_module, inputs):
        asked.append(len(inputs[0]) // 2)
        if asked[-1] > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")

    hook = model.unet.conv_in.register_forward_pre_hook(check)
    try:
        yield asked
    finally:
        hook.remove()


@pytest.mark.parametrize("fits", [1, 2, 3, 4])
def test_a_batch_that_memory_does_not_do_for_is_sampled_in_halves(masks, model, plan_of, fits, caplog):
    plan = plan_of(batch_size=5)
    whole = samples_of(plan, masks, model, 0)
    sampler = ShardSampler(model, plan)
    conditions = read_conditions(masks, plan, next(plan.shards(plan.choose(masks.keys("train")))))
    with room_for(model, fits) as asked:
        made = sampler.make(conditions)
        asked.clear()
        assert len(sampler.make(conditions).samples) == 5
        assert max(asked) <= fits, "what does not fit is not tried again"
    assert [sample.meta.synthetic.parent for sample in made.samples] == [
        s.meta.synthetic.parent for s in whole
    ]
    for one, other in zip(made.samples, whole, strict=True):
        difference = np.abs(one.decode().image.astype(int) - other.decode().image)
        assert difference.max() <= 1 and one.mask == other.mask and one.meta.synthetic == other.meta.synthetic
    assert made.made_by["halved"] == 1 and made.made_by["largest_batch"] == {1: 1, 2: 2, 3: 3, 4: 3}[fits]
    assert "out of memory with a batch of 5: going on with 3" in caplog.text


def test_a_batch_that_is_too_large_to_be_judged_is_sampled_in_halves_too(masks, model, plan_of):
    judged = []

    def keeper(images, _masks):
        judged.append(len(images))
        if len(images) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [{"deviation": float(image.std())} for image in images]

    plan = plan_of(batch_size=5)
    conditions = read_conditions(masks, plan, next(plan.shards(plan.choose(masks.keys("train")))))
    made = ShardSampler(model, plan, keeper).make(conditions)
    assert judged == [5, 3, 2] and made.made_by["largest_batch"] == 3
    for sample in made.samples:
        assert sample.meta.synthetic.scores == {"deviation": float(sample.decode().image.std())}


def test_no_memory_for_one_image_is_one_line(masks, model, plan_of):
    sampler = ShardSampler(model, plan_of())
    conditions = read_conditions(masks, plan_of(), next(plan_of().shards(masks.keys("train"))))
    message = r"out of memory with one image of 32 pixels .*bf16"
    with room_for(model, 0), pytest.raises(SiamdiffError, match=message):
        sampler.make(conditions)


class Waiting(ShardSampler):
    """Encodes the last batch of a shard when the turn that drew it is over; five samples are drawn by twos."""

    left: list[int]  # turns that are over
    encoded: list[int]  # sizes of batches

    def _encode_batch(self, batch):
        self.encoded.append(len(batch.conditions))
        deadline = time.monotonic() + 60
        while len(self.left) < sum(size == 1 for size in self.encoded):
            assert time.monotonic() < deadline, "the device is held while nothing is drawn"
            time.sleep(0.01)
        return super()._encode_batch(batch)


def test_two_shards_take_turns_at_the_device_and_are_finished_outside_of_them(masks, model, plan_of):
    plan = plan_of(batch_size=2)
    shards = list(plan.shards(plan.choose(masks.keys("train"))))
    shards = [shard for shard in shards if len(shard.mask_keys) == 5][:2]
    expected = [
        ShardSampler(model, plan).make(read_conditions(masks, plan, shard)).samples for shard in shards
    ]
    device = threading.Lock()
    sampler = Waiting(model, plan)
    sampler.left, sampler.encoded = [], []

    @contextlib.contextmanager
    def turn():
        with device:
            yield
        sampler.left.append(1)

    with ThreadPoolExecutor(2) as threads:
        made = threads.map(lambda shard: sampler.make(read_conditions(masks, plan, shard), turn), shards)
        assert [shard.samples for shard in made] == expected
    assert sorted(sampler.encoded) == [1, 1, 2, 2, 2, 2]


def test_a_shard_that_fails_gives_the_device_back(masks, model, plan_of):
    device = threading.Lock()
    sampler = ShardSampler(model, plan_of())
    conditions = read_conditions(masks, plan_of(), next(plan_of().shards(masks.keys("train"))))
    with room_for(model, 0), pytest.raises(SiamdiffError):
        sampler.make(conditions, lambda: device)
    assert not device.locked()


def test_hints_are_encoded_once_an_image_texts_once_a_prompt_and_both_branches_in_one_pass(
    masks, model, plan_of
):
    plan = plan_of(batch_size=5, steps=4)
    sampler = ShardSampler(model, plan)
    conditions = read_conditions(masks, plan, next(plan.shards(plan.choose(masks.keys("train")))))
    calls = {"hint": 0, "text": 0, "unet": 0}

    def counted(name, module):
        def count(_module, _inputs):
            calls[name] += 1

        return module.register_forward_pre_hook(count)

    modules = {
        "hint": model.control.controlnet_cond_embedding,
        "text": model.base.text_encoder,
        "unet": model.unet.conv_in,
    }
    hooks = [counted(name, module) for name, module in modules.items()]
    sampler.make(conditions)
    for hook in hooks:
        hook.remove()
    prompts = {condition.prompt for condition in conditions} | {""}
    assert calls == {"hint": 1, "text": len(prompts), "unet": 4}


def test_mask_prompt_and_guidance_change_the_image(masks, model, plan_of):
    sampler = ShardSampler(model, plan_of())
    shard = next(plan_of().shards(plan_of().choose(masks.keys("train"))))
    condition = read_conditions(masks, plan_of(), shard)[0]

    def image(sampler=sampler, **changes):
        return sampler.make([type(condition)(**{**vars(condition), **changes})]).samples[0].decode().image

    as_it_is = image()
    assert not np.array_equal(image(mask=condition.mask[:, ::-1].copy()), as_it_is)
    assert not np.array_equal(image(prompt="something else"), as_it_is)
    assert not np.array_equal(image(seed=1), as_it_is)
    assert not np.array_equal(image(ShardSampler(model, plan_of(guidance=1.0))), as_it_is)


def test_the_real_image_guides_where_it_may(masks, model, plan_of):
    settings = {"fold_masks": ["real"], "guide": "mask+image"}
    alone, half, whole = (
        samples_of(plan_of(**changes), masks, model, 0)
        for changes in ({"fold_masks": ["real"]}, {**settings, "image_weight": 0.5}, settings)
    )
    assert len({made[0].image for made in (alone, half, whole)}) == 3
    assert {made[0].mask for made in (alone, half, whole)} == {alone[0].mask}
    sampler = half[0].meta.synthetic.sampler
    assert (sampler["guide"], sampler["image_weight"]) == ("mask+image", 0.5)


def test_an_adapter_samples_by_the_same_plan(masks, plan_of, tmp_path):
    write_model(str(tmp_path / "model"), tmp_path / "base", masks, control="t2i-adapter")
    adapted = load_model(str(tmp_path / "model"))
    plan = plan_of(precision="bf16").model_copy(update={"model": adapted.info["model_digest"]})
    real, again = (samples_of(plan, masks, adapted, number)[0] for number in (0, 2))
    assert adapted.unet.dtype == adapted.control.dtype == torch.bfloat16
    assert real.meta.synthetic.model_digest == adapted.info["model_digest"] and real.image != again.image


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 24), ("fp16", 4)])
def test_half_precision_is_recorded_and_near(
    masks, model, plan_of, precision, tolerance, caplog, monkeypatch
):
    monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)
    made = samples_of(plan_of(precision=precision), masks, copy.deepcopy(model), 0)
    for half, whole in zip(made, samples_of(plan_of(), masks, model, 0), strict=True):
        assert half.meta.synthetic.sampler["precision"] == precision
        difference = np.abs(half.decode().image.astype(int) - whole.decode().image)
        assert 0 < difference.max() <= tolerance and half.mask == whole.mask
    made_by = ShardSampler(copy.deepcopy(model), plan_of(precision=precision)).made_by()
    assert made_by["precision"] == {"bf16": "bfloat16", "fp16": "float16"}[precision]
    assert model.unet.dtype == model.vae.dtype == torch.float32
    assert not caplog.records


def test_copies_are_the_real_pairs_under_keys_of_their_own(masks):
    settings = Generate(method="copy-paste", fold_masks=["real"], folds=2, shard_size=7)
    plan = Plan.of(settings, masks=masks.digest, model=NO_MODEL, resolution=RESOLUTION)
    made = [
        PairCopier().make(read_conditions(masks, plan, shard)).samples
        for shard in plan.shards(plan.choose(masks.keys("train")))
    ]
    assert len({sample.meta.key for fold in made for sample in fold}) == 14
    for fold, copies in enumerate(made):
        for sample, parent in zip(copies, masks.keys("train"), strict=True):
            real = masks.read_encoded(parent)
            assert (sample.image, sample.mask) == (real.image, real.mask)
            own = {"key": real.meta.key, "synthetic": None}
            assert sample.meta.key != real.meta.key and sample.meta.model_copy(update=own) == real.meta
            origin = sample.meta.synthetic
            assert (origin.parent, origin.fold, origin.transform) == (parent, fold, {})
            assert (origin.model_digest, origin.sampler) == ("copy-paste", {"name": "copy-paste"})


@pytest.mark.parametrize("settings", [{"method": "copy-paste"}, {"guide": "mask+image"}])
def test_a_transformed_mask_has_no_real_image(settings):
    with pytest.raises(ValueError, match=r"give --generate\.fold_masks real"):
        Generate(**settings, fold_masks=["real", "random"])


def test_jpeg_where_asked_for(masks, model, plan_of):
    assert {sample.image_format for sample in samples_of(plan_of(image_format="jpg"), masks, model, 1)} == {
        "jpg"
    }


def test_the_environment_is_recorded(model, plan_of):
    made_by = ShardSampler(model, plan_of()).made_by()
    assert json.loads(json.dumps(made_by)) == made_by
    assert made_by["batch"] == [3, 3, RESOLUTION, RESOLUTION] and made_by["precision"] == "float32"
    assert {"siamdiff", "torch", "diffusers"} == made_by["versions"].keys()


def test_a_plan_for_another_model_is_refused(masks, model):
    plan = Plan.of(Generate(), masks=masks.digest, model="0" * 64, resolution=RESOLUTION)
    with pytest.raises(SiamdiffError, match="replaced"):
        ShardSampler(model, plan)
