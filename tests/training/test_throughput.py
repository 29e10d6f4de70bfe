"""Throughput: arithmetic counted once, told per worker, and as a share only of a device that is known."""

from pathlib import Path

import pytest
import torch

from siamdiff.config import Config
from siamdiff.estimate.architecture import architecture
from siamdiff.estimate.counting import train_step
from siamdiff.estimate.devices import DEVICES, device_by_cuda_name
from siamdiff.model.base import load_base
from siamdiff.training.context import SingleProcess
from siamdiff.training.losses import LossWeights
from siamdiff.training.throughput import Throughput
from tests.tiny_model import MASK_ALONE, RESOLUTION, write_base

STEPS, BATCH = 30, 6  # augmented from k = 11 on: k > N / 3


@pytest.fixture(scope="module")
def rates(folder: Path) -> Throughput:
    """Of the defaults; what it counts, it counts once."""
    return throughput(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    write_base(folder)
    return folder


def configured(folder: Path, **train: object) -> Config:
    return Config.model_validate(
        {
            "root": str(folder),
            "model": {"base": str(folder), "hint_channels": (4, 4, 8, 8, 16)},
            "data": {"resolution": RESOLUTION},
            "train": {"steps": STEPS, "batch_size": BATCH, **train},
        }
    ).resolve()


def throughput(folder: Path, world_size: int = 1, **train: object) -> Throughput:
    context = SingleProcess(torch.device("cpu"))
    context.world_size = world_size
    return Throughput(configured(folder, **train), load_base(str(folder)), context)


def test_a_rate_is_arithmetic_by_time_for_each_worker(folder: Path, rates: Throughput) -> None:
    found = rates.row(step=2, samples=2 * BATCH, seconds=0.5)
    networks = architecture(configured(folder))
    flops = train_step(networks, LossWeights(w_i=0.5), RESOLUTION, batch=1).flops
    assert found == {"samples_per_second": 24.0, "tflops": pytest.approx(24 * flops / 1e12, rel=1e-9)}
    of_two = throughput(folder, world_size=2).row(step=2, samples=2 * BATCH, seconds=0.5)
    assert of_two == {"samples_per_second": 24.0, "tflops": pytest.approx(found["tflops"] / 2)}


def test_augmented_steps_count_for_more_in_proportion(folder: Path, rates: Throughput) -> None:
    before, mixed, after = (rates.row(step, 4 * BATCH, 1.0)["tflops"] for step in (11, 13, 15))
    assert before < mixed < after
    assert mixed == pytest.approx((before + after) / 2)
    every = throughput(folder, augment_timesteps=999).row(15, 4 * BATCH, 1.0)["tflops"]
    assert after - before == pytest.approx(0.201 * (every - before))


def test_recomputed_activations_are_no_work(folder: Path, rates: Throughput) -> None:
    recomputing = throughput(folder, activation_checkpointing=True)
    assert recomputing.row(2, BATCH, 1.0) == rates.row(2, BATCH, 1.0)


def test_a_further_run_of_the_same_networks_is_not_counted_again(
    folder: Path, rates: Throughput, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = rates.row(2, BATCH, 1.0)
    monkeypatch.setattr("siamdiff.estimate.counting.Meter", None)
    assert throughput(folder, steps=7, learning_rate=3e-4).row(2, BATCH, 1.0) == before
    with pytest.raises(TypeError):
        throughput(folder, trained_unet="none").row(2, BATCH, 1.0)


def test_a_run_without_image_branch_takes_less(folder: Path, rates: Throughput) -> None:
    before = torch.get_rng_state()  # counting must not touch it
    alone = throughput(folder, **MASK_ALONE)
    assert alone.row(29, BATCH, 1.0)["tflops"] < rates.row(2, BATCH, 1.0)["tflops"]
    assert torch.equal(torch.get_rng_state(), before)


def test_a_share_is_told_of_devices_whose_peak_is_known(
    rates: Throughput, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rates, "peak", DEVICES["A100-80"].peak("bf16"))
    found = rates.row(2, BATCH, 1.0)
    assert found["share_of_peak"] == pytest.approx(found["tflops"] / 312)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100-80"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", None),
    ],
)
def test_names_that_cuda_gives_stand_for_devices_of_the_table(name: str, known: str | None) -> None:
    assert device_by_cuda_name(name) is (DEVICES[known] if known else None)
