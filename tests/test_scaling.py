"""The model of docs/scaling.md: its limits, and that it counts what is counted and made elsewhere."""

import dataclasses
import json
import pickle
import sys
from collections import Counter
from pathlib import Path

import pytest

from benchmarks import scaling
from benchmarks.plan import PER_SHARD, configure, counted
from benchmarks.scaling_generation import DECODE, Generation, shard_requests
from benchmarks.scaling_limits import image_limits
from benchmarks.scaling_training import (
    ENCODE,
    ENCODERS,
    FROZEN,
    MODULES,
    NODES,
    PASSES,
    TRAINED,
    Setting,
    bandwidth,
    best,
    communication,
    encoded,
    slowest,
    traffic,
)
from infra import audit
from infra.masks import read_masks
from infra.synthetic import Job, prepare
from siamdiff import storage
from siamdiff.config import Config
from siamdiff.data.manifest import finish_set
from siamdiff.data.shards import finished_shards, read_marker, write_shard
from siamdiff.estimate.architecture import Architecture, architecture, count
from siamdiff.estimate.counting import decode, encode, train_step
from siamdiff.sampling.copies import PairCopier
from siamdiff.training.losses import weights_at
from tests.s3 import S3Server
from tests.tiny_model import write_masks

H100 = NODES["H100"]
STAGES = [0, 1, 2, 3]


@pytest.fixture(scope="module")
def networks() -> Architecture:
    return architecture(
        Config.model_validate({"model": {"base": "stable-diffusion-v1-5/stable-diffusion-v1-5"}})
    )


@pytest.mark.parametrize("stage", STAGES)
def test_one_gpu_sends_nothing(stage: int) -> None:
    alone = Setting(H100, 1, stage, 48)
    assert traffic(alone, 1) == communication(alone, 1) == 0
    step = best(alone)
    assert step and step.exposed == 0 and step.carried == 48


def test_stage_3_moves_half_as_much_again_as_stage_2_where_nothing_is_frozen() -> None:
    three, two = (Setting(H100, 8, stage, 48, textbook=True) for stage in (3, 2))
    assert traffic(three, 1, frozen=0) == pytest.approx(1.5 * traffic(two, 1))
    # frozen weights are gathered too; and DeepSpeed all-reduces at stage 2 what it need only scatter
    assert traffic(three, 1) > 1.5 * traffic(two, 1)
    assert traffic(dataclasses.replace(two, textbook=False), 1) == pytest.approx(1.5 * traffic(two, 1))


def test_accumulated_micro_batches_are_sent_one_by_one_from_stage_2_on() -> None:
    sent = [
        traffic(Setting(H100, 8, stage, 48), 3) / traffic(Setting(H100, 8, stage, 48), 1) for stage in STAGES
    ]
    assert sent == pytest.approx([1, 1, 7 / 3, 3])


def test_half_the_bytes_or_twice_the_bandwidth_take_half_the_time() -> None:
    fast = dataclasses.replace(H100, link=2 * H100.link, network=2 * H100.network)
    for gpus in (8, 16):
        assert bandwidth(fast, gpus) == 2 * bandwidth(H100, gpus)
    assert bandwidth(H100, 16) < bandwidth(H100, 8)
    half = Setting(H100, 8, 0, 48, precision="fp16")
    assert 2 * traffic(half, 1) == traffic(Setting(H100, 8, 0, 48), 1)


def test_twice_the_share_of_the_peak_halves_the_passes() -> None:
    slow, fast = (best(Setting(H100, 8, 2, 48, share=share)) for share in (0.2, 0.4))
    assert slow and fast and slow.passes == pytest.approx(2 * fast.passes)


def test_the_slowest_worker_has_the_mean_alone_and_everything_among_many() -> None:
    assert slowest(6, 1, 0.201) == pytest.approx(6 * 0.201)
    assert 6 * 0.201 < slowest(6, 8, 0.201) < slowest(6, 64, 0.201) < 6
    assert slowest(1, 10**6, 0.201) == pytest.approx(1)


def test_samples_fill_up_where_the_batch_does_not_divide_and_no_worker_is_without() -> None:
    step = best(Setting(H100, 40, 2, 48))
    assert step and step.carried == 80
    with pytest.raises(ValueError, match="more workers than"):
        best(Setting(H100, 64, 2, 48))


def test_what_does_not_fit_is_told() -> None:
    assert best(Setting(NODES["RTX 4090"], 1, 2, 48)) is None
    step = best(Setting(NODES["RTX 4090"], 8, 2, 48))
    assert step and step.memory <= 24e9


def test_the_vae_looks_at_each_image_once_a_process_at_most() -> None:
    assert encoded(Setting(H100, 8, 2, 48)) == 0
    without = Setting(H100, 8, 2, 48, cache=False)
    assert 1450 / 18_000 * 0.99 < encoded(without) < 1450 / 18_000
    assert encoded(dataclasses.replace(without, images=10**6)) == 1


