"""A base: the pretrained latent diffusion model that training starts from, in diffusers' Stable Diffusion layout.

Sub-folders vae, unet, text_encoder, tokenizer and scheduler are read; others (safety_checker, feature_extractor)
are ignored. `siamdiff.json`, where it is present, may name the Dense Hint Input's widths that suit the base.
"""

import importlib.metadata
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from siamdiff.errors import UserError
from siamdiff.model.controlnet import FOREIGN_OPTIONS
from siamdiff.model.dhi import HINT_CHANNELS
from siamdiff.model.sources import INFO, PARTS
from siamdiff.model.weights import LOADING_ERRORS, read_weights, some, written_to

NETWORKS: dict[str, Any] = {"vae": AutoencoderKL, "unet": UNet2DConditionModel, "text_encoder": CLIPTextModel}
VAE_FACTOR = 8  # pixels per latent cell and axis; DHI's three patch merges assume it

T = TypeVar("T")


@dataclass(frozen=True)
class Base:
    """The five parts of a base, in fp32 on the CPU, as loaded from `folder`."""

    vae: AutoencoderKL
    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler: DDIMScheduler
    folder: Path
    hint_channels: tuple[int, ...]  # DHI's widths; the paper's unless the base names its own


def load_base(folder: str, name: str | None = None) -> Base:
    """Loads a base from a local folder; no network, safetensors only, every weight accounted for.

    Weights in fp32 are mapped from their files: they take memory once on a node, whatever the number of processes.

    Args:
        folder: in diffusers' layout.
        name: of the base in messages, where it lies elsewhere than the user said [the folder].

    Raises:
        UserError: a part is missing, unreadable, lacks weights or has too many, or the parts do not fit each other
            or the method (noise prediction, 8x VAE).
    """
    root = Path(folder)
    source = _Source(root, name or folder)
    _check_layout(source)
    base = Base(
        **{part: source.network(part) for part in NETWORKS},
        tokenizer=source.read(
            "tokenizer", lambda path: CLIPTokenizer.from_pretrained(path, local_files_only=True)
        ),
        scheduler=source.read("scheduler", _load_scheduler),
        folder=root,
        hint_channels=_hint_channels(root),
    )
    _check_fit(base, source.name)
    networks: list[torch.nn.Module] = [base.vae, base.unet, base.text_encoder]
    for network in networks:
        network.eval()
    return base


def convert_part(part: Path, target: Path) -> None:
    """Writes a network of a base anew as fp32 safetensors: one whose weights are pickles (`*.bin`), or half precision.

    Raises:
        UserError: code in a pickle, which is not run; missing or unexpected weights.
    """
    pickles = [] if any(part.glob("*.safetensors")) else sorted(part.glob("*.bin"))
    for file in pickles:
        read_weights(file)
    source = _Source(part.parent, str(part.parent))
    network = source.network(part.name, use_safetensors=not pickles)
    with written_to(target):
        network.save_pretrained(target)


def write_model_index(folder: Path, pipeline: str, **components: tuple[str, str]) -> None:
    """`model_index.json`, by which diffusers knows which class loads which sub-folder.

    Args:
        folder: local folder in diffusers' layout.
        pipeline: name of diffusers' pipeline that the folder is for.
        components: (module, class) of parts beyond those of PARTS, by sub-folder.
    """
    index = {
        "_class_name": pipeline,
        "_diffusers_version": importlib.metadata.version("diffusers"),
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    } | {name: list(component) for name, component in components.items()}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


@torch.no_grad()
def encode_prompts(tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, prompts: Sequence[str]) -> Tensor:
    """c_t: text states (B, 77, D) on the text encoder's device; longer prompts are cut, shorter ones padded."""
    tokens = tokenizer(
        list(prompts),
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    )
    return text_encoder(tokens["input_ids"].to(text_encoder.device)).last_hidden_state  # (B, 77, D)


