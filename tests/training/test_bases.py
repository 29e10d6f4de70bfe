"""A run and its base: which one it means, what it is pinned to, and what is refused before anything is spent."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from infra.train import train
from siamdiff import storage
from siamdiff.config import Config
from siamdiff.errors import UserError
from siamdiff.model.folder import load_model
from siamdiff.training import bases
from tests.model.test_single_file import Payload
from tests.model.tiny_sd import fill_hub_cache, ldm_state, networks, save_folder
from tests.sets import small_config, write_phantoms

HUB_ID = "clinic/tiny-sd"
FIRST, SECOND = "1" * 40, "2" * 40


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    return networks()


@pytest.fixture(scope="module")
def root(parts: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("root")
    write_phantoms(str(folder / "data"))
    save_folder(folder / "sd", parts)
    return folder


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SIAMDIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def configure(root: Path, run: str, base: str, parts: str | None = None, **settings: Any) -> Config:
    defaults = {"run": run, "steps": 1, "batch_size": 2, "engine": "torch"}
    model = {"base": base, "parts": parts, "hint_channels": (4, 4, 8, 8, 16)}
    return small_config(str(root), model=model, train=defaults | settings)


def refusal(config: Config) -> str:
    with pytest.raises(UserError) as error:
        train(config, True)
    assert "\n" not in str(error.value)
    status = storage.read_json(storage.join(config.run_uri(), "status.json"))
    assert (status["phase"], status["exit_code"]) == ("failed", 2)
    return str(error.value)


def test_a_single_file_is_trained_from_and_its_frozen_parts_go_on_into_the_model(root, parts, tmp_path):
    torch.save(ldm_state(parts), tmp_path / "sd.ckpt")
    config = configure(root, "single-file", str(tmp_path / "sd.ckpt"), str(root / "sd"))
    train(config, True)
    model = load_model(storage.join(config.run_uri(), "model"))
    torch.testing.assert_close(model.vae.state_dict(), parts["vae"].state_dict(), rtol=0, atol=0)
    down, up = "down_blocks.0.resnets.0.conv1.weight", "up_blocks.1.resnets.0.conv1.weight"
    own, trained = parts["unet"].state_dict(), model.unet.state_dict()
    assert torch.equal(trained[down], own[down]) and not torch.equal(trained[up], own[up])


def test_a_hub_id_means_for_a_run_what_it_meant_when_the_run_began(root, caches):
    config = configure(root, "from-the-hub", HUB_ID)
    assert config.model.base == HUB_ID
    fill_hub_cache(caches, root / "sd", HUB_ID, FIRST)
    train(config, True)
    pinned = storage.read_json(storage.join(config.run_uri(), "pinned.json"))
    assert pinned["digest of base"] == f"{HUB_ID}@{FIRST}"
    fill_hub_cache(caches, root / "sd", HUB_ID, SECOND)
    assert bases.base_uri(config, "") == f"{HUB_ID}@{FIRST}"
    assert bases.base_uri(configure(root, "later", HUB_ID), "") == f"{HUB_ID}@{SECOND}"
    train(config, True)  # says that it is finished


def test_a_run_is_not_continued_on_another_base_under_the_same_name(root, tmp_path):
    folder = shutil.copytree(root / "sd", tmp_path / "sd")
    config = configure(root, "changed-base", str(folder))
    train(config, True)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError, match=r"digest of base was 'sha256 .*', is now 'sha256 "):
        train(config, True)


def test_a_poisoned_base_of_a_job_is_refused_and_not_executed(root, tmp_path):
    trace = tmp_path / "it ran"
    torch.save({"state_dict": ldm_state(networks()), "callbacks": Payload(trace)}, tmp_path / "sd.ckpt")
    message = refusal(configure(root, "poisoned", str(tmp_path / "sd.ckpt"), str(root / "sd")))
    assert "posix.mkdir" in message and "refused" in message
    assert not trace.exists()


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("in_channels", 9, "unet in_channels is 9, must be 4"),
        ("cross_attention_dim", 32, "unet cross_attention_dim is 32, must be 16"),
    ],
)
def test_a_base_that_does_not_fit_ends_the_job_before_it_trains(root, tmp_path, option, value, says):
    folder = save_folder(tmp_path / "sd", networks(**{option: value}))
    assert f"base {folder}: {says}" in refusal(configure(root, f"wrong-{option}", str(folder)))


def test_a_base_that_is_nowhere_ends_the_job(root, tmp_path):
    assert "no base at" in refusal(configure(root, "nowhere", str(tmp_path / "nowhere")))
    assert "P.download('org/unknown')" in refusal(configure(root, "unknown", "org/unknown"))
