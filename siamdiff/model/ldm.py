"""Weights in the authors' format (LDM naming): `model.diffusion_model.*` is the UNet, `control_model.*` the ControlNet.

`authors_key` is the bijection between parameter names of `SiameseDiffusion` and theirs; the importer is built on it.
"""

import re
from collections.abc import Mapping
from typing import Any

from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from siamdiff.errors import UserError
from siamdiff.model.controlnet import SiameseControlNetModel

# Prefix of ours -> prefix of theirs.
PARTS = {"unet.": "model.diffusion_model.", "controlnet.": "control_model."}

# DHI's stages in order, as the authors name them.
DHI_STAGES = (
    *("initial_conv", "layer1"),
    *("conv_before_res2", "layer2"),
    *("patch_merge1", "conv_before_res3", "layer3"),
    *("patch_merge2", "conv_before_res4", "layer4"),
    *("patch_merge3", "conv_before_res5", "layer5"),
)

# Inside a residual block; attention blocks have the same names on both sides.
RESNET = {
    "norm1.": "in_layers.0.",
    "conv1.": "in_layers.2.",
    "time_emb_proj.": "emb_layers.1.",
    "norm2.": "out_layers.0.",
    "conv2.": "out_layers.3.",
    "conv_shortcut.": "skip_connection.",
}

# Outside the numbered blocks: our prefix -> theirs.
FIXED = {
    "conv_in.": "input_blocks.0.0.",
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
    **{f"mid_block.resnets.0.{a}": f"middle_block.0.{b}" for a, b in RESNET.items()},
    "mid_block.attentions.0.": "middle_block.1.",
    **{f"mid_block.resnets.1.{a}": f"middle_block.2.{b}" for a, b in RESNET.items()},
    "conv_norm_out.": "out.0.",
    "conv_out.": "out.2.",
    "controlnet_mid_block.": "middle_block_out.0.",
    "controlnet_cond_embedding.zero_conv.": "input_hint_block.1.",
    **{
        f"controlnet_cond_embedding.stages.{i}.": f"input_hint_block.0.{s}." for i, s in enumerate(DHI_STAGES)
    },
}

_NUMBERED = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_ZERO_CONV = re.compile(r"controlnet_down_blocks\.(\d+)\.(.+)")


def authors_key(key: str, unet_config: Mapping[str, Any]) -> str:
    """The authors' name of a parameter.

    Args:
        key: a parameter name of SiameseDiffusion, `unet.*` or `controlnet.*`.
        unet_config: the UNet's diffusers configuration (layers_per_block and up_block_types are read).
    """
    part = next(part for part in PARTS if key.startswith(part))
    name = key.removeprefix(part)
    if numbered := _NUMBERED.fullmatch(name):
        side, i, kind, j, rest = numbered.groups()
        return PARTS[part] + _numbered_block(side, int(i), kind, int(j), rest, unet_config)
    if zero_conv := _ZERO_CONV.fullmatch(name):
        return PARTS[part] + f"zero_convs.{zero_conv[1]}.0.{zero_conv[2]}"
    return PARTS[part] + _renamed(name, FIXED)


def unet_from_ldm_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of diffusers' UNet2DConditionModel for LDM's UNet parameters (`unet_config.params` of its YAML)."""
    widths = tuple(config["model_channels"] * mult for mult in config["channel_mult"])
    attends = [2**level in config["attention_resolutions"] for level in range(len(widths))]
    return {
        "sample_size": config["image_size"],
        "in_channels": config["in_channels"],
        "out_channels": config.get("out_channels", config["in_channels"]),
        "block_out_channels": widths,
        "layers_per_block": config["num_res_blocks"],
        "down_block_types": tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        "up_block_types": tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
        "transformer_layers_per_block": config["transformer_depth"],
        "cross_attention_dim": config["context_dim"],
        # In diffusers' UNet this is, by an old misnomer, the *number* of heads.
        "attention_head_dim": config["num_heads"],
    }


def import_authors(
    state: Mapping[str, Tensor], config: Mapping[str, Any]
) -> tuple[UNet2DConditionModel, SiameseControlNetModel]:
    """UNet and ControlNet from a state dict of the authors'. Other parts (VAE, text encoder) are not looked at.

    Args:
        state: the authors' key -> tensor.
        config: LDM's UNet parameters; the number of heads, for one, cannot be read off the tensors.

    Raises:
        UserError: keys within a part are missing, unexpected or of another shape than `config` says.
    """
    unet = UNet2DConditionModel(**unet_from_ldm_config(config))
    controlnet = SiameseControlNetModel.from_unet(unet)
    for ours, module in (("unet.", unet), ("controlnet.", controlnet)):
        _load(module, ours, state, unet.config)
    return unet, controlnet


def _load(module: nn.Module, ours: str, state: Mapping[str, Tensor], unet_config: Mapping[str, Any]) -> None:
    """Copy one part of the authors' state dict into `module`, strictly."""
    own = module.state_dict()
    theirs = {key: authors_key(ours + key, unet_config) for key in own}
    expected, given = set(theirs.values()), {key for key in state if key.startswith(PARTS[ours])}
    shapes = {theirs[key]: tuple(tensor.shape) for key, tensor in own.items()}
    reshaped = {key for key in expected & given if tuple(state[key].shape) != shapes[key]}
    faults = {"missing": expected - given, "unexpected": given - expected, "of another shape": reshaped}
    if any(faults.values()):
        found = "; ".join(f"{len(keys)} {fault} ({_some(keys)})" for fault, keys in faults.items() if keys)
        raise UserError(
            f"weights under {PARTS[ours]}* do not fit the LDM configuration: {found}; "
            "give the configuration that the checkpoint was trained with, and the whole checkpoint"
        )
    module.load_state_dict({key: state[theirs[key]] for key in own})


def _numbered_block(side: str, i: int, kind: str, j: int, rest: str, unet_config: Mapping[str, Any]) -> str:
    """LDM numbers the layers of all levels through; a level ends with its down- or up-sampler."""
    n = unet_config["layers_per_block"]
    if side == "down":
        first = 1 + i * (n + 1)  # number 0 is the first convolution
        if kind == "downsamplers":
            return f"input_blocks.{first + n}.0.op.{rest.removeprefix('conv.')}"
        blocks = "input_blocks"
    else:
        first = i * (n + 1)
        if kind == "upsamplers":  # sits in the level's last layer, behind the attention if there is one
            slot = 2 if unet_config["up_block_types"][i].startswith("CrossAttn") else 1
            return f"output_blocks.{first + n}.{slot}.{rest}"
        blocks = "output_blocks"
    layer = f"{blocks}.{first + j}"
    return f"{layer}.0.{_renamed(rest, RESNET)}" if kind == "resnets" else f"{layer}.1.{rest}"


def _renamed(name: str, prefixes: Mapping[str, str]) -> str:
    """`name` with the prefix that `prefixes` lists for it, if any, replaced."""
    for ours, theirs in prefixes.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def _some(keys: set[str]) -> str:
    """The first three of the keys, for an error message of one line."""
    return ", ".join(sorted(keys)[:3]) + (", ..." if len(keys) > 3 else "")