@torch.no_grad()
def encode_moments(vae: AutoencoderKL, image: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log variance of the posterior, each (B, 4, H/8, W/8), of images (B, 3, H, W) in [-1, 1]."""
    moments = vae.encode(image.to(vae.dtype)).latent_dist
    return moments.mean.float(), moments.logvar.float()


def sample_latent(mean: Tensor, logvar: Tensor, noise: Tensor, scaling_factor: float) -> Tensor:
    """z0 = (mean + exp(logvar / 2) noise) * scaling_factor; all (B, 4, h, w), noise standard normal."""
    return (mean + torch.exp(0.5 * logvar) * noise) * scaling_factor


@torch.no_grad()
def decode_levels(vae: AutoencoderKL, z_0: Tensor) -> Tensor:
    """Images, uint8 (B, H, W, 3) on the VAE's device, of latents (B, 4, H/8, W/8) that carry the scaling factor."""
    image = vae.decode((z_0 / vae.config["scaling_factor"]).to(vae.dtype)).sample
    levels = ((image.float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)  # (B, 3, H, W)
    return levels.permute(0, 2, 3, 1).contiguous()  # (B, H, W, 3)


def decode_latents(vae: AutoencoderKL, z_0: Tensor) -> np.ndarray:
    """`decode_levels` as an array."""
    return decode_levels(vae, z_0).cpu().numpy()


@dataclass(frozen=True)
class _Source:
    """A folder in diffusers' layout, and what the user calls it."""

    root: Path
    name: str

    def read(self, part: str, load: Callable[[Path], T]) -> T:
        """Runs a library's loader on a part; its failures become one line."""
        try:
            return load(self.root / part)
        except LOADING_ERRORS as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(
                f"base {self.name}: {part}/ cannot be loaded ({reason}); give a whole folder in diffusers' layout, "
                "weights as .safetensors; if this one was downloaded, fetch it again"
            ) from error

    def network(self, part: str, use_safetensors: bool = True) -> Any:
        """A network with all its weights, no more and no fewer."""
        kind = NETWORKS[part]
        # transformers would else keep the file's precision, diffusers does not
        options = {"dtype": torch.float32} if part == "text_encoder" else {}
        network, info = self.read(
            part,
            lambda path: kind.from_pretrained(
                path,
                local_files_only=True,
                use_safetensors=use_safetensors,
                output_loading_info=True,
                **options,
            ),
        )
        for fault in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            if names := {str(name) for name in info[fault]}:
                raise UserError(
                    f"base {self.name}: {part}/ has {len(names)} {fault.replace('_', ' ')} ({some(names)}); weights "
                    f"and config.json must be of the same {kind.__name__}"
                )
        if part != "text_encoder":
            network.register_to_config(_name_or_path="")  # a path of this machine, which saving would pass on
        return network


def _check_layout(source: _Source) -> None:
    root = source.root
    present = sorted(path.name for path in root.iterdir()) if root.is_dir() else []
    missing = [part for part in PARTS if not (root / part).is_dir()]
    if missing:
        found = ", ".join(present[:10]) or "nothing"
        raise UserError(
            f"base {source.name} lacks {', '.join(name + '/' for name in missing)} (there: {found}); give a Stable "
            f"Diffusion folder in diffusers' layout with {', '.join(name + '/' for name in PARTS)}, or the folder that "
            "has the rest as model.parts"
        )


def _load_scheduler(path: Path) -> DDIMScheduler:
    """DDIM on the noise schedule of whatever sampler the base was shipped with (Stable Diffusion: PNDM)."""
    config = json.loads((path / "scheduler_config.json").read_text())
    own = {key: value for key, value in config.items() if key in DDIMScheduler._get_init_keys(DDIMScheduler)}
    return DDIMScheduler(**own)


def _hint_channels(root: Path) -> tuple[int, ...]:
    path = root / INFO
    try:
        named = json.loads(path.read_text()).get("hint_channels") if path.exists() else None
        return tuple(named) if named else tuple(HINT_CHANNELS)
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is not what Siamdiff wrote ({error}): damaged, or cut short; fetch it again, or delete it to "
            "train with the paper's widths of the hint encoder"
        ) from error


def _check_fit(base: Base, name: str) -> None:
    """Raises UserError for the first of the conditions below that does not hold."""
    vae, unet, text = base.vae.config, base.unet.config, base.text_encoder.config
    length = base.tokenizer.model_max_length
    conditions = [
        (
            "vae downsampling factor",
            2 ** (len(vae["block_out_channels"]) - 1),
            VAE_FACTOR,
            "the method's 8x VAE",
        ),
        ("unet in_channels", unet["in_channels"], vae["latent_channels"], "the vae's latent_channels"),
        ("unet out_channels", unet["out_channels"], vae["latent_channels"], "the vae's latent_channels"),
        (
            "unet cross_attention_dim",
            unet["cross_attention_dim"],
            text.hidden_size,
            "the text encoder's hidden_size",
        ),
        ("tokenizer model_max_length", length, text.max_position_embeddings, "the text encoder's positions"),
        (
            "scheduler prediction_type",
            base.scheduler.config["prediction_type"],
            "epsilon",
            "the method's eps loss",
        ),
    ]
    conditions += [(f"unet {option}", unet[option], None, "unset as in 1.x") for option in FOREIGN_OPTIONS]
    for what, value, needed, meaning in conditions:
        if value != needed:
            raise UserError(
                f"base {name}: {what} is {value}, must be {needed} ({meaning}); "
                "give a base of Stable Diffusion 1.x's kind, whose parts belong together"
            )
