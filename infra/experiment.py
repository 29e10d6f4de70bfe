"""All stages of one configuration, or of each setting of a sweep; each stage skips what is finished.

A stage's output is named after what it depends on, so what settings share (the real set, the segmenters on real pairs,
a run that two tables have in common) is made once, and a command that ended anywhere goes on there.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from pydantic import BaseModel, Field

from infra import segmentation
from infra.evaluate import evaluate
from infra.generate import generate
from infra.ingest import ingest
from infra.named_sets import check_given
from infra.segment import segment
from infra.stage import EXPERIMENTS
from infra.train import train
from siamdiff import storage
from siamdiff.config import Config, digest
from siamdiff.errors import SiamdiffError
from siamdiff.records import read_record
from siamdiff.report import comparison
from siamdiff.report.figures import figures_of
from siamdiff.report.page import write_report
from siamdiff.report.record import EXPERIMENT, ExperimentRecord, Setting, Stage
from siamdiff.run import readable_seconds
from siamdiff.sections import NEWEST
from siamdiff.sweep import ALONE, Planned, planned

log = logging.getLogger(__name__)

STAGES: dict[Stage, Callable[[Config, bool], str]] = {
    "ingest": ingest,
    "train": train,
    "generate": generate,
    "evaluate": evaluate,
    "segment": segment,
}
SPENT = "spent"  # under the experiments' folder
CSV, LATEX = "table.csv", "table.tex"


def stages(config: Config) -> dict[Stage, Callable[[Config, bool], str]]:
    """The stages that a configuration needs, in order: copies of the real pairs need no model, hence no training."""
    needless = {"train"} if config.generate.method == "copy-paste" else set()
    return {name: stage for name, stage in STAGES.items() if name not in needless}


def experiment(config: Config, demo: bool) -> str:
    """Ingests, trains, generates, evaluates and segments, for each setting; ends with a table of stages and times.

    Returns:
        URI of the experiment's folder.

    Raises:
        UserError: a set that is to be compared at the end is missing, settings that do not go with the configuration.
        SiamdiffError: what the first stage that failed raised; the same command goes on there.
    """
    assert config.root, "resolve() comes first"
    wanted = planned(config)
    for one in wanted:
        check_given(one.config)
        segmentation.check_given(one.config)
    times: dict[str, float] = {}
    try:
        settings = [_run(one, demo, times) for one in wanted]
    finally:
        log.info("stages:\n%s", _table(times))
    uri = _write(config, demo, settings)
    log.info("everything lies under %s, the comparison in %s", config.root, uri)
    return uri


def _run(setting: Planned, demo: bool, times: dict[str, float]) -> Setting:
    """All stages of one setting."""
    config = setting.config
    outputs: dict[Stage, str] = {}
    seconds: dict[Stage, float] = {}
    for name, stage in stages(config).items():
        if name == "segment" and not segmentation.has_tests(config):
            log.warning(
                "%s has no test split: segmentation is left out; give --segment.tests URI",
                config.segment.real,
            )
            continue
        told = name if setting.name == ALONE else f"{setting.name}: {name}"
        log.info("== %s", told)
        times[told] = float("nan")
        with timed(setting, name) as spent:
            outputs[name] = stage(config, demo)
        times[told], seconds[name] = spent.now, spent.seconds
        if name == "ingest" and segmentation.has_tests(config):
            segmentation.check_ingested(config)
        if name == "generate":
            config = _with_set(config, outputs[name])
    return Setting(
        name=setting.name, meaning=setting.meaning, fields=setting.fields, outputs=outputs, seconds=seconds
    )


def _with_set(config: Config, uri: str) -> Config:
    """The configuration with the set that was just made, where the newest is asked for: by then it may be another's."""
    changed = {
        name: section.model_copy(update={"synthetic": _given(section.synthetic or {}, uri)})
        for name, section in (("evaluate", config.evaluate), ("segment", config.segment))
    }
    return config.model_copy(update=changed)


def _given(sets: dict[str, str], uri: str) -> dict[str, str]:
    return {name: uri if given == NEWEST else given for name, given in sets.items()}


class _Spent(BaseModel):
    """The time that commands of experiments spent on a stage of a setting, until it was finished."""

    seconds: float = 0.0
    finished: bool = False
    now: float = Field(default=0.0, exclude=True)  # of this command
    started: float = Field(default_factory=time.monotonic, exclude=True)


@contextmanager
def timed(setting: Planned, stage: Stage) -> Iterator[_Spent]:
    """Adds the block's time to what is known; a command that was killed adds nothing, nor does one that only looks."""
    config = setting.config
    assert config.root, "resolve() comes first"
    asked = config.model_dump(mode="json", exclude={"cluster", "experiment"})
    name = digest({"stage": stage, "asked": asked})[:16]
    place = storage.join(config.root, EXPERIMENTS, SPENT, f"{name}.json")
    try:
        spent = read_record(_Spent, place)
    except FileNotFoundError:
        spent = _Spent()
    was_finished = spent.finished

    def write() -> None:
        spent.now = time.monotonic() - spent.started
        if not was_finished:
            spent.seconds = round(spent.seconds + spent.now, 1)
            storage.write_json(place, spent.model_dump())

    try:
        yield spent
    except BaseException:
        # a store that is away made the stage fail too, and what the stage says of it is to be told
        with suppress(SiamdiffError):
            write()
        raise
    spent.finished = True
    write()


def _write(config: Config, demo: bool, settings: list[Setting]) -> str:
    """The record of an experiment that is whole, its comparison and its page; returns their folder."""
    assert config.root, "resolve() comes first"
    inputs = digest({one.name: {"fields": one.fields, "outputs": one.outputs} for one in settings})
    uri = storage.join(config.root, EXPERIMENTS, inputs[:12])
    record = ExperimentRecord(
        inputs_digest=inputs, sweep=config.experiment.sweep, demo=demo, settings=settings
    )
    figures = figures_of(record)  # checks what the stages left, which the rows take as it is
    rows = comparison.make_rows(settings)
    if len(settings) > 1:
        log.info("comparison:\n%s", comparison.as_text(rows))
    storage.write_bytes(storage.join(uri, CSV), comparison.as_csv(rows).encode())
    storage.write_bytes(
        storage.join(uri, LATEX), comparison.as_latex(rows, [f"experiment {inputs}"]).encode()
    )
    for name, svg in figures.items():
        storage.write_bytes(storage.join(uri, name), svg.encode())
    storage.write_json(storage.join(uri, EXPERIMENT), record.model_dump(mode="json"))
    log.info("report: %s", write_report(uri))
    return uri


def _table(seconds: dict[str, float]) -> str:
    width = max(10, *map(len, seconds)) if seconds else 10
    rows = [
        f"  {name:<{width}} {readable_seconds(spent) if spent == spent else 'failed':>8}"
        for name, spent in seconds.items()
    ]
    whole = sum(spent for spent in seconds.values() if spent == spent)
    return "\n".join([*rows, f"  {'all':<{width}} {readable_seconds(whole):>8}"])
