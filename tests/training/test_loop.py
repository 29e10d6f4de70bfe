"""The loop in one process: what a run leaves, exact resume, independence of the batch's division."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from siamdiff import storage
from siamdiff.config import Config
from siamdiff.errors import SiamdiffError, StoppedError, UserError
from siamdiff.model.base import load_base
from siamdiff.model.folder import load_model
from siamdiff.run import lease
from siamdiff.training import bases, checkpoint
from siamdiff.training.context import SingleProcess
from siamdiff.training.engine import TorchEngine
from siamdiff.training.loop import train
from siamdiff.training.wish import Wish
from tests.sets import small_config, write_phantoms


class InterruptedRunError(Exception):
    """Stands for a process that ends in the middle of a step."""


class FailingEngine(TorchEngine):
    """Stops before a given optimizer step of this attempt."""

    steps_left = 5

    def step(self) -> None:
        if self.steps_left == 0:
            raise InterruptedRunError
        self.steps_left -= 1
        super().step()


def run(config: Config, kind: type[TorchEngine] = TorchEngine, place: SingleProcess | None = None) -> None:
    base = bases.prepare_base(config)
    with lease(config.run_uri()) as held:
        train(config, base, held, place or SingleProcess(torch.device("cpu")), kind.of)


def metrics(config: Config) -> list[dict[str, float]]:
    return [json.loads(line) for line in storage.read_bytes(f"{config.run_uri()}/metrics.jsonl").splitlines()]


def losses(config: Config) -> list[float]:
    return [row["L"] for row in metrics(config)]


def key_log(config: Config) -> list[tuple[int, list[int], list[str]]]:
    folder = f"{config.run_uri()}/logs/keys"
    rows = []
    for name in storage.list_files(folder):
        rows += [json.loads(line) for line in storage.read_bytes(f"{folder}/{name}").splitlines()]
    return [(row["step"], row["positions"], row["keys"]) for row in rows]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set and a base that every run here shares."""
    folder = tmp_path_factory.mktemp("root")
    write_phantoms(str(folder / "data"))
    bases.prepare_base(small_config(str(folder)))
    return folder


@pytest.fixture(scope="module")
def whole(root: Path) -> Config:
    """A run from start to end."""
    config = small_config(str(root), train={"run": "whole"})
    run(config)
    return config


def test_a_run_leaves_what_the_contract_names(whole: Config):
    names = set(storage.list_files(whole.run_uri()))
    assert {"metrics.jsonl", "model/siamdiff.json", "previews/step-00000006.png"} <= names
    assert any(name.startswith("tensorboard/events") for name in names)
    parts = {name.split("/")[1] for name in names if name.startswith("model/")}
    assert {"unet", "controlnet", "vae", "text_encoder", "tokenizer", "scheduler", "model_index.json"} < parts
    assert checkpoint.complete_steps(whole.run_uri()) == [3, 6]
    rows = metrics(whole)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[0]["L_m_prime"] == 0.0  # before N / 3
    assert rows[0]["L"] == pytest.approx(rows[0]["L_m"] + rows[0]["L_i"] + rows[0]["L_c"], rel=1e-5)


def test_every_position_of_the_stream_is_consumed_once_in_order(whole: Config):
    log = key_log(whole)
    assert [step for step, _, _ in log] == list(range(6))
    assert [position for _, positions, _ in log for position in positions] == list(range(24))
    first_epoch = [key for _, _, keys in log for key in keys][:10]
    assert len(set(first_epoch)) == 10  # each training sample once before any comes again


def test_the_model_loads_and_carries_its_provenance(whole: Config):
    model = load_model(f"{whole.run_uri()}/model")
    assert model.info["resolution"] == 32
    assert model.info["demo"] is True
    assert model.info["license"] == "Apache-2.0"
    assert all(not p.requires_grad for p in model.control.parameters())


