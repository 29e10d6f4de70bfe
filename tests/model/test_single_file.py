"""Stable Diffusion 1.x and the authors' format in one file: strict, both ways, nothing executed."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file

from siamdiff.errors import UserError
from siamdiff.model.base import load_base
from siamdiff.model.sd1 import make_scheduler
from siamdiff.model.single_file import Checkpoint, authors_state, read_checkpoint, schedule_buffers
from siamdiff.model.weights import read_weights
from tests.model.tiny_sd import DHI, control, ldm_state, networks, save_folder

ATTENTION = "first_stage_model.encoder.mid.attn_1.q.weight"
TEXT = "cond_stage_model.transformer."


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    return networks()


@pytest.fixture(scope="module")
def folder(parts: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_folder(tmp_path_factory.mktemp("base"), parts)


@pytest.fixture(scope="module")
def state(parts: dict[str, Any]) -> dict[str, torch.Tensor]:
    return ldm_state(parts)


def write(state: dict[str, torch.Tensor], path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 3}, path)
    return path


def refusal(state: dict[str, torch.Tensor], tmp_path: Path, supplied: Path | None) -> str:
    with pytest.raises(UserError) as error:
        read_checkpoint(write(state, tmp_path / "it.safetensors"), supplied).save(tmp_path / "folder")
    assert "\n" not in str(error.value)
    return str(error.value)


def assert_same(checkpoint: Checkpoint, parts: dict[str, Any]) -> None:
    for part, network in parts.items():
        found = checkpoint.controlnet if part == "controlnet" else checkpoint.networks[part]
        assert found
        torch.testing.assert_close(found.state_dict(), network.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["it.safetensors", "it.ckpt", "it.pth", "it.pt"])
def test_every_tensor_arrives_from_either_kind_of_file(state, parts, folder, tmp_path, name):
    assert_same(read_checkpoint(write(state, tmp_path / name), folder), parts)


@pytest.mark.parametrize("hint_channels", [DHI, None], ids=["dense hint input", "plain"])
def test_a_control_network_comes_with_the_hint_encoder_it_was_trained_with(
    parts, folder, tmp_path, hint_channels
):
    controlnet = control(parts["unet"], hint_channels)
    whole = parts | {"controlnet": controlnet}
    checkpoint = read_checkpoint(write(ldm_state(whole), tmp_path / "merged_pytorch_model.pth"), folder)
    assert_same(checkpoint, whole)
    assert checkpoint.controlnet
    assert checkpoint.controlnet.config["hint_channels"] == hint_channels


def test_the_folder_made_of_a_file_is_the_base_the_file_was_made_of(state, parts, folder, tmp_path):
    read_checkpoint(write(state, tmp_path / "it.safetensors"), folder).save(tmp_path / "made")
    made, base = load_base(str(tmp_path / "made")), load_base(str(folder))
    for part in parts:
        torch.testing.assert_close(
            getattr(made, part).state_dict(), getattr(base, part).state_dict(), rtol=0, atol=0
        )
    assert torch.equal(made.scheduler.alphas_cumprod, base.scheduler.alphas_cumprod)


def test_diffusers_reads_what_we_write(state, parts, folder, tmp_path):
    file = str(write(state, tmp_path / "it.safetensors"))
    for part, kind in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL)):
        theirs = kind.from_single_file(file, config=str(folder), subfolder=part, local_files_only=True)
        torch.testing.assert_close(theirs.state_dict(), parts[part].state_dict(), rtol=0, atol=0)


def test_linear_attention_a_missing_level_of_names_and_half_precision_are_read_too(
    state, parts, folder, tmp_path
):
    changed = {name.replace(TEXT + "text_model.", TEXT): tensor for name, tensor in state.items()}
    changed[ATTENTION] = changed[ATTENTION][:, :, 0, 0].contiguous()
    assert_same(read_checkpoint(write(changed, tmp_path / "it.safetensors"), folder), parts)
    half = {n: v.half() if n.startswith("model.") else v for n, v in state.items()}
    unet = read_checkpoint(write(half, tmp_path / "half.safetensors"), folder).networks["unet"]
    assert unet.dtype == torch.float32
    torch.testing.assert_close(
        unet.conv_in.weight, parts["unet"].conv_in.weight.half().float(), rtol=0, atol=0
    )


def test_what_such_files_hold_beside_weights_does_no_harm(state, parts, folder, tmp_path):
    extra = {
        "model_ema.diffusion_modelinput_blocks00weight": torch.zeros(3),
        "model_ema.decay": torch.tensor(0.9999),
        "first_stage_model.loss.discriminator.main.0.weight": torch.zeros(3),
        "lvlb_weights": torch.zeros(1000),
        "scale_factor": torch.tensor(0.18215),
    }
    assert_same(read_checkpoint(write(state | extra, tmp_path / "it.safetensors"), folder), parts)


@pytest.mark.parametrize(
    "name",
    [
        "model.diffusion_model.out.2.bias",
        "first_stage_model.post_quant_conv.weight",
        TEXT + "text_model.encoder.layers.1.mlp.fc2.bias",
    ],
)
def test_a_missing_and_an_unexpected_name_are_told(state, folder, tmp_path, name):
    short = {n: v for n, v in state.items() if n != name}
    assert f"1 missing ({name})" in refusal(short, tmp_path, folder)
    assert f"1 unexpected ({name}x)" in refusal(state | {name + "x": torch.zeros(1)}, tmp_path, folder)


def test_a_stray_name_is_told(state, folder, tmp_path):
    assert "1 unexpected names (adapter.weight)" in refusal(
        state | {"adapter.weight": torch.zeros(1)}, tmp_path, folder
    )


def test_a_part_that_is_nowhere_is_named_with_the_option_that_supplies_it(state, folder, tmp_path):
    short = {name: v for name, v in state.items() if not name.startswith("first_stage_model.")}
    supplied = tmp_path / "supplied"
    for part in ("unet", "text_encoder"):
        (supplied / part).mkdir(parents=True)
        (supplied / part / "config.json").write_bytes((folder / part / "config.json").read_bytes())
    message = refusal(short, tmp_path, supplied)
    assert "has no vae (first_stage_model.*)" in message and "model.parts" in message and "--base" in message


def test_a_file_of_another_size_than_stable_diffusion_is_told_the_way_out(state, tmp_path):
    message = refusal(state, tmp_path, None)
    assert "of another shape" in message and "model.parts" in message


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not a configuration"),
        ("[1]", "not a configuration"),
        ('{"block_out_channels": 3, "hidden_size": "x"}', "can be built"),
    ],
)
def test_a_damaged_configuration_is_told(state, folder, tmp_path, part, content, says):
    supplied = shutil.copytree(folder, tmp_path / "supplied")
    (supplied / part / "config.json").write_text(content)
    message = refusal(state, tmp_path, supplied)
    assert says in message and part in message


def test_another_noise_schedule_is_refused(state, folder, tmp_path):
    linear = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
    assert "another noise schedule" in refusal(state | {"alphas_cumprod": linear}, tmp_path, folder)
    del (rest := dict(state))["alphas_cumprod"]
    assert "another noise schedule" in refusal(
        rest | {"betas": torch.linspace(1e-4, 0.02, 1000)}, tmp_path, folder
    )
    assert "latents scaled by 0.13" in refusal(state | {"scale_factor": torch.tensor(0.13)}, tmp_path, folder)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("cond_stage_model.model.ln_final.weight", "Stable Diffusion 2.x"),
        ("conditioner.embedders.0.transformer.x", "Stable Diffusion XL"),
        ("lora_unet_down_blocks_0.alpha", "a LoRA"),
        ("down_blocks.0.resnets.0.conv1.weight", "diffusers' naming belong into a folder"),
    ],
)
def test_files_of_other_models_are_called_what_they_are(tmp_path, name, says):
    assert says in refusal({name: torch.zeros(1)}, tmp_path, None)


def test_the_schedules_buffers_are_those_of_diffusers_schedule():
    buffers, scheduler = schedule_buffers(), make_scheduler()
    assert len(buffers) == 13 and {b.dtype for b in buffers.values()} == {torch.float32}
    torch.testing.assert_close(buffers["alphas_cumprod"], scheduler.alphas_cumprod, rtol=1e-4, atol=0)
    abar = buffers["alphas_cumprod"].double()
    torch.testing.assert_close(buffers["sqrt_recipm1_alphas_cumprod"], (1 / abar - 1).sqrt().float())
    # z_0 and z_t weighted by the posterior's coefficients have z_t-1 for their mean: at z_0 = z_t = 1, no noise
    t = 500
    mean = buffers["posterior_mean_coef1"][t] * 1 + buffers["posterior_mean_coef2"][t] * abar[t].sqrt()
    assert mean.item() == pytest.approx(abar[t - 1].sqrt().item(), rel=1e-5)


def test_a_model_of_another_schedule_is_not_exported(parts):
    other = make_scheduler()
    other.alphas_cumprod = other.alphas_cumprod**1.1
    with pytest.raises(UserError, match="noise schedule is not"):
        authors_state(parts, other)


class Payload:
    """Pickled, it is a call that leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("suffix", [".ckpt", ".pth", ".pt", ".bin"])
def test_a_pickle_with_code_is_refused_and_not_executed(tmp_path, suffix, zipped):
    file, trace = tmp_path / f"poisoned{suffix}", tmp_path / "it ran"
    torch.save(
        {"state_dict": {"a": torch.zeros(1)}, "x": Payload(trace)},
        file,
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(UserError, match=r"it calls posix\.mkdir.*refused.*\.safetensors") as error:
        read_weights(file)
    assert "\n" not in str(error.value)
    assert not trace.exists()
    torch.load(file, weights_only=False)
    assert trace.exists(), "the payload is a real one"


@pytest.mark.parametrize("name", ["it.safetensors", "it.ckpt"])
def test_a_file_that_is_cut_short_is_refused(state, tmp_path, name):
    file = write(state, tmp_path / name)
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(UserError, match="cut short"):
        read_weights(file)
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(UserError, match="git lfs pull"):
        read_weights(file)


def test_a_file_of_anything_else_is_refused(tmp_path):
    for content, says in (([1], "it is a list"), ({"a": 1}, "a of another type"), ({}, "it is empty")):
        torch.save(content, tmp_path / "it.pt")
        with pytest.raises(UserError, match=says):
            read_weights(tmp_path / "it.pt")
