"""What all sections of a page are made from: the settings' outcomes, and each synthetic set that was looked at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from siamdiff.data.shardset import ShardSet
from siamdiff.report.pictures import annotation, masks_of
from siamdiff.report.record import ExperimentRecord, Setting
from siamdiff.report.stages import (
    AGREEMENT,
    COPIES,
    Evaluation,
    Outcome,
    Result,
    SetInfo,
    open_set,
    read_outcomes,
)

TRAIN = "train"


@dataclass(frozen=True)
class View:
    """One synthetic set of one evaluation."""

    label: str  # unlike those of all others
    name: str  # the set's name in the evaluation
    outcome: Outcome
    evaluation: Evaluation
    result: Result
    info: SetInfo

    @cached_property
    def real(self) -> ShardSet | None:
        """The real set that it was compared with; None: it is gone, or holds other samples by now."""
        return open_set(self.evaluation.sets.real.uri, self.evaluation.sets.real.digest)

    @cached_property
    def shards(self) -> ShardSet | None:
        """Its samples; None: they are gone, or others."""
        return open_set(self.info.uri, self.info.digest)

    @cached_property
    def copies(self) -> frozenset[str] | None:
        """Keys of its images that are copies of training images; None: not measured."""
        rows = self.rows(COPIES)
        return None if rows is None else frozenset(row["key"] for row in rows if row["copy"])

    @cached_property
    def dice(self) -> dict[str, float]:
        """Mask agreement by key, where there is any."""
        return {row["key"]: row["dice"] for row in self.rows(AGREEMENT) or [] if row["dice"] is not None}

    def rows(self, file: str) -> list[dict[str, Any]] | None:
        """This set's lines of a file of the evaluation; None where there are none, hence nothing was measured."""
        found = self.outcome.lines(file)
        return [row for row in found if row["set"] == self.name] or None if found is not None else None


@dataclass(frozen=True)
class Scope:
    """An experiment as a page sees it."""

    record: ExperimentRecord
    outcomes: Sequence[Outcome]
    views: Sequence[View]
    share: bool
    left_out: list[str] = field(default_factory=list)  # of a shared page: what, and why

    @classmethod
    def of(cls, record: ExperimentRecord, share: bool) -> "Scope":
        """Reads what the stages left."""
        outcomes = read_outcomes(record)
        return cls(record, outcomes, _views(outcomes), share)

    @property
    def demo(self) -> bool:
        """Whether anything of it was made on phantoms."""
        measured = [of for o in self.outcomes for of in (o.evaluation, o.segmentation) if of is not None]
        return self.record.demo or any(of.demo for of in measured)

    @cached_property
    def real_sets(self) -> dict[str, ShardSet]:
        """Every real set that there still is, by digest."""
        found = [view.real for view in self.views] + [outcome.real for outcome in self.outcomes]
        return {shards.digest: shards for shards in found if shards is not None}

    @cached_property
    def annotations(self) -> frozenset[bytes]:
        """Every real mask, as siamdiff.report.pictures.annotation has it."""
        sets = self.real_sets.values()
        return frozenset(annotation(mask) for shards in sets for mask in masks_of(shards, shards.keys()))

    def label(self, outcome: Outcome) -> str:
        """The setting's name where there are several, as the beginning of a label; else ""."""
        return outcome.setting.name if len(self.outcomes) > 1 else ""

    def leave_out(self, what: str) -> None:
        """Notes what a shared page does not show."""
        if what not in self.left_out:
            self.left_out.append(what)


def own_set(setting: Setting, uris: Mapping[str, str]) -> str:
    """The name, among sets that were compared, of the one that the setting made; the first by name if it is not there.

    Args:
        setting: whose.
        uris: name -> URI; not empty.
    """
    made = setting.outputs.get("generate")
    return min((name for name, uri in uris.items() if uri == made), default=min(uris))


def own_result(outcome: Outcome) -> str | None:
    """The name of a setting's own set in its evaluation, as `own_set`; None: nothing was evaluated."""
    if outcome.evaluation is None or not outcome.evaluation.results:
        return None
    sets = outcome.evaluation.sets.synthetic
    return own_set(outcome.setting, {name: sets[name].uri for name in outcome.evaluation.results})


def _views(outcomes: Sequence[Outcome]) -> list[View]:
    """Every set of every evaluation; one that several settings share, once."""
    views: dict[tuple[str, str], View] = {}
    for outcome in outcomes:
        evaluation = outcome.evaluation
        if evaluation is None:
            continue
        for name, result in evaluation.results.items():
            parts = [outcome.setting.name] if len(outcomes) > 1 else []
            if len(evaluation.results) > 1 or not parts:
                parts.append(name)
            view = View(", ".join(parts), name, outcome, evaluation, result, evaluation.sets.synthetic[name])
            views.setdefault((evaluation.inputs_digest, name), view)
    return list(views.values())
