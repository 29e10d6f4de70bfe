"""What bulk generation makes, from what, and where: looked at and claimed before anything is spent."""

import hashlib
import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from infra.stage import LATEST, PLAN, SYNTHETIC
from siamdiff import storage
from siamdiff.config import Config
from siamdiff.data.shardset import ShardSet
from siamdiff.errors import UserError
from siamdiff.model.about import read_info, read_schedule
from siamdiff.model.sources import INFO
from siamdiff.presets import SWITCHES
from siamdiff.sampling.plan import NO_MODEL, Plan, gates_of
from siamdiff.sampling.schedulers import scheduler_config

log = logging.getLogger(__name__)

_NEEDED = {
    "model_digest",
    "control",
    "data_digest",
    "resolution",
    "demo",
    "license",
    "permitted_use",
}  # of a model's siamdiff.json


@dataclass(frozen=True)
class TrainedModel:
    """A trained model in the store."""

    uri: str
    info: dict[str, Any]  # its siamdiff.json


@dataclass(frozen=True)
class TrainingSet:
    """The set whose images must not be copied. It is opened only where it must be read."""

    uri: str
    digest: str


@dataclass(frozen=True)
class Job:
    """What is made, from what, and where."""

    plan: Plan
    keys: list[str]  # of the masks of every fold
    masks: ShardSet
    model: TrainedModel | None  # None: the method takes none
    training: TrainingSet | None  # None: copies are not looked for
    output: str

    @property
    def count(self) -> int:
        """Samples planned."""
        return self.plan.settings.folds * len(self.keys)

    @property
    def shards(self) -> int:
        """Output shards planned."""
        return self.plan.shard_count(len(self.keys))

    def name(self, number: int) -> str:
        """Of the output shard `number`."""
        return self.plan.name(len(self.keys), number)

    def todo(self, done: Collection[str]) -> np.ndarray:
        """Numbers of the shards that are not done, int64, in order; millions of samples are a few kilobytes of them."""
        names = (self.name(number) for number in range(self.shards))
        return np.flatnonzero([name not in done for name in names])


def prepare(config: Config) -> Job:
    """Opens the inputs, checks that they fit, and claims the output for the plan.

    Raises:
        UserError: no model, no mask set, masks of another size than the model's, no segmenter, an output that holds
            another plan.
    """
    settings = config.generate
    assert settings.masks and config.root, "resolve() comes first"
    masks = ShardSet.open(settings.masks)
    model = None if settings.method == "copy-paste" else _model_for(config, masks)
    gates = gates_of(settings)
    training = _training_set(config, model, masks) if model and gates and gates.copies else None
    plan = Plan.of(
        settings,
        masks=masks.digest,
        model=model.info["model_digest"] if model else NO_MODEL,
        resolution=masks.manifest.resolution,
        scheduler=scheduler_config(settings.scheduler, read_schedule(model.uri)) if model else None,
        training=training.digest if training else "",
        segmenter=_segmenter_digest(gates.segmenter) if gates and gates.segmenter else "",
    )
    keys = plan.choose(masks.keys(settings.split))
    if not keys:
        raise UserError(
            f"{masks.uri} has no samples in split {settings.split!r} (it has {masks.manifest.splits}); "
            "choose another with --generate.split"
        )
    output = settings.output or storage.join(config.root, SYNTHETIC, plan.digest)
    _claim(output, plan)
    return Job(plan, keys, masks, model, training, output)


def _model_for(config: Config, masks: ShardSet) -> TrainedModel:
    """The model that is named, checked to fit the masks and the guide."""
    uri = _model_of(config)
    info = read_info(uri)
    if missing := _NEEDED - info.keys():
        raise UserError(
            f"{uri} is not a trained model: its siamdiff.json lacks {', '.join(sorted(missing))}; "
            "name the model/ folder of a finished run with --generate.model"
        )
    resolution = masks.manifest.resolution
    if resolution != info["resolution"]:
        raise UserError(
            f"the masks of {masks.uri} have {resolution} pixels a side, the model at {uri} was trained with "
            f"{info['resolution']}; both must be equal: ingest with --data.resolution {info['resolution']}, or name "
            "another --generate.model"
        )
    if config.generate.guide == "mask+image" and info["control"] == "t2i-adapter":
        raise UserError(
            f"generate.guide is mask+image, but the model at {uri} has a T2I-Adapter, which was trained on masks "
            "alone; give --generate.guide mask, or a model with a ControlNet"
        )
    return TrainedModel(uri, info)


