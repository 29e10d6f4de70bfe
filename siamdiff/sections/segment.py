"""Downstream segmentation: do synthetic pairs make a segmenter better?"""

import re
from typing import Any, NamedTuple

from pydantic import Field, field_validator

from siamdiff.errors import nearest
from siamdiff.sections.common import Section
from siamdiff.sections.evaluate import SYNTHETIC
from siamdiff.sections.named import named_sets

TEST = "test"  # name of a test set that is given without one
OVERALL = "overall"  # name of all test sets together
REAL, COPY_PASTE = "real", "copy-paste"
_ARM = re.compile(r"(real|copy-paste)(?:\+([1-9][0-9]?))?|synthetic")
NETWORK_NAMES = (
    "unet-small",
    "unet",
    "residual-unet",
    "attention-unet",
    "segresnet",
    "swin-unetr",
    "flexible-unet",
    "segformer-b0",
    "segformer-b1",
    "segformer-b2",
    "segformer-b3",
    "segformer-b4",
    "segformer-b5",
)


class ParsedArm(NamedTuple):
    """What an arm's name says."""

    base: str  # real, copy-paste or synthetic
    folds: int  # beside the real pairs: synthetic folds, or copies; 0: real pairs alone, or all folds alone


class Segment(Section):
    """Segmenters trained on real, on real and synthetic, and on synthetic pairs, scored on real test sets."""

    real: str | None = Field(default=None, description="real shard set: train, val and test [data.uri]")
    synthetic: dict[str, str] | None = Field(
        default=None,
        description="synthetic shard sets to train on: a URI, or NAME=URI for each of several, or 'latest' [latest: "
        "the newest under ROOT/synthetic]",
    )
    arms: list[str] = Field(
        default=["real", "copy-paste", "real+1", "synthetic"],
        min_length=1,
        description="what is trained on: real; real+K (with K synthetic folds); copy-paste or copy-paste+K (real "
        "pairs, and each K times again); synthetic (all folds, nothing real)",
    )
    networks: list[str] = Field(
        default=["unet-small"], min_length=1, description=f"any of {', '.join(NETWORK_NAMES)}"
    )
    encoder: str | None = Field(
        default=None,
        description="folder or URI of a pretrained SegFormer in transformers' layout, whose encoder the segformer "
        "networks begin with [random weights]",
    )
    seeds: list[int] = Field(
        default=[0, 1, 2], min_length=1, description="one training each: of weights, order and augmentation"
    )
    steps: int = Field(default=500, ge=1, description="optimizer steps of every training")
    epochs: float | None = Field(
        default=None,
        gt=0,
        description="passes over the training pairs instead of steps: an arm with more pairs then gets more steps",
    )
    batch_size: int = Field(default=16, ge=2, description="pairs per step")
    size: int | None = Field(
        default=None,
        ge=16,
        le=2048,
        multiple_of=8,
        description="side at which the networks see images, pixels; scores are taken at the stored size [as stored]",
    )
    learning_rate: float | None = Field(
        default=None, gt=0, description="peak of the one-cycle schedule [by network: docs/segment.md]"
    )
    validations: int = Field(
        default=10,
        ge=0,
        description="looks at the val split, after which the weights that did best are kept; 0, or no val split: the "
        "last ones",
    )
    tests: dict[str, str] | None = Field(
        default=None,
        description="real test sets: a URI, or NAME=URI for each of several [the test split of segment.real, each of "
        "its named subsets by itself]",
    )
    output: str | None = Field(default=None, description="where results go [ROOT/segmentation/NAME]")

    @field_validator("synthetic", mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        return named_sets(given, SYNTHETIC)

    @field_validator("tests", mode="before")
    @classmethod
    def _named_tests(cls, given: Any) -> Any:
        tests = named_sets(given, TEST)
        if isinstance(tests, dict) and any(name.lower() == OVERALL for name in tests):
            raise ValueError(f"{OVERALL!r} names all test sets together; give this one another name")
        return tests

    @field_validator("arms")
    @classmethod
    def _are_arms(cls, arms: list[str]) -> list[str]:
        parsed = [parse_arm(arm) for arm in arms]
        if len(set(parsed)) < len(arms):
            raise ValueError("an arm is named twice; give each once")
        return arms

    @field_validator("networks")
    @classmethod
    def _are_networks(cls, networks: list[str]) -> list[str]:
        for name in networks:
            if name not in NETWORK_NAMES:
                raise ValueError(
                    f"{name!r} is no network{nearest(name, list(NETWORK_NAMES))}; give any of "
                    f"{', '.join(NETWORK_NAMES)}"
                )
        if len(set(networks)) < len(networks):
            raise ValueError("a network is named twice; give each once")
        return networks

    @field_validator("seeds")
    @classmethod
    def _are_seeds(cls, seeds: list[int]) -> list[int]:
        if min(seeds) < 0 or len(set(seeds)) < len(seeds):
            raise ValueError("must be whole numbers from 0 on, each once")
        return seeds


def parse_arm(arm: str) -> ParsedArm:
    """What an arm's name says.

    Raises:
        ValueError: it is none.
    """
    match = _ARM.fullmatch(arm)
    if not match:
        raise ValueError(
            f"{arm!r} is no arm; give real, real+K, copy-paste, copy-paste+K or synthetic, with K folds from 1 to 99"
        )
    base, folds = match.groups()
    if base is None:
        return ParsedArm(SYNTHETIC, 0)
    return ParsedArm(base, int(folds or (1 if base == COPY_PASTE else 0)))