def test_parameters_and_single_passes_are_those_counted(networks: Architecture) -> None:
    model = networks.model
    assert count(model, trainable=True) == TRAINED
    assert count(model) - TRAINED == FROZEN
    assert count(networks.base.vae) + count(networks.base.text_encoder) == ENCODERS
    modules = [module for net in (model.unet, model.control) for module in net.modules()]
    assert sum(any(True for _ in module.parameters(recurse=False)) for module in modules) == MODULES
    assert encode(networks, 384).flops == pytest.approx(ENCODE, rel=1e-4)
    assert decode(networks, 384, 1).flops == pytest.approx(DECODE, rel=1e-4)


@pytest.mark.soak
@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_passes_are_those_counted(networks: Architecture, checkpointing: bool) -> None:
    plain, augmented = (
        train_step(networks, weights_at(k, 3000), 384, 1, checkpointing=checkpointing) for k in (0, 2000)
    )
    passes = PASSES[checkpointing]
    assert plain.flops == pytest.approx(passes.plain, rel=1e-4)
    assert augmented.flops == pytest.approx(passes.augmented, rel=1e-4)
    assert augmented.peak == pytest.approx(passes.first, rel=1e-3)


def test_objects_and_requests_are_those_of_a_set_that_is_made(s3: S3Server, tmp_path: Path) -> None:
    masks = write_masks(f"{tmp_path}/masks", PER_SHARD + 2)
    job = prepare(configure(s3.new_root(), masks.uri))
    reckoned = Generation(H100, 1, job.count, len(job.keys))
    assert reckoned.shards == job.shards == 8
    with counted(job.output) as asked:
        _make(job)
    expected = shard_requests(job.shards)
    assert asked["PutObject"] == expected.put + 2  # index.parquet, dataset.json
    assert asked["GetObject"] == expected.get
    assert 0 <= asked["HeadObject"] - expected.head <= 4  # of what is not there yet
    assert 0 <= asked["ListObjectsV2"] - expected.list <= 4
    files = storage.list_files(job.output)
    of_generate = {"config.yaml", "gates.json", "status.json", "README.md"}
    assert len(files) + len(of_generate) == reckoned.objects
    assert len(json.dumps(storage.read_json(f"{job.output}/dataset.json")["shards"][0])) < 169


def _make(job: Job) -> None:
    """What infra.generate does with a store, without Ray."""
    assert not finished_shards(job.output)
    names = [job.name(number) for number in range(job.shards)]
    for number, name in enumerate(names):
        row = read_masks({"number": number, "name": name}, job.masks.uri, job.plan)
        made = PairCopier().make(pickle.loads(row["conditions"]))
        write_shard(job.output, name, made.samples, made_by=made.made_by)
    assert finished_shards(job.output) == set(names)
    for name in names:
        found = audit._check({"name": name}, job.output, job.plan, job.masks.uri)
        assert not found["problems"]
    about = {"demo": True, "license": "CC-BY-4.0", "permitted_use": "any", "made_from": {}}
    finish_set(job.output, names, kind="synthetic", resolution=32, **about)
    read_marker(job.output, names[0])  # for the card


def test_images_cost_as_much_in_any_number_of_gpus_and_more_of_them_end_sooner() -> None:
    one, many = (Generation(H100, gpus, 10**6, 250_000) for gpus in (1, 64))
    assert many.rate == pytest.approx(64 * one.rate)
    assert one.size == many.size and one.objects == many.objects
    assert 60 < one.seconds / many.seconds < 64  # the driver's part stays
    assert one.gpu_dollars < many.gpu_dollars < 1.05 * one.gpu_dollars


def test_folds_of_the_same_masks_make_readers_the_slower_part() -> None:
    few, many = (Generation(H100, 8, 1450 * folds, 1450) for folds in (3, 690))
    assert few.an_image == few.drawing and many.an_image == many.reading


def test_what_breaks_is_told_in_its_order() -> None:
    numbers = [limit.at for limit in image_limits()]
    assert numbers == sorted(numbers)
    assert all(limit.remedy for limit in image_limits())


def test_predictions_are_near_what_was_measured() -> None:
    errors = {check.what: abs(check.error) for check in scaling.checks()}
    assert max(errors.values()) < 0.15
    assert Counter(error < 0.05 for error in errors.values())[True] >= len(errors) - 1


def test_it_is_told_as_text_and_as_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["scaling", "--rate", "0.3", "--plot", str(tmp_path / "plot.svg")])
    scaling.main()
    assert "what breaks first" in capsys.readouterr().out
    assert (tmp_path / "plot.svg").read_text().count("GPUs</text>") == 1
    monkeypatch.setattr(sys, "argv", ["scaling", "--json", "--price", "1"])
    scaling.main()
    told = json.loads(capsys.readouterr().out)["predictions"][0]
    assert all(row["gpu_dollars"] == pytest.approx(row["gpu_hours"]) for row in told["generation"])
    monkeypatch.setattr(sys, "argv", ["scaling", "--rate", "1.5"])
    with pytest.raises(SystemExit, match="2"):
        scaling.main()
    assert "above 0, at most 1" in capsys.readouterr().err
