"""The real images and their masks."""

from typing import Literal

from pydantic import Field, field_validator

from siamdiff.sections.common import ImageFormat, Section, Split

Layout = Literal["auto", "folder", "lines", "pranet", "isic", "nnunet", "huggingface"]
Box = tuple[int, int, int, int]
MAX_TEXT = 10_000  # characters of a prompt or a licence; CLIP reads 77 tokens of a prompt
PHANTOM = "phantom"
# prompt, licence and permitted use where none is given
FOR_PHANTOMS = ("an endoscopy image with a polyp", "Apache-2.0", "any")
FOR_IMAGES = ("a medical image with a lesion", "unknown", "unknown")


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
        default="",
        max_length=MAX_TEXT,
        description="text for samples that bring none [of a polyp for phantoms, else of a lesion]",
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
        default="",
        max_length=MAX_TEXT,
        description="licence of the images; travels to models and synthetic sets [unknown]",
    )
    permitted_use: str = Field(
        default="",
        max_length=MAX_TEXT,
        description="what licence or consent permits; travels likewise [unknown]",
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
