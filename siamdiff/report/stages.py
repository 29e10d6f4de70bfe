"""What the stages of each setting left, as far as a page needs it: read once, checked, named where it is missing."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from siamdiff import storage
from siamdiff.data.manifest import MANIFEST
from siamdiff.data.shardset import ShardSet
from siamdiff.errors import SiamdiffError
from siamdiff.records import read_record
from siamdiff.report.record import ExperimentRecord, Setting, Stage
from siamdiff.sections.segment import parse_arm
from siamdiff.segmentation.table import SHOWN_P

METRICS = "metrics.json"
COPIES, AGREEMENT, TSNE, CURVES = "copies.jsonl", "agreement.jsonl", "tsne.jsonl", "metrics.jsonl"
_FIELDS = {  # that a page needs of every line
    COPIES: {"set", "key", "copy"},
    AGREEMENT: {"set", "key", "dice"},
    TSNE: {"set", "x", "y"},
    CURVES: {"step"},
}
MODEL = "model/siamdiff.json"
NOT_RUN, GONE = "was not run", "has left nothing where the experiment says it lies"


class _Read(BaseModel):
    """Part of a stage's metrics.json; what a page does not show is passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class Features(_Read):
    """The network that a figure was made with."""

    label: str
    weights: str
    layer: str
    resize: str


class Figure(_Read):
    """As siamdiff.evaluation.figures.Figure."""

    name: str
    definition: str
    value: float
    reference: str
    n_reference: int
    n_synthetic: int
    floor: float | None
    features: Features
    interval: tuple[float, float] | None = None
    higher_is_better: bool = False


class OfSize(_Read):
    """As siamdiff.evaluation.agreement.OfSize."""

    name: str
    up_to: float
    synthetic: float | None
    n_synthetic: int
    real: float | None
    n_real: int


class Agreement(_Read):
    """As siamdiff.evaluation.agreement.Agreement."""

    synthetic: float | None
    n_synthetic: int
    real: float | None
    n_real: int
    definition: str
    by_size: list[OfSize] = []


class Limits(_Read):
    """As siamdiff.evaluation.copies.Limits."""

    features: float
    pixels: float
    rank: int  # 0: too few groups for the quantile
    basis: str


class Near(_Read):
    """A synthetic image and the training image that it comes nearest to; distances are 1 - cosine."""

    key: str
    training: str
    features: float
    pixels: float
    is_copy: bool = Field(alias="copy")  # `copy` is a method of every model


class Copies(_Read):
    """How many synthetic images are copies of training images, by which limits."""

    rate: float
    count: int
    quantile: float = Field(gt=0, lt=1)
    limits: Limits
    nearest: list[Near]

    @property
    def by_chance(self) -> float | None:
        """Share of new real images, at most, that would be called copies; None: too few groups to set such limits."""
        return min(2 * self.quantile, 1.0) if self.limits.rank else None  # in one space or the other


class Result(_Read):
    """What an evaluation found about one set."""

    count: int
    figures: list[Figure]
    mask_agreement: Agreement | None
    copies: Copies | None = None
    shown: list[str]


class SetInfo(_Read):
    """A set that was compared."""

    uri: str
    digest: str
    count: int
    resolution: int
    license: str
    permitted_use: str
    splits: dict[str, int]
    made_from: dict[str, Any]


class _Compared(_Read):
    real: SetInfo
    synthetic: dict[str, SetInfo]
    tests: dict[str, SetInfo] = {}


class Tsne(_Read):
    """How the two-dimensional map was made."""

    extractor: str
    perplexity: float
    seed: int
    counts: dict[str, int]
    definition: str


class Evaluation(_Read):
    """The metrics.json of an evaluation."""

    inputs_digest: str
    demo: bool
    sets: _Compared
    results: dict[str, Result]
    warnings: list[str]
    versions: dict[str, str]
    tsne: Tsne | None = None

    @model_validator(mode="after")
    def _names_its_sets(self) -> Self:
        if unknown := self.results.keys() - self.sets.synthetic.keys():
            raise ValueError(f"{min(unknown)!r} is not among its sets")
        return self


class Comparison(_Read):
    """As siamdiff.segmentation.statistics.Comparison."""

    difference: float | None
    p: float | None
    better: int
    worse: int


class Score(_Read):
    """As siamdiff.segmentation.statistics.Summary, beside the comparison with the baseline."""

    mean: float | None
    deviation: float | None
    per_seed: list[float]
    images: int
    against_baseline: Comparison | None = None


class Row(_Read):
    """One arm on one test set."""

    network: str
    arm: str
    test: str
    seeds: int
    training_pairs: int
    scores: dict[str, Score]

    @model_validator(mode="after")
    def _can_be_shown(self) -> Self:
        parse_arm(self.arm.partition(" ")[0])
        if SHOWN_P not in self.scores:
            raise ValueError(f"{self.arm} has no {SHOWN_P}")
        return self


