"""The plan of bulk generation: what it depends on, its shards, its seeds."""

import pytest

from siamdiff.sampling.plan import Plan, child_seed, sample_seed
from siamdiff.sections import Gates, Generate, Transforms

KEYS = [f"{number:016x}" for number in range(10)]


OPEN = Gates(copies=False, min_deviation=0, max_saturated=1)


def plan(masks="m" * 64, model="d" * 64, resolution=64, training="", segmenter="", **settings):
    return Plan.of(
        Generate(**settings),
        masks=masks,
        model=model,
        resolution=resolution,
        training=training,
        segmenter=segmenter,
    )


@pytest.mark.parametrize(
    "change",
    [
        {"masks": "n" * 64},
        {"model": "e" * 64},
        {"resolution": 128},
        {"folds": 4},
        {"fold_masks": ["real"]},
        {"transforms": Transforms(scale=(0.8, 1.3))},
        {"limit": 5},
        {"steps": 49},
        {"guidance": 8.5},
        {"batch_size": 8},
        {"shard_size": 32},
        {"image_format": "jpg"},
        {"seed": 1},
        {"split": "val"},
        {"fold_masks": ["real"], "method": "copy-paste"},
        {"fold_masks": ["real"], "guide": "mask+image"},
        {"image_weight": 0.5},
        {"precision": "bf16"},
        {"gates": Gates(copies=False)},
        {"gates": Gates(redraws=4)},
        {"training": "t" * 64},
        {"segmenter": "s" * 64},
    ],
    ids=lambda change: list(change)[-1],
)
def test_what_changes_the_result_changes_the_digest(change):
    assert plan(**change).digest != plan().digest


@pytest.mark.parametrize(
    "change",
    [
        {"actors": 4},
        {"output": "/elsewhere"},
        {"max_rejected": 0.5},
        {"gates": Gates(min_dice=0.9)},  # without a segmenter
    ],
)
def test_what_does_not_change_the_result_does_not_change_the_digest(change):
    assert plan(**change).digest == plan().digest
    assert len(plan().digest) == 16


def test_a_plan_survives_its_file():
    first = plan(fold_masks=["real", "random"], limit=3)
    again = Plan.model_validate_json(first.model_dump_json())
    assert again == first and again.digest == first.digest


def test_a_limit_that_is_not_looked_at_does_not_change_the_digest():
    off = plan(gates=Gates(copies=False, copy_quantile=0.2), training="t" * 64)
    assert off.digest == plan(gates=Gates(copies=False)).digest != plan(training="t" * 64).digest


def test_a_plan_of_before_the_later_settings_is_one_with_their_defaults():
    earlier = plan().model_dump(mode="json")
    for name in ("method", "guide", "image_weight", "precision"):
        del earlier["settings"][name]
    assert Plan.model_validate(earlier) == plan()
    del earlier["settings"]["gates"]
    assert Plan.model_validate(earlier) == plan(gates=OPEN)


def test_shards_hold_every_mask_once_per_fold_in_the_order_of_keys():
    made = plan(folds=3, fold_masks=["real", "random"], shard_size=4)
    keys = made.choose(list(reversed(KEYS)))
    shards = list(made.shards(keys))
    assert [shard.name for shard in shards[:4]] == [
        "fold0-000000",
        "fold0-000001",
        "fold0-000002",
        "fold1-000000",
    ]
    assert len(shards) == made.shard_count(len(keys)) == 9
    assert [len(shard.mask_keys) for shard in shards[:3]] == [4, 4, 2]
    assert {(shard.fold, shard.mask_kind) for shard in shards} == {(0, "real"), (1, "random"), (2, "real")}
    for fold in range(3):
        assert [key for shard in shards if shard.fold == fold for key in shard.mask_keys] == KEYS


def test_limit_takes_the_first_masks_by_key():
    assert plan(limit=3).choose(list(reversed(KEYS))) == KEYS[:3]
    assert plan(limit=99).choose(KEYS) == KEYS


def test_shards_are_planned_one_by_one():
    keys = [f"{number:016x}" for number in range(200_000)]
    shards = plan(folds=1000, shard_size=1).shards(keys)
    assert next(shards).name == "fold0-000000"  # of 200 million


def test_differences_are_named():
    before = plan(steps=50, transforms=Transforms(scale=(0.5, 1.5))).model_dump(mode="json")
    assert plan(steps=20).differences(before) == [
        "steps was 50, is now 20",
        "transforms.scale was [0.5, 1.5], is now [0.7, 1.3]",
    ]
    assert plan().differences(plan().model_dump(mode="json")) == []


def test_seeds_belong_to_the_sample_alone():
    seeds = [sample_seed(seed, fold, key) for seed in (0, 1) for fold in (0, 1) for key in KEYS]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds) and max(seeds) > 2**60
    assert sample_seed(1, 11, "a") != sample_seed(11, 1, "a")
    # A known value: seeds of sets at rest must never change.
    assert sample_seed(0, 0, "0" * 16) == 2040818539906355904
    streams = {child_seed(seed, stream) for seed in seeds for stream in ("transform", "noise")}
    assert len(streams) == 2 * len(seeds) and not streams & set(seeds)


def test_a_shard_is_known_by_its_number_alone():
    small = plan(folds=3, shard_size=4, fold_masks=["real", "random"])
    whole = list(small.shards(KEYS))
    assert [shard.name for shard in whole] == [small.name(len(KEYS), number) for number in range(9)]
    assert [small.shard(KEYS, number) for number in (8, 0)] == [whole[8], whole[0]]
    assert [(shard.fold, shard.mask_kind, len(shard.mask_keys)) for shard in whole[2:5]] == [
        (0, "real", 2), (1, "random", 4), (1, "random", 4),
    ]  # fmt: skip


def test_a_plan_without_what_came_later_kept_its_digest():
    assert plan(gates=OPEN).digest == "ca0276a4bf53e47e"
    assert plan(gates=OPEN, training="t" * 64).digest == "ca0276a4bf53e47e"
    assert plan(transforms=Transforms(shear=(-5, 5))).digest != plan().digest
    sheared = plan(transforms=Transforms(shear=(-5, 5)))
    assert Plan.model_validate_json(sheared.model_dump_json()).digest == sheared.digest
