"""Names of the authors' format, and their state dicts as networks."""

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_controlnet_checkpoint,
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)
from transformers import CLIPTextConfig, CLIPTextModel

from benchmarks.flops import sd15
from siamdiff.errors import UserError
from siamdiff.model.controlnet import SiameseControlNetModel
from siamdiff.model.ldm import authors_key, unet_from_ldm_config
from siamdiff.model.sd1 import network_config
from siamdiff.model.single_file import import_authors

LDM = {
    "image_size": 8,
    "in_channels": 4,
    "model_channels": 32,
    "attention_resolutions": [1],
    "num_res_blocks": 1,
    "channel_mult": [1, 2],
    "num_heads": 2,
    "transformer_depth": 1,
    "context_dim": 12,
}
# What the authors' configuration file says, Stable Diffusion 1.5's size.
SD15_LDM = {
    **LDM,
    "image_size": 32,
    "model_channels": 320,
    "attention_resolutions": [4, 2, 1],
    "num_res_blocks": 2,
    "channel_mult": [1, 2, 4, 4],
    "num_heads": 8,
    "context_dim": 768,
}


def networks() -> dict[str, torch.nn.Module]:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**unet_from_ldm_config(LDM))
    return {"unet": unet, "controlnet": SiameseControlNetModel.from_unet(unet)}


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """A whole checkpoint under the authors' keys, every tensor different."""
    parts = networks()
    config = parts["unet"].config
    return {
        authors_key(f"{part}.{key}", config): torch.randn_like(tensor)
        for part, module in parts.items()
        for key, tensor in module.state_dict().items()
    }


def test_keys_of_known_layers() -> None:
    config = sd15().unet.config
    known = {
        "unet.conv_in.weight": "model.diffusion_model.input_blocks.0.0.weight",
        "unet.down_blocks.1.resnets.0.conv_shortcut.bias": (
            "model.diffusion_model.input_blocks.4.0.skip_connection.bias"
        ),
        "unet.down_blocks.2.downsamplers.0.conv.weight": "model.diffusion_model.input_blocks.9.0.op.weight",
        "unet.up_blocks.0.upsamplers.0.conv.weight": "model.diffusion_model.output_blocks.2.1.conv.weight",
        "unet.up_blocks.1.upsamplers.0.conv.weight": "model.diffusion_model.output_blocks.5.2.conv.weight",
        "unet.up_blocks.3.attentions.2.proj_out.bias": "model.diffusion_model.output_blocks.11.1.proj_out.bias",
        "controlnet.mid_block.resnets.1.norm2.weight": "control_model.middle_block.2.out_layers.0.weight",
        "controlnet.controlnet_down_blocks.11.weight": "control_model.zero_convs.11.0.weight",
        "controlnet.controlnet_cond_embedding.stages.4.reduction.bias": (
            "control_model.input_hint_block.0.patch_merge1.reduction.bias"
        ),
    }
    assert {ours: authors_key(ours, config) for ours in known} == known


def test_the_key_map_is_one_to_one_at_full_size() -> None:
    model = sd15()
    assert len({authors_key(k, model.unet.config) for k in model.state_dict()}) == len(model.state_dict())


def test_the_authors_configuration_is_stable_diffusion_15() -> None:
    expected, found = sd15().unet.config, unet_from_ldm_config(SD15_LDM)
    del found["sample_size"]  # a default resolution of pipelines; LDM's file holds another one
    assert {key: list_of(expected[key]) for key in found} == {key: list_of(found[key]) for key in found}


def list_of(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def test_every_tensor_arrives(state: dict[str, torch.Tensor]) -> None:
    extra = {"first_stage_model.encoder.weight": torch.zeros(1), "betas": torch.zeros(1000)}
    unet, controlnet = import_authors(state | extra, LDM)
    arrived = {authors_key(f"unet.{k}", unet.config): v for k, v in unet.state_dict().items()}
    arrived |= {authors_key(f"controlnet.{k}", unet.config): v for k, v in controlnet.state_dict().items()}
    torch.testing.assert_close(arrived, state, rtol=0, atol=0)


def test_a_missing_key_is_named(state: dict[str, torch.Tensor]) -> None:
    short = {k: v for k, v in state.items() if k != "control_model.zero_convs.0.0.bias"}
    with pytest.raises(
        UserError, match=r"control_model\.\*.*1 missing \(control_model\.zero_convs\.0\.0\.bias\)"
    ):
        import_authors(short, LDM)


def test_an_unexpected_key_is_named(state: dict[str, torch.Tensor]) -> None:
    with pytest.raises(UserError, match=r"1 unexpected \(model\.diffusion_model\.label_emb\.weight\)"):
        import_authors(state | {"model.diffusion_model.label_emb.weight": torch.zeros(1)}, LDM)


def test_another_configuration_is_refused(state: dict[str, torch.Tensor]) -> None:
    with pytest.raises(UserError, match=r"of another shape \(.*, \.\.\.\)"):
        import_authors(state, {**LDM, "context_dim": 16})


def test_every_name_is_the_one_diffusers_converts_from_at_full_size() -> None:
    """Two independent mappings, name by name: ours to LDM's, then back by diffusers' own conversion."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**network_config("unet"))
        networks: dict[str, Any] = {
            "unet": unet,
            "controlnet": ControlNetModel.from_unet(unet),
            "vae": AutoencoderKL(**network_config("vae")),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**network_config("text_encoder"))),
        }
    converters: dict[str, Any] = {
        "unet": convert_ldm_unet_checkpoint,
        "controlnet": convert_controlnet_checkpoint,
        "vae": convert_ldm_vae_checkpoint,
        "text_encoder": lambda state, _: convert_ldm_clip_checkpoint(
            state, "cond_stage_model.transformer.text_model."
        ),
    }
    for part, network in networks.items():
        own = network.state_dict()
        theirs = {authors_key(f"{part}.{name}", network.config): tensor for name, tensor in own.items()}
        back = converters[part](theirs, network.config)
        if part == "text_encoder":
            back = {name.removeprefix("text_model."): tensor for name, tensor in back.items()}
        assert back.keys() == own.keys(), part
        # The very tensors, no two of which were exchanged; the VAE's attention comes back as views.
        moved = {name for name in own if back[name] is not own[name]}
        assert all(part == "vae" and ".attentions." in name for name in moved), moved


def test_attention_in_the_unet_is_between_convolutions() -> None:
    """As in Stable Diffusion 1.x; later versions have linear maps there, which would not fit."""
    state = sd15().unet.state_dict()
    assert state["up_blocks.1.attentions.0.proj_in.weight"].shape == (1280, 1280, 1, 1)