class Segmentation(_Read):
    """The metrics.json of a segmentation."""

    inputs_digest: str
    demo: bool
    sets: _Compared
    patient_separated: bool
    baseline: str | None
    definitions: dict[str, str]
    results: list[Row] = Field(min_length=1)
    warnings: list[str]
    versions: dict[str, str]


@dataclass(frozen=True)
class Run:
    """A training."""

    uri: str
    rows: list[dict[str, Any]]  # of metrics.jsonl
    pinned: dict[str, Any]
    config: dict[str, Any]
    model: dict[str, Any]  # of siamdiff.json; {}: there is no model yet


@dataclass(frozen=True)
class Outcome:
    """What is there of one setting; None where `missing` says why."""

    setting: Setting
    real: ShardSet | None
    run: Run | None
    synthetic: ShardSet | None
    evaluation: Evaluation | None
    segmentation: Segmentation | None
    missing: Mapping[Stage, str]

    def lines(self, name: str) -> list[dict[str, Any]] | None:
        """The lines of a file of the evaluation; None: there is no such file."""
        return _lines(storage.join(self.setting.outputs["evaluate"], name))


def read_outcomes(record: ExperimentRecord) -> list[Outcome]:
    """What the stages of every setting left.

    Raises:
        SiamdiffError: a file that is there is damaged.
    """
    return [_outcome(setting) for setting in record.settings]


def open_set(uri: str, digest: str) -> ShardSet | None:
    """The set of that content; None where there is none any more, or another."""
    if not storage.exists(storage.join(uri, MANIFEST)):
        return None
    found = ShardSet.open(uri)
    return found if found.digest == digest else None


def _outcome(setting: Setting) -> Outcome:
    found: dict[Stage, Any] = {}
    missing: dict[Stage, str] = {}
    for stage, read in _READERS.items():
        if stage not in setting.outputs:
            missing[stage] = NOT_RUN
            continue
        found[stage] = read(setting.outputs[stage])
        if found[stage] is None:
            missing[stage] = GONE
    return Outcome(
        setting,
        found.get("ingest"),
        found.get("train"),
        found.get("generate"),
        found.get("evaluate"),
        found.get("segment"),
        missing,
    )


def _set(uri: str) -> ShardSet | None:
    return ShardSet.open(uri) if storage.exists(storage.join(uri, MANIFEST)) else None


def _run(uri: str) -> Run | None:
    rows = _lines(storage.join(uri, CURVES))
    pinned = _json(storage.join(uri, "pinned.json"))
    if rows is None and pinned is None:
        return None
    model = _json(storage.join(uri, MODEL))
    return Run(uri, rows or [], pinned or {}, _yaml(storage.join(uri, "config.yaml")), model or {})


M = TypeVar("M", bound=BaseModel)


def _evaluation(uri: str) -> Evaluation | None:
    return _metrics(uri, Evaluation, "jobs/evaluate.py")


def _segmentation(uri: str) -> Segmentation | None:
    return _metrics(uri, Segmentation, "jobs/segment.py")


def _metrics(uri: str, model: type[M], command: str) -> M | None:
    try:
        return read_record(model, storage.join(uri, METRICS), f"move its folder away and run {command} again")
    except FileNotFoundError:
        return None


def _json(uri: str) -> dict[str, Any] | None:
    try:
        values = storage.read_json(uri)
    except FileNotFoundError:
        return None
    if not isinstance(values, dict):
        raise _damaged(uri, "no object")
    return values


def _lines(uri: str) -> list[dict[str, Any]] | None:
    try:
        lines = storage.read_bytes(uri).splitlines()
    except FileNotFoundError:
        return None
    try:
        rows: Sequence[Any] = [json.loads(line) for line in lines]
    except ValueError as error:
        raise _damaged(uri, str(error)) from error
    wanted = _FIELDS[storage.name_of(uri)]
    if not all(isinstance(row, dict) and wanted <= row.keys() for row in rows):
        raise _damaged(uri, f"a line is no object with {', '.join(sorted(wanted))}")
    return list(rows)


def _yaml(uri: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(storage.read_bytes(uri))
    except FileNotFoundError:
        return {}
    except yaml.YAMLError as error:
        raise _damaged(uri, "not valid YAML") from error
    return values if isinstance(values, dict) else {}


def _damaged(uri: str, why: str) -> SiamdiffError:
    return SiamdiffError(f"{uri} is damaged ({why}); run the command that made it again")


_READERS: dict[Stage, Any] = {
    "ingest": _set,
    "train": _run,
    "generate": _set,
    "evaluate": _evaluation,
    "segment": _segmentation,
}