def _training_set(config: Config, model: TrainedModel, masks: ShardSet) -> TrainingSet:
    """The set that is named, else that which the model was trained on, else, if nobody knows it, that of the masks."""
    if named := config.generate.training:
        opened = ShardSet.open(named)
        return TrainingSet(opened.uri, opened.digest)
    digest = model.info["data_digest"]
    if digest is None:
        log.warning(
            "%s does not tell what it was trained on: copies are looked for among the training images of %s; name "
            "others with --generate.training",
            model.uri,
            masks.uri,
        )
    if digest in (None, masks.digest):
        return TrainingSet(masks.uri, masks.digest)
    return TrainingSet(model.info.get("data_uri") or "", digest)


def _segmenter_digest(uri: str) -> str:
    """SHA-256 of a segmenter that can be loaded.

    Raises:
        UserError: there is none.
    """
    from siamdiff.evaluation.mask_finder import MaskFinder  # MONAI, which takes seconds to import

    try:
        data = storage.read_bytes(uri)
    except FileNotFoundError:
        raise UserError(
            f"no segmenter at {uri}; give a segmenter-*.safetensors that evaluation keeps under ROOT/evaluation/cache "
            "as --generate.gates.segmenter"
        ) from None
    MaskFinder(data, uri)
    return hashlib.sha256(data).hexdigest()


def _model_of(config: Config) -> str:
    """The model that is named or, where neither it nor a run is and no run has these settings, the newest one."""
    own, named = storage.join(config.run_uri(), "model"), config.generate.model
    assert named, "resolve() comes first"
    if named != own or config.train.run != config.derived_run() or storage.exists(storage.join(own, INFO)):
        return named
    try:
        latest = storage.read_json(storage.join(config.runs_uri(), LATEST))["run"]
    except FileNotFoundError:
        return own
    newest = storage.join(config.runs_uri(), latest, "model")
    if other := _other_switches(config, read_info(newest)):
        raise UserError(
            f"no run under {config.root} has these settings, and the one that finished last, {latest}, is of another "
            f"method: {'; '.join(other[:3])}; train this one first, or name a model with --generate.model"
        )
    log.info("the run that finished last under %s: %s", config.root, latest)
    return newest


def _other_switches(config: Config, info: dict[str, Any]) -> list[str]:
    """What tells a model's method from the configuration's: "train.image_branch is False there, True here"."""
    there = {"model.control": info.get("control")}
    there |= {f"train.{name}": value for name, value in (info.get("train") or {}).items()}
    here = {name: getattr(getattr(config, name.split(".")[0]), name.split(".")[1]) for name in SWITCHES}
    return [
        f"{name} is {there.get(name)!r} there, {value!r} here"
        for name, value in here.items()
        if there.get(name) != value
    ]


def _claim(output: str, plan: Plan) -> None:
    """Writes plan.json first of all, or checks that the output belongs to this plan already."""
    uri = storage.join(output, PLAN)
    content = plan.model_dump(mode="json")
    if not storage.exists(uri):
        foreign = next(iter(storage.list_files(output)), None)
        if foreign not in (None, PLAN):
            raise UserError(
                f"{output} holds files that are not of a synthetic set ({foreign}); give an empty folder with "
                "--generate.output, or leave it out"
            )
        if storage.put_if_absent(uri, storage.canonical_json(content)):
            return
    earlier = storage.read_json(uri)
    differences = plan.differences(earlier)
    if differences:
        raise UserError(
            f"{output} holds another plan: {'; '.join(differences[:4])}; give the same values, or another "
            "--generate.output"
        )
