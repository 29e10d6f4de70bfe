"""The table of metrics is whole, and takes what jobs tell, whatever losses they have."""

import re

import pytest

from infra import metrics
from infra.exporting import GenerateGauges, JobWatch, TrainGauges
from infra.metrics import (
    ENDS,
    GENERATE,
    GENERATE_SECONDS,
    JOB,
    PAGE,
    REASONS,
    TRAIN,
    TRAIN_LOSS_TERMS,
    Metric,
    table,
    with_table,
)
from infra.stage import _end
from siamdiff.config import Config
from siamdiff.errors import NotFiniteError, SiamdiffError, StoppedError, UserError
from siamdiff.presets import PRESETS
from siamdiff.training.previews import DISTANCE, FLOOR
from tests.training.test_presets import LOSSES


def watch() -> JobWatch:
    return JobWatch("train", Config().resolve())


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_can_be_watched(preset: str) -> None:
    losses = dict.fromkeys((*LOSSES[preset].split(), "L"), 0.5)
    assert losses.keys() <= set(TRAIN_LOSS_TERMS)
    TrainGauges(watch()).set({"step": 1, "samples_per_second": 2.0, **losses})


def test_a_line_may_hold_all_figures_or_some_or_others() -> None:
    gauges = TrainGauges(watch())
    gauges.set(dict.fromkeys(TRAIN, 1.0))
    gauges.set({"restarts": 2})
    gauges.set({"step": 3, "of_another_version": 1.0})


def test_previews_are_told_under_the_names_that_they_give() -> None:
    assert {DISTANCE, FLOOR} <= TRAIN.keys()


def test_what_generation_tells_has_a_gauge() -> None:
    gauges = GenerateGauges(watch())
    gauges.set(dict.fromkeys(GENERATE, 1.0), dict.fromkeys(REASONS, 0))
    gauges.add(dict.fromkeys(GENERATE_SECONDS, 1.0))


def test_a_job_can_be_watched_where_there_is_no_cluster() -> None:
    job = watch()
    with job.beating():
        job.tell("training", 1, 2)
        job.moved(0.5, 2, 2)
        job.spent(1.0, None)
    job.ended("finished")


@pytest.mark.parametrize(
    ("error", "phase", "end"),
    [
        (UserError("no"), "preparing", "refused"),
        (NotFiniteError("nan"), "failed", "diverged"),
        (SiamdiffError("lost"), "failed", "failed"),
        (StoppedError("SIGTERM"), "stopped", "stopped"),
        (KeyboardInterrupt(), "stopped", "stopped"),
    ],
)
def test_an_end_is_told_by_its_kind(error: BaseException, phase: str, end: str) -> None:
    assert _end(error, phase) == end in ENDS


def test_names_are_unique_and_of_one_kind() -> None:
    names = [metric.name for metric in table()]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"siamdiff_(job|train|generate|store)(_[a-z]+)+", name) for name in names)
    assert all(metric.unit and metric.meaning for metric in table())
    counted = [metric for metric in table() if metric.kind == "histogram"]
    assert all(metric.buckets == tuple(sorted(metric.buckets)) != () for metric in counted)


@pytest.mark.parametrize("ending", ["seconds", "bytes", "dollars", "ratio"])
def test_a_name_says_its_unit(ending: str) -> None:
    """What is a time is called one, so that nobody reads milliseconds."""
    units = {"seconds": {"seconds", "Unix time", "GPU seconds"}, "bytes": {"bytes"}, "dollars": {"dollars"}}
    units["ratio"] = {"0 to 1"}
    named = [metric for metric in table() if metric.unit in units[ending]]
    told = [
        m for m in named if not (m.name.endswith(f"_{ending}") or m.name == "siamdiff_generate_seconds_left")
    ]
    assert named and told == []


def test_a_series_has_few_values_of_each_label() -> None:
    known = {"stage", "run", "phase", "end", "term", "reason", "operation", "scheme", "direction", "error"}
    assert {label for metric in table() for label in metric.labels} == known
    assert all("run" in metric.labels for group in (JOB, TRAIN, GENERATE) for metric in group.values())


def test_prometheus_names_follow_the_kind() -> None:
    def series(kind) -> tuple[str, ...]:
        return Metric("a", "1", "b", (), kind).series

    assert series("gauge") == ("ray_a",)
    assert series("counter") == ("ray_a_total",)
    assert series("histogram") == ("ray_a_bucket", "ray_a_sum", "ray_a_count")


def test_the_page_holds_the_table() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert with_table(page) == page, "python -m infra.metrics writes it again"
    assert all(metric.series[0].removesuffix("_bucket") in page for metric in metrics.table())
