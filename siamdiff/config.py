"""The typed configuration of one experiment: one YAML file, any field overridden on the command line.

Precedence: command line, then a preset that it names, then the YAML file, then a preset that the file names, then the
defaults of siamdiff.sections. URIs that are left out are derived from `root` by `Config.resolve`. Credentials are never
part of it.
"""

import hashlib
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from siamdiff import storage
from siamdiff.model import sources
from siamdiff.presets import expand
from siamdiff.sections import (
    FOR_IMAGES,
    FOR_PHANTOMS,
    NEWEST,
    PHANTOM,
    SYNTHETIC,
    Cluster,
    Data,
    Evaluate,
    Experiment,
    Generate,
    Model,
    Segment,
    Train,
)

# Came after the first runs: left out of a run's identity at their defaults, so that those runs can still go on.
_LATER = {"schedule", "warmup_steps", "clip_norm", "ema_decay"}


class Config(BaseSettings):
    """One experiment: real data, training, bulk generation, evaluation, segmentation; what is compared."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, env_prefix="SIAMDIFF_UNUSED_")

    root: str | None = Field(
        default=None, description="URI under which everything is written [~/.siamdiff/NAME of the source]"
    )
    preset: str | None = Field(
        default=None,
        description="settings of the paper's tables by name, such as ours, table5-1 or table6-0.5 (list below)",
    )
    data: Data = Data()
    model: Model = Model()
    train: Train = Train()
    generate: Generate = Generate()
    evaluate: Evaluate = Evaluate()
    segment: Segment = Segment()
    experiment: Experiment = Experiment()
    cluster: Cluster = Cluster()

    @classmethod
    def settings_customise_sources(  # pyrefly: ignore[bad-override] what is not looked at goes by one name
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        **others: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is given in the file and on the command line counts, never the environment."""
        return (init_settings,)

    @model_validator(mode="before")
    @classmethod
    def _preset_below(cls, fields: Any) -> Any:
        """Puts a preset's fields below those that are given."""
        return expand(fields)

    @model_validator(mode="after")
    def _adapter_reads_masks_alone(self) -> "Config":
        if self.model.control == "t2i-adapter" and self.train.image_branch:
            raise ValueError(
                "model.control is t2i-adapter, which has no image branch: train.image_branch and "
                "train.online_augmentation must be false and train.consistency_weight 0, as --preset t2i-adapter has it"
            )
        generate = self.generate
        if self.model.control == "t2i-adapter" and generate.guide == "mask+image" and not generate.model:
            raise ValueError(
                "generate.guide is mask+image and model.control t2i-adapter, which reads masks alone: give "
                "--generate.guide mask, or a model with a ControlNet as --generate.model"
            )
        return self

    @model_validator(mode="after")
    def _deepspeed_can(self) -> "Config":
        train = self.train
        if train.engine == "deepspeed" and train.precision == "fp16" and train.zero_stage == 0:
            raise ValueError(
                "train.precision is fp16 and train.zero_stage 0, where DeepSpeed does not give its fp32 weights away: "
                "give --train.zero_stage 1, 2 or 3"
            )
        for name in ("compile", "channels_last"):
            if train.engine == "deepspeed" and getattr(train, name) and train.zero_stage == 3:
                raise ValueError(
                    f"train.{name} is on and train.zero_stage 3, where weights come and go while the networks run: "
                    "give --train.zero_stage 2 or less"
                )
        return self

    @model_validator(mode="after")
    def _can_be_kept(self) -> "Config":
        train = self.train
        if train.min_workers and train.min_workers > train.workers:
            raise ValueError(
                f"train.min_workers is {train.min_workers} and train.workers {train.workers}: "
                "the fewest workers to go on with cannot be more than all"
            )
        if train.budget_cost is not None and (self.cluster.price is None or not self.cluster.gpus):
            raise ValueError(
                "train.budget_cost is reckoned from cluster.price and cluster.gpus: give both, "
                "or train.budget_hours"
            )
        if self.generate.budget_cost is not None and (self.cluster.price is None or not self.cluster.gpus):
            raise ValueError(
                "generate.budget_cost is reckoned from cluster.price and cluster.gpus: give both, "
                "or generate.budget_hours"
            )
        if train.offload_optimizer and (train.engine == "torch" or train.zero_stage == 0):
            raise ValueError(
                "train.offload_optimizer is DeepSpeed's at ZeRO 1 to 3: give --train.engine deepspeed and "
                "--train.zero_stage 1, 2 or 3"
            )
        if train.engine == "torch" and train.min_workers:
            raise ValueError(
                "train.min_workers is for train.engine deepspeed; one process has no workers to lose"
            )
        return self

    @model_validator(mode="after")
    def _every_worker_has_a_sample(self) -> "Config":
        train = self.train
        if train.workers > train.batch_size:
            raise ValueError(
                f"train.workers is {train.workers} and train.batch_size {train.batch_size}: some workers would have no "
                "sample; lower train.workers"
            )
        return self

    def resolve(self) -> "Config":
        """The same configuration with every URI that can be known beforehand filled in and made absolute."""
        source = self.data.source if self.data.source == PHANTOM else storage.normalize(self.data.source)
        name = "demo" if source == PHANTOM else Path(storage.name_of(source)).stem
        root = storage.normalize(self.root or f"~/.siamdiff/{name}")
        prompt, license, use = FOR_PHANTOMS if source == PHANTOM else FOR_IMAGES
        uri = storage.normalize(self.data.uri or storage.join(root, "data"))
        data = self.data.model_copy(
            update={
                "source": source,
                "uri": uri,
                "prompt": self.data.prompt or prompt,
                "license": self.data.license or license,
                "permitted_use": self.data.permitted_use or use,
            }
        )
        model = self.model.model_copy(
            update={
                "base": sources.normalize(self.model.base),
                "parts": self.model.parts and sources.normalize(self.model.parts),
            }
        )
        resolved = self.model_copy(update={"root": root, "data": data, "model": model})
        run = self.train.run or resolved.derived_run()
        gates = self.generate.gates
        generate = self.generate.model_copy(
            update={
                "model": storage.normalize(self.generate.model or storage.join(root, "runs", run, "model")),
                "masks": storage.normalize(self.generate.masks or uri),
                "output": self.generate.output and storage.normalize(self.generate.output),
                "gates": gates.model_copy(
                    update={"segmenter": gates.segmenter and storage.normalize(gates.segmenter)}
                ),
            }
        )
        evaluate = self.evaluate.model_copy(
            update={
                "real": storage.normalize(self.evaluate.real or uri),
                "synthetic": _absolute(self.evaluate.synthetic or {SYNTHETIC: NEWEST}),
                "output": self.evaluate.output and storage.normalize(self.evaluate.output),
            }
        )
        segment = self.segment.model_copy(
            update={
                "real": storage.normalize(self.segment.real or uri),
                "synthetic": _absolute(self.segment.synthetic or {SYNTHETIC: NEWEST}),
                "tests": self.segment.tests and _absolute(self.segment.tests),
                "encoder": self.segment.encoder and storage.normalize(self.segment.encoder),
                "output": self.segment.output and storage.normalize(self.segment.output),
            }
        )
        train = self.train.model_copy(update={"run": run})
        return resolved.model_copy(
            update={"train": train, "generate": generate, "evaluate": evaluate, "segment": segment}
        )

    def derived_run(self) -> str:
        """The run's name where none is given: a digest of everything its result depends on."""
        return f"run-{digest(self.pinned())[:8]}"

    def pinned(self) -> dict[str, Any]:
        """What a run's result depends on, by field name: the same run ID with other values is refused.

        Workers, reading, logging, checkpoint intervals and what only trades memory are left out: they may change
        between two attempts.
        """
        free = {
            "run", "workers", "min_workers", "micro_batch", "loader_workers", "cache", "log_steps",
            "checkpoint_minutes", "checkpoint_steps", "checkpoints_kept", "validation_steps", "validation_samples",
            "preview_steps", "preview_samples", "grace_seconds", "stall_minutes", "budget_hours", "budget_cost",
            "max_restarts", "gradient_limit", "offload_optimizer", "channels_last", "compile",
            "activation_checkpointing",
        }  # fmt: skip
        fields = {"data.uri": self.data.uri}
        fields |= {f"model.{name}": value for name, value in self.model.model_dump(mode="json").items()}
        fields |= {
            f"train.{name}": value
            for name, value in self.train.model_dump(mode="json").items()
            if name not in free and (name not in _LATER or value != Train.model_fields[name].default)
        }
        return fields

    def runs_uri(self) -> str:
        """Where the runs of a resolved configuration lie, ROOT/runs."""
        assert self.root, "resolve() comes first"
        return storage.join(self.root, "runs")

    def run_uri(self) -> str:
        """The run's folder, ROOT/runs/RUN."""
        assert self.train.run, "resolve() comes first"
        return storage.join(self.runs_uri(), self.train.run)

    def to_yaml(self) -> str:
        """The configuration as a YAML file that `--config` takes."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _absolute(sets: dict[str, str]) -> dict[str, str]:
    """Named sets with absolute URIs; `latest` stays."""
    return {name: uri if uri == NEWEST else storage.normalize(uri) for name, uri in sets.items()}


def digest(value: Any) -> str:
    """SHA-256, in hex, of a value's canonical JSON."""
    return hashlib.sha256(storage.canonical_json(value)).hexdigest()
