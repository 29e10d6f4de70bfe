"""Stable Diffusion 1.x in a single file, with or without a control network: reading it strictly, writing it whole.

Such a file names its weights as LDM did (siamdiff.model.ldm) and says nothing of the architecture, which is Stable
Diffusion 1.x's (siamdiff.model.sd1) unless a folder in diffusers' layout tells another one.
"""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from siamdiff.errors import UserError
from siamdiff.model import sd1
from siamdiff.model.base import write_model_index
from siamdiff.model.controlnet import SiameseControlNetModel
from siamdiff.model.diffusion import SD15_SCHEDULE
from siamdiff.model.ldm import PARTS, authors_key, unet_from_ldm_config
from siamdiff.model.sources import safe_part
from siamdiff.model.weights import LOADING_ERRORS, read_weights, some, written_to

NETWORKS = ("unet", "vae", "text_encoder")
_TEXT = "cond_stage_model.transformer."
_POSITIONS = _TEXT + "text_model.embeddings.position_ids"

# What files hold beside weights, and what is done with it.
SCHEDULE = (  # functions of the noise schedule, which is checked to be Stable Diffusion 1.x's
    *(
        "betas",
        "alphas_cumprod",
        "alphas_cumprod_prev",
        "sqrt_alphas_cumprod",
        "sqrt_one_minus_alphas_cumprod",
    ),
    *("log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod"),
    *("posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2"),
    "logvar",  # 0: a term of LDM's loss that nobody trained
)
HARMLESS = re.compile(
    rf"(?:{'|'.join(SCHEDULE)}|lvlb_weights|scale_factor"
    r"|model_ema\..*"  # moving averages of weights that are there too: the weights themselves are taken
    r"|first_stage_model\.loss\..*"  # the discriminator that the VAE was once trained with
    r"|cond_stage_model\.transformer\.(?:text_model\.)?embeddings\.position_ids)"  # 0, 1, ..., 76
)

# Other models' files, by the beginning of a name.
FOREIGN = {
    "cond_stage_model.model.": "Stable Diffusion 2.x",
    "conditioner.embedders.": "Stable Diffusion XL",
    "model.diffusion_model.joint_blocks.": "Stable Diffusion 3",
    "model.diffusion_model.double_blocks.": "FLUX",
    "lora_": "a LoRA, not of a whole model",
}


@dataclass(frozen=True)
class Checkpoint:
    """The networks of a file, their weights mapped from it, fp32, to be saved or trained (the text encoder: saved).

    Attributes:
        path: the file.
        networks: unet, vae and text_encoder, as far as the file holds them.
        controlnet: where the file holds one.
        supplied: folder in diffusers' layout that tells the architecture and has the parts that the file lacks.
    """

    path: Path
    networks: dict[str, Any]
    controlnet: SiameseControlNetModel | None
    supplied: Path | None

    def save(self, folder: Path) -> None:
        """Writes a base in diffusers' layout: the file's networks, everything else from `supplied` or built in.

        Raises:
            UserError: a network is in neither.
        """
        lacking = [part for part in NETWORKS if part not in self.networks and not self._has(part)]
        if lacking:
            raise UserError(
                f"{self.path} has no {' and no '.join(f'{part} ({PARTS[part]}*)' for part in lacking)}; name a folder "
                "in diffusers' layout that has it: model.parts of a job, --base of convert"
            )
        with written_to(folder):
            for part, network in self.networks.items():
                network.save_pretrained(folder / part)
        for part in [part for part in (*NETWORKS, "tokenizer", "scheduler") if self._has(part)]:
            if part not in self.networks:
                shutil.copytree(safe_part(self._supplied(part)), folder / part)
        if not self._has("tokenizer"):
            sd1.make_tokenizer().save_pretrained(folder / "tokenizer")
        if not self._has("scheduler"):
            sd1.make_scheduler().save_pretrained(folder / "scheduler")
        write_model_index(folder, "StableDiffusionPipeline")

    def _supplied(self, part: str) -> Path:
        assert self.supplied
        return self.supplied / part

    def _has(self, part: str) -> bool:
        return self.supplied is not None and self._supplied(part).is_dir()


def read_checkpoint(path: Path, supplied: Path | None = None) -> Checkpoint:
    """Reads a file in LDM's naming: a base, or the authors' format with its control network.

    Args:
        path: .safetensors, or a pickle of tensors alone.
        supplied: folder in diffusers' layout; the configurations in it go before Stable Diffusion 1.x's.

    Raises:
        UserError: names are missing, unexpected or of another shape within a part; another noise schedule; not
            Stable Diffusion 1.x; a pickle with code.
    """
    state = read_weights(path)
    _refuse_foreign(path, state)
    _check_schedule(path, state)
    state = {_with_text_level(name): tensor for name, tensor in state.items() if not HARMLESS.fullmatch(name)}
    known = tuple(PARTS.values())
    if strays := {name for name in state if not name.startswith(known)}:
        raise UserError(
            f"{path} has {len(strays)} unexpected names ({some(strays)}); allowed are {', '.join(known)} with "
            "what follows, and what docs/bases.md lists as harmless"
        )
    present = [part for part in NETWORKS if any(name.startswith(PARTS[part]) for name in state)]
    configs = {part: _config(part, supplied) for part in NETWORKS}
    networks = {part: _empty(part, configs[part]) for part in present}
    for part, network in networks.items():
        _fill(network, part, state, str(path))
    controlnet = None
    if any(name.startswith(PARTS["controlnet"]) for name in state):
        controlnet = _control(configs["unet"], state, str(path))
    return Checkpoint(path, networks, controlnet, supplied)


