"""Names of weights in the authors' format (LDM naming): a bijection, part by part.

| ours (SiameseDiffusion, Base) | theirs |
|---|---|
| `unet.*` | `model.diffusion_model.*` |
| `controlnet.*` | `control_model.*` |
| `vae.*` | `first_stage_model.*` |
| `text_encoder.*` | `cond_stage_model.transformer.text_model.*` |

`siamdiff.model.single_file` reads and writes files of them.
"""

import re
from collections.abc import Mapping
from typing import Any

# Our part -> prefix of theirs.
PARTS = {
    "unet": "model.diffusion_model.",
    "controlnet": "control_model.",
    "vae": "first_stage_model.",
    "text_encoder": "cond_stage_model.transformer.text_model.",
}

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
    # ControlNet's own hint encoder: convolutions at even numbers, SiLUs between them
    "controlnet_cond_embedding.conv_in.": "input_hint_block.0.",
    "controlnet_cond_embedding.conv_out.": "input_hint_block.14.",
    **{f"controlnet_cond_embedding.blocks.{i}.": f"input_hint_block.{2 * i + 2}." for i in range(6)},
}

# Inside the VAE's encoder and decoder.
VAE_FIXED = {
    "mid_block.resnets.0.": "mid.block_1.",
    "mid_block.resnets.1.": "mid.block_2.",
    "mid_block.attentions.0.group_norm.": "mid.attn_1.norm.",
    "mid_block.attentions.0.to_q.": "mid.attn_1.q.",
    "mid_block.attentions.0.to_k.": "mid.attn_1.k.",
    "mid_block.attentions.0.to_v.": "mid.attn_1.v.",
    "mid_block.attentions.0.to_out.0.": "mid.attn_1.proj_out.",
    "conv_norm_out.": "norm_out.",
}
VAE_RESNET = {"conv_shortcut.": "nin_shortcut."}

_NUMBERED = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_ZERO_CONV = re.compile(r"controlnet_down_blocks\.(\d+)\.(.+)")


def authors_key(key: str, config: Any) -> str:
    """The authors' name of a weight.

    Args:
        key: name of the part (see PARTS), dot, name of the weight in diffusers' or transformers' network.
        config: the network's configuration; a ControlNet may be given its UNet's. Read are layers_per_block and
            up_block_types (unet, controlnet), block_out_channels (vae).
    """
    part, _, name = key.partition(".")
    match part:
        case "vae":
            theirs = _vae_name(name, config)
        case "text_encoder":
            theirs = name.removeprefix("text_model.")  # a level that depends on transformers' version
        case _:
            theirs = _unet_name(name, config)
    return PARTS[part] + theirs


def _unet_name(name: str, config: Mapping[str, Any]) -> str:
    """Of a weight of UNet or ControlNet."""
    if numbered := _NUMBERED.fullmatch(name):
        side, i, kind, j, rest = numbered.groups()
        return _numbered_block(side, int(i), kind, int(j), rest, config)
    if zero_conv := _ZERO_CONV.fullmatch(name):
        return f"zero_convs.{zero_conv[1]}.0.{zero_conv[2]}"
    return _renamed(name, FIXED)


def _vae_name(name: str, config: Mapping[str, Any]) -> str:
    """LDM counts the decoder's levels from the latent's end of the encoder's: diffusers' first is its last."""
    half, _, inner = name.partition(".")
    if half not in ("encoder", "decoder"):
        return name
    if numbered := _NUMBERED.fullmatch(inner):
        side, i, kind, j, rest = numbered.groups()
        level = int(i) if side == "down" else len(config["block_out_channels"]) - 1 - int(i)
        if kind == "resnets":
            return f"{half}.{side}.{level}.block.{j}.{_renamed(rest, VAE_RESNET)}"
        return f"{half}.{side}.{level}.{side}sample.{rest}"
    return f"{half}.{_renamed(inner, VAE_FIXED)}"


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
