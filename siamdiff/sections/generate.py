"""Bulk generation."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from siamdiff.sections.common import ImageFormat, Precision, Section, Split
from siamdiff.sections.schedulers import DDIM, short_name

Range = tuple[float, float]


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
    scheduler: str = Field(
        default=DDIM,
        description="ddim (the paper's), dpmsolver++, unipc, euler, ... or diffusers' class name",
    )
    steps: int = Field(default=50, ge=1, le=999, description="steps of the scheduler")
    guidance: float = Field(default=9.0, ge=1, description="classifier-free guidance scale")
    batch_size: int = Field(
        default=16, ge=1, description="images per sampling pass; part of the byte identity"
    )
    precision: Precision = Field(default="fp32", description="of UNet and ControlNet; the VAE stays in fp32")
    shard_size: int = Field(default=64, ge=1, description="samples per shard")
    image_format: ImageFormat = Field(default="png", description="png keeps every pixel; jpg (quality 95)")
    actors: int = Field(default=1, ge=1, description="sampler actors, at most")
    min_actors: int | None = Field(
        default=None, ge=1, description="begin with so many and add others as there is room [actors]"
    )
    budget_hours: float | None = Field(
        default=None, gt=0, description="hours of one command, after which no further shard is begun"
    )
    budget_cost: float | None = Field(
        default=None, gt=0, description="dollars of one command, at cluster.price; as budget_hours"
    )
    seed: int = Field(default=0, ge=0, description="seed of transforms and noise")

    @field_validator("scheduler")
    @classmethod
    def _known(cls, name: str) -> str:
        return short_name(name)

    @model_validator(mode="after")
    def _fewest_and_most(self) -> "Generate":
        if self.min_actors and self.min_actors > self.actors:
            raise ValueError(
                f"generate.min_actors is {self.min_actors} and generate.actors {self.actors}: the fewest actors cannot "
                "be more than the most"
            )
        return self

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