def import_authors(
    state: Mapping[str, Tensor], config: Mapping[str, Any]
) -> tuple[UNet2DConditionModel, SiameseControlNetModel]:
    """UNet and ControlNet from a state dict of the authors'. Other parts (VAE, text encoder) are not looked at.

    Args:
        state: the authors' name -> tensor; fp32 tensors are taken as they are, not copied.
        config: LDM's UNet parameters; the number of heads, for one, cannot be read off the tensors.

    Raises:
        UserError: names within a part are missing, unexpected or of another shape than `config` says.
    """
    unet_config = unet_from_ldm_config(config)
    unet = _empty("unet", unet_config)
    _fill(unet, "unet", state, "the state dict")
    return unet, _control(unet_config, state, "the state dict")


def authors_state(networks: Mapping[str, nn.Module], scheduler: DDIMScheduler) -> dict[str, Tensor]:
    """Everything that the authors' loader expects, strictly: weights under their names, noise schedule, positions.

    Args:
        networks: by our part: unet, controlnet, vae, text_encoder.
        scheduler: of the model.

    Raises:
        UserError: the model has another noise schedule than Stable Diffusion 1.x's, which the authors' code builds in.
    """
    if not _is_sd1(scheduler.alphas_cumprod):
        raise UserError(
            "the model's noise schedule is not Stable Diffusion 1.x's, which the authors' format stands for; only "
            "models made from a base of that kind can be exported"
        )
    state = {}
    for part, network in networks.items():
        for name, tensor in network.state_dict().items():
            theirs = authors_key(f"{part}.{name}", network.config)
            if _is_vae_attention(theirs) and tensor.ndim == 2:
                tensor = tensor[:, :, None, None]  # a 1 x 1 convolution in LDM
            state[theirs] = tensor.contiguous()
    text: Any = networks["text_encoder"]
    positions = torch.arange(text.config.max_position_embeddings)[None]  # (1, 77)
    return state | schedule_buffers() | {_POSITIONS: positions}


def schedule_buffers() -> dict[str, Tensor]:
    """LDM's buffers of Stable Diffusion 1.x's noise schedule: fp32, computed in fp64 (Ho et al. 2020, Eq. 4, 7)."""
    start, end = (SD15_SCHEDULE[name] for name in ("beta_start", "beta_end"))
    steps = int(SD15_SCHEDULE["num_train_timesteps"])
    betas = np.linspace(np.sqrt(start), np.sqrt(end), steps) ** 2
    abar = np.cumprod(1 - betas)
    abar_before = np.append(1.0, abar[:-1])
    variance = betas * (1 - abar_before) / (1 - abar)
    buffers = {
        "betas": betas,
        "alphas_cumprod": abar,
        "alphas_cumprod_prev": abar_before,
        "sqrt_alphas_cumprod": np.sqrt(abar),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - abar),
        "log_one_minus_alphas_cumprod": np.log(1 - abar),
        "sqrt_recip_alphas_cumprod": np.sqrt(1 / abar),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / abar - 1),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": np.log(np.maximum(variance, 1e-20)),
        "posterior_mean_coef1": betas * np.sqrt(abar_before) / (1 - abar),
        "posterior_mean_coef2": (1 - abar_before) * np.sqrt(1 - betas) / (1 - abar),
        "logvar": np.zeros(steps),
    }
    return {name: torch.tensor(values, dtype=torch.float32) for name, values in buffers.items()}


def _config(part: str, supplied: Path | None) -> dict[str, Any]:
    path = supplied / part / "config.json" if supplied else None
    if not path or not path.is_file():
        return sd1.network_config(part)
    try:
        config = json.loads(path.read_text())
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise UserError(f"{path} is not a configuration in JSON: damaged, or cut short; fetch it again")
    return config


def _empty(part: str, config: Mapping[str, Any]) -> Any:
    """A network without storage."""
    try:
        with torch.device("meta"):
            match part:
                case "unet":
                    return UNet2DConditionModel.from_config(dict(config))
                case "vae":
                    return AutoencoderKL.from_config(dict(config))
                case _:
                    return CLIPTextModel(CLIPTextConfig(**config))
    except LOADING_ERRORS as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"no {part} can be built of its configuration ({reason}); give a folder whose {part}/config.json diffusers "
            "wrote (model.parts of a job, --base of convert)"
        ) from error