def test_training_moved_the_decoder_and_left_the_encoder(whole: Config):
    trained = load_model(f"{whole.run_uri()}/model").unet.state_dict()
    before = load_base(bases.prepare_base(whole)).unet.state_dict()
    moved = {name for name, weights in trained.items() if not torch.equal(weights, before[name])}
    assert moved
    assert all(name.startswith(("up_blocks.", "conv_norm_out.", "conv_out.")) for name in moved)


def test_an_interrupted_run_ends_as_the_whole_one(root: Path, whole: Config):
    config = small_config(str(root), train={"run": "interrupted"})
    with pytest.raises(InterruptedRunError):
        run(config, FailingEngine)
    assert checkpoint.complete_steps(config.run_uri()) == [3]
    assert not storage.exists(f"{config.run_uri()}/model/siamdiff.json")
    run(config)
    assert losses(config) == pytest.approx(losses(whole), rel=1e-6)
    assert key_log(config) == key_log(whole)


def test_accumulation_and_reading_processes_change_nothing(root: Path, whole: Config):
    config = small_config(str(root), train={"run": "accumulated", "micro_batch": 2, "loader_workers": 1})
    run(config)
    assert losses(config) == pytest.approx(losses(whole), rel=1e-4)


@pytest.mark.soak  # test_engine.py holds the engine to it; bf16 is slow on most CPUs
def test_bf16_tracks_fp32_resumes_exactly_and_leaves_fp32_weights(root: Path, whole: Config):
    config = small_config(str(root), train={"run": "bf16", "precision": "bf16"})
    run(config)
    assert losses(config) != losses(whole)
    assert losses(config) == pytest.approx(losses(whole), rel=0.02)
    weights = load_file(f"{config.run_uri()}/model/unet/diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}

    cut = small_config(str(root), train={"run": "bf16-cut", "precision": "bf16"})
    with pytest.raises(InterruptedRunError):
        run(cut, FailingEngine)
    run(cut)
    assert losses(cut) == losses(config)


def test_fp16_on_a_cpu_is_refused(root: Path):
    with pytest.raises(UserError, match=r"fp16, which needs a GPU; give --train\.precision bf16"):
        run(small_config(str(root), train={"run": "fp16", "precision": "fp16"}))


def test_channels_last_changes_no_loss(root: Path, whole: Config):
    config = small_config(str(root), train={"run": "channels-last", "channels_last": True})
    run(config)
    assert losses(config) == pytest.approx(losses(whole), rel=1e-4)


def test_activations_may_be_recomputed_from_any_step_on_and_change_no_loss(root: Path, whole: Config):
    with pytest.raises(InterruptedRunError):
        run(small_config(str(root), train={"run": "recomputed"}), FailingEngine)
    config = small_config(str(root), train={"run": "recomputed", "activation_checkpointing": True})
    run(config)
    assert config.pinned() == whole.pinned()
    assert losses(config) == pytest.approx(losses(whole), rel=1e-6)


def test_an_incomplete_checkpoint_does_not_count(root: Path, whole: Config):
    config = small_config(str(root), train={"run": "incomplete"})
    with pytest.raises(InterruptedRunError):
        run(config, FailingEngine)
    leftover = f"{config.run_uri()}/checkpoints/step-00000005.0dead000"
    storage.write_bytes(f"{leftover}/state.pt", b"half")
    run(config)
    assert storage.list_files(leftover) == {}
    assert losses(config) == pytest.approx(losses(whole), rel=1e-6)


def test_a_damaged_checkpoint_is_named_before_it_is_loaded(root: Path):
    config = small_config(str(root), train={"run": "damaged"})
    with pytest.raises(InterruptedRunError):
        run(config, FailingEngine)
    file = Path(checkpoint.find(config.run_uri(), 3).uri) / "state.pt"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(SiamdiffError, match=r"step-00000003\.\w+ is damaged: state\.pt has another hash"):
        run(config)


def test_a_gradient_that_explodes_stops_the_run_before_the_weights_change(root: Path):
    config = small_config(
        str(root),
        train={"run": "diverged", "learning_rate": 1e4, "checkpoint_steps": 1, "validation_steps": 1},
    )
    with pytest.raises(
        SiamdiffError, match=r"step \d: the gradient.*; nothing was changed, .*logs/diverged-\d+\.json"
    ):
        run(config)
    steps = checkpoint.complete_steps(config.run_uri())
    (name,) = (n for n in storage.list_files(f"{config.run_uri()}/logs") if n.startswith("diverged"))
    told = storage.read_json(f"{config.run_uri()}/logs/{name}")
    assert steps[-1] == told["step"]  # the step before it was saved, and the weights of then are what is kept
    assert len(told["samples"]) == 4
    assert {"key", "position", "t", "terms", "offends"} <= told["samples"][0].keys()
    assert not storage.exists(f"{config.run_uri()}/model/siamdiff.json")


def test_a_stop_writes_a_checkpoint_and_the_same_command_goes_on(root: Path, whole: Config):
    config = small_config(str(root), train={"run": "stopped", "checkpoint_steps": 100})
    place = SingleProcess(torch.device("cpu"))

    class Asking(TorchEngine):
        """During whose fourth step the process is told to stop."""

        def set_learning_rate(self, lr: float) -> None:
            super().set_learning_rate(lr)
            steps.append(lr)
            if len(steps) == 4:
                place.ask(Wish.STOP, "SIGTERM")

    steps: list[float] = []
    with pytest.raises(StoppedError, match="stopped by SIGTERM after step 4 of 6; a checkpoint was written"):
        run(config, Asking, place)
    assert checkpoint.complete_steps(config.run_uri()) == [4]
    run(config)
    assert losses(config) == losses(whole)
    assert key_log(config) == key_log(whole)


def test_a_budget_that_is_used_up_stops_the_run_with_a_checkpoint(root: Path, whole: Config):
    config = small_config(str(root), train={"run": "spent", "checkpoint_steps": None, "budget_hours": 1e-9})
    for step in (1, 2):  # of all attempts together
        with pytest.raises(StoppedError, match=r"stopped by its budget .* raise it to go on\) after step"):
            run(config)
        assert checkpoint.complete_steps(config.run_uri())[-1] == step
    run(small_config(str(root), train={"run": "spent"}))
    assert losses(config) == losses(whole)


def test_the_checkpoint_of_the_lowest_validation_loss_is_kept(root: Path):
    config = small_config(
        str(root),
        train={
            "run": "best",
            "checkpoint_steps": None,
            "validation_steps": 1,
            "checkpoints_kept": 1,
            "steps": 8,
        },
    )
    run(config)
    losses_by_step = {row["step"]: row["validation_loss"] for row in metrics(config)}
    best = min(losses_by_step, key=losses_by_step.__getitem__)
    assert set(checkpoint.complete_steps(config.run_uri())) == {best, 8}
    assert checkpoint.find(config.run_uri(), best).marker()["validation"] == losses_by_step[best]


def test_averaged_weights_become_the_model(root: Path, whole: Config):
    config = small_config(str(root), train={"run": "averaged", "ema_decay": 0.5})
    run(config)
    assert losses(config) == losses(whole)
    one, other = (
        load_file(f"{of.run_uri()}/model/unet/diffusion_pytorch_model.safetensors") for of in (config, whole)
    )
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_time_alone_makes_a_checkpoint_due(root: Path):
    config = small_config(
        str(root),
        train={"run": "timed", "checkpoint_steps": None, "checkpoint_minutes": 1e-6, "checkpoints_kept": 9},
    )
    run(config)
    assert checkpoint.complete_steps(config.run_uri()) == [1, 2, 3, 4, 5, 6]


def test_a_damaged_shard_met_by_a_reading_process_is_one_line(root: Path, tmp_path: Path):
    shutil.copytree(root, tmp_path / "root")
    config = small_config(str(tmp_path / "root"), train={"run": "flipped", "loader_workers": 1})
    bases.prepare_base(config)
    shard = sorted((tmp_path / "root" / "data" / "shards").glob("train-*.tar"))[0]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(SiamdiffError, match="is damaged: its hash") as caught:
        run(config)
    assert "Traceback" not in str(caught.value)
