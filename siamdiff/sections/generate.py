"""Bulk generation."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from siamdiff.sections.common import ImageFormat, Precision, Section, Split
from siamdiff.sections.schedulers import DDIM, short_name

Range = tuple[float, float]
ONE_TO_ONE = 0.48  # of the spacing: a bend up to this neither tears nor folds (Choi and Lee 2000)


class Transforms(Section):
    """Ranges of the mask transforms of a 'random' fold; each is drawn uniformly.

    A radius is that of the largest disc inside the lesion.
    """

    scale: Range = Field(default=(0.7, 1.3), description="factor about the lesion's centre")
    rotate: Range = Field(default=(-180.0, 180.0), description="degrees")
    translate: Range = Field(default=(-0.15, 0.15), description="share of the side, along each axis")
    flip: bool = Field(default=True, description="mirror left to right with probability 1/2")
    flip_vertical: bool = Field(default=False, description="mirror upside down with probability 1/2")
    shear: Range = Field(default=(0.0, 0.0), description="degrees by which upright lines lean, -60 to 60")
    elastic: Range = Field(
        default=(0.0, 0.0), description="bend: the farthest any pixel moves along each axis, in radii"
    )
    elastic_spacing: float = Field(default=1.5, gt=0, description="size of the bends, in radii")
    boundary: Range = Field(
        default=(0.0, 0.0),
        description="outline: the farthest it moves in or out, in radii of each lesion, below 1",
    )
    boundary_spacing: float = Field(default=0.75, gt=0, description="size of its bulges, in radii")
    combine: float = Field(
        default=0.0, ge=0, le=1, description="probability that lesions of another mask of the set are added"
    )
    combine_lesions: tuple[int, int] = Field(
        default=(1, 1), description="how many of them, fewest and most; each put where there is room"
    )
    area: Range = Field(default=(0.0, 1.0), description="limits of a mask's area, share of the image")
    field: Literal["none", "estimate"] = Field(
        default="none", description="visible field, which masks must not leave: estimate it in the real image"
    )

    @model_validator(mode="after")
    def _ordered(self) -> "Transforms":
        for name in (
            "scale",
            "rotate",
            "translate",
            "shear",
            "elastic",
            "boundary",
            "combine_lesions",
            "area",
        ):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} is [{low}, {high}]: the first bound must not exceed the second")
        for name, low, high in (("shear", -60, 60), ("area", 0, 1), ("boundary", 0, 0.95)):
            if getattr(self, name)[0] < low or getattr(self, name)[1] > high:
                raise ValueError(f"{name} is {list(getattr(self, name))}: must lie in [{low}, {high}]")
        if self.scale[0] <= 0:
            raise ValueError(f"scale is {list(self.scale)}: both bounds must be above 0")
        if self.combine_lesions[0] < 1:
            raise ValueError(f"combine_lesions is {list(self.combine_lesions)}: both must be at least 1")
        if self.elastic[0] < 0 or self.elastic[1] > ONE_TO_ONE * self.elastic_spacing:
            raise ValueError(
                f"elastic is {list(self.elastic)}: must lie in [0, {ONE_TO_ONE * self.elastic_spacing:g}], "
                f"{ONE_TO_ONE} times elastic_spacing, beyond which lesions would tear; raise elastic_spacing"
            )
        return self

    @property
    def vary(self) -> bool:
        """Whether no end of different masks can be drawn for one parent."""
        moved = any(low < high for low, high in (self.scale, self.rotate, self.translate, self.shear))
        return moved or self.elastic[1] > 0 or self.boundary[1] > 0 or self.combine == 1


class Gates(Section):
    """What a synthetic image must pass; one that does not is drawn again from further noise."""

    copies: bool = Field(
        default=True,
        description="reject copies: what is nearer to a training image than real images of different groups are; "
        "not with guide mask+image, which asks for nearness",
    )
    copy_quantile: float = Field(
        default=0.01,
        gt=0,
        le=0.5,
        description="share of new patients that may be taken for copies in each of two spaces; sets their limits",
    )
    min_deviation: float = Field(
        default=2.0,
        ge=0,
        lt=128,
        description="least standard deviation of the channel that varies most, levels of 255",
    )
    max_saturated: float = Field(
        default=0.95, gt=0, le=1, description="largest share of pixels with every channel at 0 or 255"
    )
    segmenter: str | None = Field(
        default=None, description="segmenter that must find the mask: a file of ROOT/evaluation/cache"
    )
    min_dice: float = Field(default=0.5, ge=0, le=1, description="least Dice of what it finds and the mask")
    redraws: int = Field(default=3, ge=0, le=99, description="further draws of a sample, at most")

    @property
    def are_open(self) -> bool:
        """Whether no image can be rejected."""
        limits = self.min_deviation > 0 or self.max_saturated < 1
        return not (self.copies or self.segmenter or limits)


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
    gates: Gates = Gates()
    training: str | None = Field(
        default=None,
        description="real shard set whose images must not be copied [that which the model was trained on]",
    )
    max_rejected: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="largest share of samples that no draw made pass the gates; with more the set is not declared",
    )
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

    @model_validator(mode="after")
    def _random_folds_differ(self) -> "Generate":
        kinds = [self.fold_masks[fold % len(self.fold_masks)] for fold in range(self.folds)]
        if (count := kinds.count("random")) > 1 and not self.transforms.vary:
            raise ValueError(
                f"{count} of {self.folds} folds have random masks, but no range of generate.transforms is wider than "
                "one value, so they would be the same masks: widen one, or give --generate.fold_masks real"
            )
        return self