def _control(unet: Mapping[str, Any], state: Mapping[str, Tensor], source: str) -> SiameseControlNetModel:
    """The file's ControlNet, for a UNet of this configuration; which hint encoder, and how wide, its tensors tell."""
    hint = "control_model.input_hint_block"
    widths = None
    if f"{hint}.0.weight" not in state:
        stages = ("initial_conv", *(f"conv_before_res{i}" for i in range(2, 6)))
        first = [state.get(f"{hint}.0.{stage}.weight") for stage in stages]
        widths = [len(weight) for weight in first if weight is not None]
        if len(widths) < len(stages):
            raise UserError(
                f"{source} has a control network (control_model.*) without a whole hint encoder: {hint}.0.* must be "
                "Dense Hint Input's, or that of ControlNet; give the whole checkpoint"
            )
    with torch.device("meta"):
        controlnet = SiameseControlNetModel.from_unet(_empty("unet", unet), hint_channels=widths)
    _fill(controlnet, "controlnet", state, source)
    return controlnet


def _fill(network: Any, part: str, state: Mapping[str, Tensor], source: str) -> None:
    """Gives a network the state dict's tensors of one part, strictly, in fp32."""
    own = network.state_dict()
    theirs = {name: authors_key(f"{part}.{name}", network.config) for name in own}
    expected, given = set(theirs.values()), {name for name in state if name.startswith(PARTS[part])}
    found = {name: _as_linear(theirs[name], state[theirs[name]]) for name in own if theirs[name] in given}
    reshaped = {theirs[name] for name, tensor in found.items() if tensor.shape != own[name].shape}
    faults = {"missing": expected - given, "unexpected": given - expected, "of another shape": reshaped}
    if any(faults.values()):
        listed = "; ".join(
            f"{len(names)} {fault} ({some(names)})" for fault, names in faults.items() if names
        )
        raise UserError(
            f"{source}: the weights under {PARTS[part]}* are not those of the architecture: {listed}; give the whole "
            "file of a Stable Diffusion 1.x or, if it is of another size, the folder that tells its configuration "
            "(model.parts of a job, --base of convert)"
        )
    network.load_state_dict({name: tensor.float() for name, tensor in found.items()}, assign=True)


def _is_vae_attention(theirs: str) -> bool:
    return bool(re.fullmatch(r"first_stage_model\..*\.mid\.attn_1\.(q|k|v|proj_out)\.weight", theirs))


def _as_linear(theirs: str, tensor: Tensor) -> Tensor:
    """The VAE's attention has 1 x 1 convolutions in LDM, linear maps of the same weights in diffusers."""
    return tensor[:, :, 0, 0] if _is_vae_attention(theirs) and tensor.shape[2:] == (1, 1) else tensor


def _with_text_level(name: str) -> str:
    if name.startswith(_TEXT) and not name.startswith(PARTS["text_encoder"]):
        return PARTS["text_encoder"] + name.removeprefix(_TEXT)
    return name


def _refuse_foreign(path: Path, state: Mapping[str, Tensor]) -> None:
    for beginning, model in FOREIGN.items():
        if any(name.startswith(beginning) for name in state):
            raise UserError(
                f"{path} is of {model} ({beginning}*); give Stable Diffusion 1.x, such as the hub id "
                "stable-diffusion-v1-5/stable-diffusion-v1-5"
            )
    if not any(name.startswith(tuple(PARTS.values())) for name in state):
        raise UserError(
            f"{path} is not named as Stable Diffusion 1.x's files are: none of its {len(state)} tensors "
            f"({some(set(state))}) begins with {', '.join(PARTS.values())}; weights in diffusers' naming belong into a "
            "folder in its layout"
        )


def _check_schedule(path: Path, state: Mapping[str, Tensor]) -> None:
    """Raises UserError for another noise schedule or latent scale; either would train wrongly without a word."""
    abar, betas = state.get("alphas_cumprod"), state.get("betas")
    if abar is None and betas is not None:
        abar = torch.cumprod(1 - betas.double(), 0)
    if abar is not None and not _is_sd1(abar):
        raise UserError(
            f"{path} has another noise schedule than Stable Diffusion 1.x: {len(abar)} steps down to alphas_cumprod "
            f"{abar[-1].item():.4g}, must be {len(_abar())} down to {_abar()[-1].item():.4g}"
        )
    scale = state.get("scale_factor")
    if scale is not None and not np.isclose(scale.item(), sd1.network_config("vae")["scaling_factor"]):
        raise UserError(
            f"{path} has latents scaled by {scale.item():.5g}; must be Stable Diffusion 1.x's 0.18215"
        )


def _abar() -> Tensor:
    return schedule_buffers()["alphas_cumprod"]


def _is_sd1(abar: Tensor) -> bool:
    return abar.shape == _abar().shape and torch.allclose(abar.float(), _abar(), rtol=1e-3, atol=1e-6)
