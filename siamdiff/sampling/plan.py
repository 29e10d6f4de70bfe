"""What bulk generation is going to make: numbered output shards, known before any of them is made.

A plan is a function of the mask set, the model and the settings that change the result; how many actors work on it
and on what machine is not part of it. Its digest names the output folder, so that other inputs never mix into a set.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from siamdiff.config import digest
from siamdiff.sections import Gates, Generate, ImageFormat, Precision, Split, Transforms
from siamdiff.sections.schedulers import DDIM

MaskKind = Literal["real", "random"]
FIRST_TRANSFORMS = {"scale", "rotate", "translate", "flip"}
NO_MODEL = "copy-paste"  # what stands for the model's digest where none draws


class Settings(BaseModel):
    """The settings of `config.Generate` that change the samples or their division into shards, and the resolution."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    split: Split
    folds: int
    fold_masks: tuple[MaskKind, ...]
    transforms: Transforms
    limit: int | None
    method: Literal["model", "copy-paste"] = "model"
    guide: Literal["mask", "mask+image"] = "mask"
    image_weight: float = 1.0  # w_i, with guide mask+image
    precision: Precision = "fp32"
    sampler: str = DDIM  # short name of the scheduler
    scheduler: dict[str, Any] = {}  # its whole configuration; of ddim, the paper's, the name says it all
    steps: int
    guidance: float
    batch_size: int
    shard_size: int
    image_format: ImageFormat
    seed: int
    gates: Gates | None = None  # None: there are none, as before they came; `segmenter` is its SHA-256
    resolution: int  # of the mask set, pixels

    @model_serializer(mode="wrap")
    def _as_before(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what came later and is not used: plans of before it keep their digest."""
        dumped = fields(self)
        dumped["transforms"] = {
            name: value
            for name, value in dumped["transforms"].items()
            if name in FIRST_TRANSFORMS
            or getattr(self.transforms, name) != Transforms.model_fields[name].default
        }
        return {name: value for name, value in dumped.items() if name not in ("scheduler", "gates") or value}

    @property
    def takes_images(self) -> bool:
        """Whether the real images of the masks enter, not the masks alone."""
        return self.method == "copy-paste" or self.guide == "mask+image"


@dataclass(frozen=True)
class ShardPlan:
    """One unit of work: the samples of one output shard, in order."""

    name: str  # "fold0-000000"
    fold: int
    mask_kind: MaskKind
    mask_keys: tuple[str, ...]


class Plan(BaseModel):
    """A mask set, a model, and settings; equal plans give equal samples."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1  # raised when the same settings come to mean other samples
    masks: str  # digest of the mask set
    model: str  # digest of the model, or NO_MODEL
    training: str = ""  # digest of the set whose images must not be copied; "" without that gate
    settings: Settings

    @model_serializer(mode="wrap")
    def _as_before(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what came later and is not used, as in `Settings`."""
        return {name: value for name, value in fields(self).items() if name != "training" or value}

    @classmethod
    def of(
        cls,
        generate: Generate,
        *,
        masks: str,
        model: str,
        resolution: int,
        scheduler: dict[str, Any] | None = None,
        training: str = "",
        segmenter: str = "",
    ) -> "Plan":
        """The plan of a configuration for the mask set and the model with these digests.

        Args:
            generate: the settings.
            masks, model: digests.
            resolution: of the mask set, pixels.
            scheduler: its configuration by `schedulers.scheduler_config`, which every other than ddim needs.
            training: digest of the set that the model was trained on.
            segmenter: SHA-256 of the one that the gates name.
        """
        sampler = DDIM if generate.method == "copy-paste" else generate.scheduler
        assert sampler == DDIM or scheduler, "a scheduler's name alone does not fix its samples"
        taken = generate.model_dump(include=set(Settings.model_fields) - {"scheduler", "gates"})
        taken |= {"sampler": sampler, "scheduler": {} if sampler == DDIM else scheduler}
        gates = gates_of(generate, segmenter)
        settings = Settings(resolution=resolution, gates=gates, **taken)
        of_training = training if gates and gates.copies else ""
        return cls(masks=masks, model=model, training=of_training, settings=settings)

    @cached_property
    def digest(self) -> str:
        """16 hex digits that name the plan."""
        return digest(self.model_dump(mode="json"))[:16]

    def choose(self, keys: Sequence[str]) -> list[str]:
        """The mask keys of every fold: the first `limit` in the order of keys."""
        return sorted(keys)[: self.settings.limit]

    def shard_count(self, masks: int) -> int:
        """Number of shards for this many chosen masks."""
        return self.settings.folds * -(-masks // self.settings.shard_size)

    def name(self, masks: int, number: int) -> str:
        """The name of shard `number`, for this many chosen masks: fold by fold, "fold0-000000" first."""
        per_fold = -(-masks // self.settings.shard_size)
        return f"fold{number // per_fold}-{number % per_fold:06d}"

    def shard(self, keys: Sequence[str], number: int) -> ShardPlan:
        """Shard `number` in [0, shard_count) for the chosen mask keys: fold by fold, `shard_size` masks each."""
        size, settings = self.settings.shard_size, self.settings
        fold, place = divmod(number, -(-len(keys) // size))
        return ShardPlan(
            name=self.name(len(keys), number),
            fold=fold,
            mask_kind=settings.fold_masks[fold % len(settings.fold_masks)],
            mask_keys=tuple(keys[place * size : (place + 1) * size]),
        )

    def shards(self, keys: Sequence[str]) -> Iterator[ShardPlan]:
        """The shards for the chosen mask keys, one after the other."""
        return (self.shard(keys, number) for number in range(self.shard_count(len(keys))))

    def differences(self, other: dict[str, Any]) -> list[str]:
        """What another plan, read from a file, has that this one has not: "steps was 50, is now 20", by name."""
        before, now = _flat(other), _flat(self.model_dump(mode="json"))
        return [
            f"{name} was {before.get(name)!r}, is now {now.get(name)!r}"
            for name in sorted(before.keys() | now.keys())
            if before.get(name) != now.get(name)
        ]


def gates_of(generate: Generate, segmenter: str = "") -> Gates | None:
    """The gates that a configuration has: none for copied pairs, and no copy filter where nearness is asked for.

    Args:
        generate: the settings.
        segmenter: what stands for its URI [that itself].
    """
    gates, unset = generate.gates, Gates()
    if generate.guide == "mask+image":
        gates = gates.model_copy(update={"copies": False})
    if segmenter:
        gates = gates.model_copy(update={"segmenter": segmenter})
    if not gates.copies:  # what is not used must not tell plans apart
        gates = gates.model_copy(update={"copy_quantile": unset.copy_quantile})
    if not gates.segmenter:
        gates = gates.model_copy(update={"min_dice": unset.min_dice})
    return None if generate.method == "copy-paste" or gates.are_open else gates


def sample_seed(seed: int, fold: int, mask_key: str) -> int:
    """The seed of one sample, in [0, 2^63): a function of the settings' seed, the fold and the mask alone.

    63 bits, so that it fits the signed integers of tables.
    """
    return _hashed(f"{seed}/{fold}/{mask_key}")


def child_seed(seed: int, stream: Literal["transform", "noise", "steps"], draw: int = 0) -> int:
    """The seed, in [0, 2^63), of one of the independent random streams of a sample, for each draw of its image."""
    return _hashed(f"{seed}/{stream}/{draw}" if draw else f"{seed}/{stream}")


def _hashed(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def _flat(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields by dotted name, the sections "settings" and "transforms" taken apart."""
    flat = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            flat |= _flat(value, "" if name == "settings" else f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
