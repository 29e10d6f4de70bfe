"""The networks of a configuration on the meta device: shapes without content, nothing downloaded or read but JSON."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from siamdiff.config import Config
from siamdiff.errors import UserError
from siamdiff.model import tiny
from siamdiff.model.base import INFO, Base
from siamdiff.model.build import build_model
from siamdiff.model.dhi import HINT_CHANNELS
from siamdiff.model.sd1 import make_scheduler, network_config
from siamdiff.model.sources import TINY
from siamdiff.model.weights import LOADING_ERRORS

CONFIG = "config.json"
_DESCRIBED = ("vae", "unet", "text_encoder")


@dataclass(frozen=True)
class Architecture:
    """A base and the module that is trained on it, on the meta device."""

    base: Base
    model: Any  # what build_model gives: .unet, .control, and the loss as its call
    origin: str  # where the architecture is known from, in words
    description: str = ""  # what all shapes depend on: the same text, the same networks; "": not told

    def parameters(self) -> dict[str, tuple[int, int]]:
        """(all, trainable) parameters by network."""
        networks = {
            "unet": self.model.unet,
            "control": self.model.control,
            "vae": self.base.vae,
            "text encoder": self.base.text_encoder,
        }
        frozen = {"vae", "text encoder"}
        return {
            name: (count(network), 0 if name in frozen else count(network, trainable=True))
            for name, network in networks.items()
        }


def count(network: nn.Module, *, trainable: bool = False) -> int:
    """Parameters of a network; of those, the ones that learn."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad or not trainable)


def architecture(config: Config) -> Architecture:
    """The networks that a resolved configuration will train or sample with.

    A base that is not a folder on this machine (hub id, object store, single file) is taken to be Stable Diffusion
    1.x, which is all that can be trained; `origin` says so.

    Raises:
        UserError: the base is a local folder without the configuration of its networks, or with a damaged one.
    """
    named, kind = config.model.base, None
    with torch.device("meta"):
        if named == TINY:
            kind = config.data.resolution
            base, origin = _tiny(kind), "tiny base"
        elif Path(named).is_dir():
            kind, base = _from_folder(Path(named))
            origin = str(named)
        else:
            base, origin = _sd1(), f"Stable Diffusion 1.x, which {named} is taken to be"
        model = build_model(config, base)
    switches = config.model.control, config.model.hint_channels, config.train.trained_unet
    return Architecture(base, model, origin, json.dumps([kind, *switches], sort_keys=True))


def _tiny(resolution: int) -> Base:
    return _base(
        tiny.make_vae(resolution),
        tiny.make_unet(resolution // 8),
        tiny.make_text_encoder(),
        tiny.HINT_CHANNELS,
    )


def _sd1() -> Base:
    return _base(
        AutoencoderKL(**network_config("vae")),
        UNet2DConditionModel(**network_config("unet")),
        CLIPTextModel(CLIPTextConfig(**network_config("text_encoder"))),
    )


def _from_folder(folder: Path) -> tuple[dict[str, Any], Base]:
    for part in _DESCRIBED:
        if not (folder / part / CONFIG).is_file():
            raise UserError(
                f"base {folder} lacks {part}/{CONFIG}; give a whole folder in diffusers' layout, or model.base 'tiny'"
            )
    info = folder / INFO
    try:
        configs = {part: dict(json.loads((folder / part / CONFIG).read_text())) for part in _DESCRIBED}
        widths = json.loads(info.read_text()).get("hint_channels") if info.is_file() else None
        described = configs | {"hint_channels": widths or HINT_CHANNELS}
        return described, _from_configs(described)
    except LOADING_ERRORS as error:
        raise UserError(
            f"base {folder}: no networks can be made of its {CONFIG} files ({' '.join(str(error).split())[:120]}); "
            "fetch the folder again"
        ) from error


def _from_configs(configs: dict[str, Any]) -> Base:
    vae = cast(AutoencoderKL, AutoencoderKL.from_config(configs["vae"]))
    unet = cast(UNet2DConditionModel, UNet2DConditionModel.from_config(configs["unet"]))
    text_encoder = CLIPTextModel(CLIPTextConfig.from_dict(configs["text_encoder"]))
    return _base(vae, unet, text_encoder, tuple(configs["hint_channels"]))


def _base(
    vae: AutoencoderKL,
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    hint_channels: tuple[int, ...] = HINT_CHANNELS,
) -> Base:
    return Base(
        vae=vae,
        unet=unet,
        text_encoder=text_encoder,
        tokenizer=cast(CLIPTokenizer, None),  # no prompt is read
        scheduler=make_scheduler(),
        folder=Path(),
        hint_channels=hint_channels,
    )
