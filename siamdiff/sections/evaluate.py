"""Evaluation: real and synthetic sets compared."""

from typing import Any, Literal

from pydantic import Field, field_validator

from siamdiff.errors import nearest
from siamdiff.sections.common import Section
from siamdiff.sections.named import named_sets

SYNTHETIC = "synthetic"  # name of a synthetic set that is given without one
REAL = "real"  # what the reference is called where sets are told by name
LPIPS_PREFIX = "lpips-"
EXTRACTORS = (  # siamdiff.evaluation.extractors
    "efficientnet-lite0", "inception", "clip", "lpips-squeezenet", "lpips-alexnet", "lpips-vgg16",
)  # fmt: skip


class Evaluate(Section):
    """Real and synthetic sets side by side."""

    real: str | None = Field(default=None, description="real shard set [data.uri]")
    synthetic: dict[str, str] | None = Field(
        default=None,
        description="synthetic sets: a URI, or NAME=URI for each of several; shards, a folder of another method's "
        "images, or 'latest' [latest: the newest under ROOT/synthetic]",
    )
    extractors: dict[str, str | None] = Field(
        default={EXTRACTORS[0]: None},
        description="networks that figures are made with: NAME, or NAME=SOURCE with its weights, once for each; "
        f"{', '.join(EXTRACTORS)} [efficientnet-lite0]",
    )
    protocol: Literal["all", "paper"] = Field(
        default="all",
        description="synthetic images that figures take: all, or (paper) as many as there are training images",
    )
    resamples: int = Field(
        default=200,
        ge=0,
        description="bootstrap resamples that each figure's interval comes from; 0: no intervals",
    )
    kid_subset_size: int = Field(
        default=1000,
        ge=2,
        description="images of each set in one of KID's 100 subsets, at most as many as a set has",
    )
    tsne: int = Field(
        default=1000,
        ge=0,
        description="images of each set in the t-SNE, drawn at random from a larger set; 0: no t-SNE",
    )
    output: str | None = Field(default=None, description="where metrics and sheets go [ROOT/evaluation/NAME]")
    agreement_steps: int = Field(
        default=300, ge=1, description="training steps of the segmenter that finds the masks again"
    )
    seed: int = Field(
        default=0,
        ge=0,
        description="seed of the segmenter, of subsets and resamples, of the t-SNE and of the choice of shown pairs",
    )

    @field_validator("synthetic", mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        return named_sets(given, SYNTHETIC)

    @field_validator("synthetic")
    @classmethod
    def _not_real(cls, given: dict[str, str] | None) -> dict[str, str] | None:
        for name in given or {}:
            if name.lower() == REAL:
                raise ValueError(f"{name!r} is the name of the real set; give the synthetic one another")
        return given

    @field_validator("extractors", mode="before")
    @classmethod
    def _chosen(cls, given: Any) -> Any:
        match given:
            case str():
                return _extractors([given])
            case list():
                return _extractors(given)
        return given

    @field_validator("extractors")
    @classmethod
    def _known(cls, given: dict[str, str | None]) -> dict[str, str | None]:
        for name, source in given.items():
            if name not in EXTRACTORS:
                raise ValueError(
                    f"no extractor {name!r}{nearest(name, list(EXTRACTORS))}; there are {', '.join(EXTRACTORS)}"
                )
            if source == "":
                raise ValueError(f"the extractor {name!r} has no source; give {name}=SOURCE, or {name} alone")
        if not given:
            raise ValueError(f"no extractor; give one of {', '.join(EXTRACTORS)}")
        return given


def _extractors(given: list[Any]) -> dict[str, str | None]:
    """{NAME: SOURCE} of texts NAME=SOURCE; {NAME: None} of NAME alone."""
    chosen: dict[str, str | None] = {}
    for text in given:
        name, has_source, source = str(text).partition("=")
        if name in chosen:
            raise ValueError(f"the extractor {name!r} is given twice; give it once")
        chosen[name] = source if has_source else None
    return chosen
