"""The sections of the configuration: every field of every stage, with its bounds and its help text.

Defaults are the paper's (Sec. 5.1), where it names them.
"""

import math
import re
from collections import Counter
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Split = Literal["train", "val", "test"]
ImageFormat = Literal["png", "jpg"]
Layout = Literal["auto", "folder", "lines", "pranet", "isic", "nnunet", "huggingface"]
Precision = Literal["fp32", "bf16", "fp16"]
Box = tuple[int, int, int, int]
Range = tuple[float, float]
PHANTOM = "phantom"
SYNTHETIC = "synthetic"  # name of a synthetic set that is given without one
NEWEST = "latest"  # in place of its URI: the set that generate finished last
_SET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+-]*")
# prompt, licence and permitted use where none is given
FOR_PHANTOMS = ("an endoscopy image with a polyp", "Apache-2.0", "any")
FOR_IMAGES = ("a medical image with a lesion", "unknown", "unknown")


class Section(BaseModel):
    """A frozen section that refuses unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(Section):
    """The real images and their masks."""

    source: str = Field(
        default=PHANTOM,
        min_length=1,
        description="folder or JSON lines in one of the layouts of docs/ingest.md, or 'phantom' (procedural)",
    )
    uri: str | None = Field(default=None, description="where the shard set lies [ROOT/data]")
    layout: Layout = Field(default="auto", description="how the source is laid out (docs/ingest.md)")
    foreground: tuple[int, ...] | None = Field(
        default=None, description="nnunet: the labels that are lesion [all but the background]"
    )
    crop: Literal["none", "auto"] | Box = Field(
        default="none",
        description="before fitting: auto (field of view) or a box left,top,right,bottom in pixels; removes frames "
        "and burned-in text",
    )
    fit: Literal["squash", "pad", "crop"] = Field(
        default="squash", description="how images become square; squash is the paper's"
    )
    resolution: int = Field(
        default=384, ge=16, le=2048, multiple_of=8, description="side of the square images, in pixels"
    )
    prompt: str = Field(
        default="", description="text for samples that bring none [of a polyp for phantoms, else of a lesion]"
    )
    groups: str | None = Field(
        default=None, description="CSV with columns file,group (patient or video): never divided by a split"
    )
    split: dict[Split, float] = Field(
        default={"train": 0.8, "val": 0.1, "test": 0.1},
        description="shares of the splits, where the source's layout names none",
    )
    seed: int = Field(default=0, ge=0, description="seed of the split and of the phantoms")
    count: int = Field(default=512, ge=1, description="number of phantoms")
    max_rejected: float = Field(
        default=0.1, ge=0, le=1, description="largest share of bad pairs before ingest fails"
    )
    allow_empty: bool = Field(default=False, description="accept masks without any lesion")
    shard_size: int = Field(default=256, ge=1, description="samples per shard")
    image_format: ImageFormat = Field(
        default="png", description="png keeps every pixel; jpg (quality 95) is 30 times faster to write"
    )
    license: str = Field(
        default="", description="licence of the images; travels to models and synthetic sets [unknown]"
    )
    permitted_use: str = Field(
        default="", description="what licence or consent permits; travels likewise [unknown]"
    )

    @field_validator("crop", mode="before")
    @classmethod
    def _is_a_crop(cls, crop: object) -> object:
        """A name or four numbers; the command line gives a list of texts either way."""
        values = crop.split(",") if isinstance(crop, str) else crop
        if not isinstance(values, list | tuple):
            raise ValueError("must be none, auto or left,top,right,bottom in pixels")
        if len(values) == 1 and values[0] in ("none", "auto"):
            return values[0]
        try:
            left, top, right, bottom = (int(value) for value in values)
        except ValueError:
            raise ValueError("must be none, auto or left,top,right,bottom in pixels") from None
        if not (0 <= left < right and 0 <= top < bottom):
            raise ValueError("left must be below right, top below bottom, and none below 0")
        return left, top, right, bottom

    @field_validator("foreground")
    @classmethod
    def _are_labels(cls, labels: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if labels is not None and (not labels or min(labels) < 1):
            raise ValueError("must be label numbers above 0; 0 is the background")
        return labels

    @field_validator("split")
    @classmethod
    def _shares_add_up(cls, split: dict[Split, float]) -> dict[Split, float]:
        if any(share < 0 for share in split.values()) or abs(sum(split.values()) - 1) > 1e-6:
            raise ValueError("the shares must be at least 0 and add up to 1")
        if not split.get("train"):
            raise ValueError("the share of 'train' must be above 0")
        return split


class Model(Section):
    """The diffusion model that training starts from."""

    base: str = Field(
        default="tiny",
        min_length=1,
        description="Stable Diffusion 1.x: hub id, folder in diffusers' layout, single file; or 'tiny' (made from the "
        "data)",
    )
    parts: str | None = Field(
        default=None, description="folder in diffusers' layout that supplies whole parts which the base lacks"
    )
    control: Literal["dhi", "plain", "t2i-adapter"] = Field(
        default="dhi",
        description="dhi: ControlNet with Dense Hint Input; plain: with its own hint encoder; t2i-adapter: a baseline",
    )
    vae_steps: int = Field(default=450, ge=1, description="tiny base: training steps of its VAE")
    seed: int = Field(default=0, ge=0, description="tiny base: seed of its weights and its training")
    unet_steps: int = Field(
        default=500, ge=1, description="tiny base: training steps of its UNet, without control"
    )
    hint_channels: tuple[int, ...] | None = Field(
        default=None, description="widths of the Dense Hint Input [the base's; the paper's 16,32,64,128,256]"
    )

    @model_validator(mode="after")
    def _widths_of_something(self) -> "Model":
        if self.hint_channels and self.control != "dhi":
            raise ValueError(
                f"model.hint_channels are widths of the Dense Hint Input, which model.control {self.control} has not: "
                "leave them out, or give --model.control dhi"
            )
        return self


class Train(Section):
    """Siamese-Diffusion training (paper, Sec. 4)."""

    run: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="name of the run under ROOT/runs; the same name resumes [derived from the settings]",
    )
    steps: int = Field(default=3000, ge=1, description="optimizer steps, N")
    batch_size: int = Field(default=48, ge=1, description="total batch B over all workers")
    micro_batch: int | None = Field(
        default=None, ge=1, description="samples per worker and pass; smaller accumulates [batch / workers]"
    )
    workers: int = Field(default=1, ge=1, description="training processes")
    zero_stage: int = Field(default=2, ge=0, le=3, description="DeepSpeed ZeRO stage")
    engine: Literal["deepspeed", "torch"] = Field(
        default="deepspeed", description="deepspeed: Ray Train with ZeRO; torch: one process without Ray"
    )
    seed: int = Field(
        default=42, ge=0, description="seed of the stream: order, timesteps, noise, dropped prompts"
    )
    learning_rate: float = Field(default=1e-5, gt=0, description="AdamW, constant")
    weight_decay: float = Field(default=1e-2, ge=0, description="AdamW")
    trained_unet: Literal["decoder", "none", "all"] = Field(
        default="decoder", description="which parts of the UNet learn; decoder is the paper's"
    )
    image_branch: bool = Field(
        default=True, description="Image-Diffusion and its loss L_i (Eq. 8); the switches below need it"
    )
    image_weight: Literal["linear"] | float = Field(
        default="linear", description="w_i (Eq. 5): linear is the paper's k / N; or a constant"
    )
    consistency_weight: float = Field(
        default=1.0, ge=0, description="w_c of the noise consistency loss (Eq. 9); 0 leaves it out"
    )
    online_augmentation: bool = Field(default=True, description="Online-Augmentation (Eq. 11-13)")
    augment_after: float = Field(
        default=1 / 3, ge=0, le=1, description="K_tau: share of the steps before Online-Augmentation begins"
    )
    augment_timesteps: int = Field(
        default=200, ge=0, le=999, description="T_tau: Online-Augmentation takes timesteps up to it"
    )
    prompt_drop: float = Field(
        default=0.05, ge=0, le=1, description="share of prompts replaced by the empty prompt"
    )
    precision: Precision = Field(
        default="fp32", description="of the networks' arithmetic; weights are updated in fp32 always"
    )
    activation_checkpointing: bool = Field(
        default=False, description="recompute activations in the backward pass: less memory, more time"
    )
    channels_last: bool = Field(
        default=False, description="memory format of the networks' activations; changes last bits"
    )
    compile: bool = Field(
        default=False, description="torch.compile the networks, block by block; changes last bits"
    )
    loader_workers: int = Field(default=2, ge=0, description="reading processes per training process")
    log_steps: int = Field(default=10, ge=1, description="steps between two lines of metrics")
    checkpoint_steps: int = Field(default=100, ge=1, description="steps between two checkpoints")
    checkpoints_kept: int = Field(default=2, ge=1, description="complete checkpoints kept")
    preview_steps: int = Field(default=500, ge=1, description="steps between two previews")
    max_restarts: int = Field(default=3, ge=0, description="restarts of the worker group after a lost worker")

    @field_validator("image_weight", mode="before")
    @classmethod
    def _linear_or_constant(cls, given: Any) -> Any:
        if given == "linear":
            return given
        try:
            constant = float(given)
        except (TypeError, ValueError):
            constant = math.nan
        if not 0 <= constant <= 1:
            raise ValueError("give linear, or a number from 0 to 1")
        return constant

    @model_validator(mode="after")
    def _image_branch_is_there(self) -> "Train":
        if not self.image_branch and (self.online_augmentation or self.consistency_weight):
            raise ValueError(
                "train.image_branch is false: train.online_augmentation must be false too, and "
                "train.consistency_weight 0, since both use its prediction"
            )
        return self


class Transforms(Section):
    """Ranges of the mask transforms of a 'random' fold; each is drawn uniformly."""

    scale: Range = Field(default=(0.7, 1.3), description="factor about the lesion's centre")
    rotate: Range = Field(default=(-180.0, 180.0), description="degrees")
    translate: Range = Field(default=(-0.15, 0.15), description="share of the side, along each axis")
    flip: bool = Field(default=True, description="mirror left to right with probability 1/2")

    @model_validator(mode="after")
    def _ordered(self) -> "Transforms":
        for name in ("scale", "rotate", "translate"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} is [{low}, {high}]: the first bound must not exceed the second")
        if self.scale[0] <= 0:
            raise ValueError(f"scale is {list(self.scale)}: both bounds must be above 0")
        return self


class Generate(Section):
    """Bulk generation of synthetic image/mask pairs."""

    model: str | None = Field(
        default=None, description="model folder [of the run; else of the run that finished last]"
    )
    masks: str | None = Field(default=None, description="shard set whose masks are used [data.uri]")
    split: Split = Field(
        default="train", description="split whose masks are used; val and test masks would leak"
    )
    output: str | None = Field(
        default=None, description="where the synthetic set goes [ROOT/synthetic/PLAN_DIGEST]"
    )
    folds: int = Field(default=3, ge=1, description="synthetic images per mask")
    fold_masks: list[Literal["real", "random"]] = Field(
        default=["random"],
        min_length=1,
        description="kind of masks of each fold, cycled: real, or random (transformed)",
    )
    transforms: Transforms = Transforms()
    limit: int | None = Field(default=None, ge=1, description="only the first n masks by key, in every fold")
    method: Literal["model", "copy-paste"] = Field(
        default="model", description="model: sample; copy-paste: the real pairs again (the paper's baseline)"
    )
    guide: Literal["mask", "mask+image"] = Field(
        default="mask", description="mask+image: the real image of each mask guides too (the paper's M+I)"
    )
    image_weight: float = Field(
        default=1.0, ge=0, le=1, description="mask+image: w_i, the share of the image's controls (Eq. 5)"
    )
    steps: int = Field(default=50, ge=1, le=999, description="DDIM steps")
    guidance: float = Field(default=9.0, ge=1, description="classifier-free guidance scale")
    batch_size: int = Field(
        default=16, ge=1, description="images per sampling pass; part of the byte identity"
    )
    precision: Precision = Field(default="fp32", description="of UNet and ControlNet; the VAE stays in fp32")
    shard_size: int = Field(default=64, ge=1, description="samples per shard")
    image_format: ImageFormat = Field(default="png", description="png keeps every pixel; jpg (quality 95)")
    actors: int = Field(default=1, ge=1, description="sampler actors")
    seed: int = Field(default=0, ge=0, description="seed of transforms and noise")

    @model_validator(mode="after")
    def _real_images_for_real_masks(self) -> "Generate":
        needs = {
            "generate.method copy-paste": self.method == "copy-paste",
            "generate.guide mask+image": self.guide == "mask+image",
        }
        for what, is_chosen in needs.items():
            if is_chosen and "random" in self.fold_masks:
                raise ValueError(
                    f"{what} takes the real image of each mask, which fits no transformed mask: "
                    "give --generate.fold_masks real"
                )
        return self


class Evaluate(Section):
    """Real and synthetic sets side by side."""

    real: str | None = Field(default=None, description="real shard set [data.uri]")
    synthetic: dict[str, str] | None = Field(
        default=None,
        description="synthetic sets: a URI, or NAME=URI for each of several; shards, a folder of another method's "
        "images, or 'latest' [latest: the newest under ROOT/synthetic]",
    )
    output: str | None = Field(default=None, description="where metrics and sheets go [ROOT/evaluation/NAME]")
    agreement_steps: int = Field(
        default=300, ge=1, description="training steps of the segmenter that finds the masks again"
    )
    seed: int = Field(default=0, ge=0, description="seed of the segmenter and of the choice of shown pairs")

    @field_validator("synthetic", mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        match given:
            case str():
                return _named_sets([given])
            case list():
                return _named_sets(given)
            case dict():
                return _checked_names(list(given.items()))
        return given


def _named_sets(given: list[Any]) -> dict[str, str]:
    """{name: URI} of texts NAME=URI, as the command line gives them, or of a single URI."""
    pairs = []
    for text in given:
        name, is_named, uri = str(text).partition("=")
        if is_named and _SET_NAME.fullmatch(name):
            pairs.append((name, uri))
        elif len(given) == 1:
            pairs.append((SYNTHETIC, str(text)))
        else:
            raise ValueError(f"{text!r} has no name; give each of several sets as NAME=URI")
    return _checked_names(pairs)


def _checked_names(pairs: list[tuple[Any, Any]]) -> dict[str, str]:
    files = Counter(set_file(str(name)).lower() for name, _ in pairs)
    for name, uri in pairs:
        if not _SET_NAME.fullmatch(str(name)):
            raise ValueError(
                f"{name!r} cannot name a set; letters, digits, space and . _ + - are allowed, a letter or digit first"
            )
        if not isinstance(uri, str) or not uri:
            raise ValueError(f"the set {name!r} has no URI; give NAME=URI")
        if files[set_file(name).lower()] > 1:
            raise ValueError(f"{name!r} is the name of several sets, small and capital letters taken as one")
    return dict(pairs)


def set_file(name: str) -> str:
    """The name of a set as a part of file names."""
    return name.replace(" ", "_")


class Cluster(Section):
    """What each process takes. Changes nothing of what is computed, except `threads` in the last bits."""

    gpus: float = Field(default=0.0, ge=0, description="GPUs per training worker and per sampler actor")
    actor_cpus: float = Field(
        default=0.5, gt=0, description="cores that Ray books for a sampler or feature actor"
    )
    threads: int = Field(default=1, ge=1, description="threads of each worker and actor on CPU")
    device: str | None = Field(
        default=None, description="GPU that --dry-run reckons with: a name of docs/configurations.md's table"
    )
    price: float | None = Field(default=None, ge=0, description="of a GPU hour, in dollars, for --dry-run")
