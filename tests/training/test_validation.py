"""The validation loss: Eq. 7 on fixed questions, one value whatever the workers, nothing left behind in the model."""

from copy import deepcopy
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from siamdiff.config import Config
from siamdiff.data.shardset import ShardSet
from siamdiff.data.stream import Batch
from siamdiff.model.base import Base, load_base
from siamdiff.model.build import build_model
from siamdiff.model.siamese import StepInputs
from siamdiff.training.context import Context, SingleProcess
from siamdiff.training.encoders import FrozenEncoders
from siamdiff.training.inference import TrainedModel, inference
from siamdiff.training.losses import LossWeights
from siamdiff.training.speed import compile_blocks
from siamdiff.training.validation import Validation, timesteps
from tests.tiny_model import MASK_ALONE, RESOLUTION, write_base, write_masks
from tests.training.workers import on_workers


class RecordingEncoders(FrozenEncoders):
    """Keeps what it gave."""

    def __init__(self, base: Base, device: torch.device) -> None:
        super().__init__(base, device)
        self.seen: list[StepInputs] = []

    def inputs(self, batch: Batch) -> StepInputs:
        self.seen.append(super().inputs(batch))
        return self.seen[-1]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set with nine samples in train and nine in val, and a base of random weights."""
    folder = tmp_path_factory.mktemp("root")
    write_masks(str(folder / "train-only"), 2)
    write_masks(str(folder / "data"), 9, splits=("train", "val"))
    write_base(folder / "base")
    return folder


def configured(root: Path, **train: object) -> Config:
    model = {"base": str(root / "base"), "hint_channels": (4, 4, 8, 8, 16)}
    data = {"resolution": RESOLUTION, "uri": str(root / "data")}
    return Config.model_validate({"root": str(root), "model": model, "train": train, "data": data}).resolve()


@lru_cache
def base_at(folder: str) -> Base:
    return load_base(folder)  # once, and in the main thread: diffusers loads in one thread at a time


def model_of(config: Config) -> TrainedModel:
    """With zero convolutions that are not zero, so that masks count."""
    torch.manual_seed(3)
    model = deepcopy(build_model(config, base_at(config.model.base)))
    with torch.no_grad():
        for p in model.control.parameters():
            if not p.any():
                p.normal_(std=0.2)
    return model.train()


def validation(config: Config, context: Context | None = None) -> Validation:
    assert config.data.uri
    context = context or SingleProcess(torch.device("cpu"))
    encoders = FrozenEncoders(base_at(config.model.base), context.device)
    return Validation(config, ShardSet.open(config.data.uri), encoders, context)


@pytest.fixture(scope="module")
def config(root: Path) -> Config:
    return configured(root)


@pytest.fixture(scope="module")
def loss(config: Config) -> float:
    found = validation(config).loss(model_of(config))
    assert found is not None
    return found


def test_timesteps_take_one_of_each_part_of_the_schedule() -> None:
    found = timesteps(42, 50, 1000)
    assert sorted(found // 20) == list(range(50))
    assert list(found) != sorted(found)
    assert list(timesteps(42, 50, 1000)) == list(found) != list(timesteps(43, 50, 1000))
    assert timesteps(42, 4000, 1000).max() == 999


def test_it_is_the_mask_branchs_loss_of_a_training_step(config: Config, loss: float) -> None:
    asked, model = validation(config), model_of(config)
    asked.encoders = RecordingEncoders(asked.encoders.base, asked.context.device)
    assert asked.loss(model) == loss
    mask_alone = LossWeights(w_i=None, w_c=0, augment=None)
    with torch.no_grad():
        sums = [len(x.t) * model(x, mask_alone)[1]["L_m"].item() for x in asked.encoders.seen]
    assert loss == pytest.approx(sum(sums) / 9, rel=1e-5)


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_any_number_of_workers_finds_the_same_value_to_the_last_bit(
    config: Config, loss: float, world_size: int
) -> None:
    models = [model_of(config) for _ in range(world_size)]
    found = on_workers(world_size, lambda worker: validation(config, worker).loss(models[worker.rank]))
    assert found == [loss] * world_size


def test_asked_again_it_says_the_same_and_a_changed_model_something_else(config: Config, loss: float) -> None:
    asked, model = validation(config), model_of(config)
    assert [asked.loss(model), asked.loss(model)] == [loss, loss]
    with torch.no_grad():
        next(model.control.parameters()).add_(0.1)
    assert asked.loss(model) != loss


def test_another_seed_asks_other_questions(root: Path, config: Config, loss: float) -> None:
    assert validation(configured(root, seed=1)).loss(model_of(config)) != loss


def test_no_more_samples_are_taken_than_wanted(root: Path, config: Config, loss: float) -> None:
    asked = validation(configured(root, validation_samples=5))
    assert len(asked.keys) == 5
    assert asked.loss(model_of(config)) != loss


def test_without_a_val_split_or_samples_there_is_none(root: Path) -> None:
    config = configured(root)
    without = config.model_copy(
        update={"data": config.data.model_copy(update={"uri": str(root / "train-only")})}
    )
    assert validation(without).loss(model_of(config)) is None
    assert validation(configured(root, validation_samples=0)).loss(model_of(config)) is None


def test_the_model_is_left_as_it_was(config: Config) -> None:
    model = model_of(config)
    model.unet.mid_block.eval()
    before = [module.training for module in model.modules()]
    validation(config).loss(model)
    assert [module.training for module in model.modules()] == before
    assert all(p.grad is None for p in model.parameters())
    assert torch.is_grad_enabled()


def test_the_modes_come_back_after_an_error(config: Config) -> None:
    model = model_of(config)
    with pytest.raises(KeyError), inference(model, config):
        assert not model.training
        raise KeyError
    assert all(module.training for module in model.modules())


def test_bf16_rounds_here_as_it_does_in_training(root: Path, config: Config, loss: float) -> None:
    lower = configured(root, precision="bf16")
    found = validation(lower).loss(model_of(lower))
    assert found != loss
    assert found == pytest.approx(loss, rel=0.02)


def test_nothing_is_compiled_for_it(root: Path, loss: float) -> None:
    compiled = configured(root, compile=True)
    model = model_of(compiled)
    compile_blocks(model.unet, model.control)
    counters.clear()
    assert validation(compiled).loss(model) == loss
    assert not counters["stats"]["unique_graphs"]


def test_an_adapter_has_one_too(root: Path) -> None:
    config = configured(root, **MASK_ALONE)
    adapted = config.model_copy(
        update={"model": config.model.model_copy(update={"control": "t2i-adapter", "hint_channels": None})}
    )
    found = validation(adapted).loss(model_of(adapted))
    assert found is not None and np.isfinite(found)
