"""Downstream segmentation: what is compared, what must not be, what is written, when it is done already.

The result is a function of (real set, synthetic sets, test sets, settings, seeds): metrics.json names their digest and
is written last. A training that was ended costs itself alone: the same command makes what is missing.
"""

import logging
import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel, Field

from infra.rows import refuse_leftovers
from infra.segmentation import SCHEMA, Job, prepare, refused
from infra.stage import CONFIG, SEGMENTATION, StageStatus, reported
from infra.trainings import PACKAGES, Inputs, Training, network_uri, read_results, run_all, trainings_uri
from siamdiff import storage
from siamdiff.config import Config
from siamdiff.data.shardset import ShardSet
from siamdiff.errors import AlreadyRunningError
from siamdiff.records import read_record
from siamdiff.run import InUseError, Lease, lease
from siamdiff.sections import Segment
from siamdiff.segmentation import arms as rules
from siamdiff.segmentation.metrics import DEFINITIONS, EMPTY
from siamdiff.segmentation.pairs import scores_as_arrays
from siamdiff.segmentation.statistics import OVERALL_IS, TEST_IS, tabulate
from siamdiff.segmentation.table import as_latex, as_text, make_rows
from siamdiff.segmentation.train import RECIPE
from siamdiff.tables import as_csv

log = logging.getLogger(__name__)

METRICS, CSV, LATEX = "metrics.json", "table.csv", "table.tex"
NOT_SEPARATED = (
    "not patient-separated: {uri} has no groups, so images of one patient may lie on both sides of a split"
)
FEW_IMAGES = 6  # below it no outcome of the paired test has p < 0.05


def segment(config: Config, demo: bool) -> str:
    """Trains segmenters on every arm of a configuration and scores them; does nothing if that was done.

    Returns:
        URI of the folder with the result.

    Raises:
        UserError: a set is missing or not complete, of another resolution or too small; a test image, or what was made
            from one, would be trained on; an output that holds another segmentation.
        AlreadyRunningError: another job makes this very one.
        SiamdiffError: damaged data, trainings that failed.
    """
    with reported(config, SEGMENTATION) as status:
        job = prepare(config, demo)
        status.total = len(job.trainings)
        earlier = _finished(job)
        if earlier:
            status.done = status.total
            log.info("segmentation already: %s\n%s", job.output, _told(earlier))
            return job.output
        try:
            with lease(job.output) as held:
                _segment(config, demo, job, held, status)
        except InUseError as error:
            raise AlreadyRunningError(f"already running: {error}") from error
    return job.output


def _segment(config: Config, demo: bool, job: Job, held: Lease, status: StageStatus) -> None:
    started = time.monotonic()
    settings = config.segment
    inputs = Inputs(
        real=(job.real.uri, job.real.digest),
        synthetic={name: (of.uri, of.digest) for name, of in job.synthetic.items()},
        tests={name: (of.shards.uri, of.shards.digest, of.keys) for name, of in job.tests.items()},
        encoder=settings.encoder,
        trainings=trainings_uri(config),
        results=job.results,
        threads=config.cluster.threads,
    )
    done = read_results(inputs, job.trainings)
    todo = [training for training in job.trainings if training.name not in done]
    log.info(
        "segmentation of %s: %d trainings (%s x %s x %d seeds), %d to make", job.real.uri, len(job.trainings),
        ", ".join(arm.name for arm in job.arms), ", ".join(settings.networks), len(settings.seeds), len(todo),
    )  # fmt: skip
    status.done = len(done)
    status.write(phase="segmenting", output=job.output)
    storage.write_bytes(storage.join(job.output, CONFIG), config.to_yaml().encode())
    if todo:
        failures = run_all(config, inputs, todo, status)
        done = read_results(inputs, job.trainings)
        refuse_leftovers("trainings", [training.name for training in job.trainings], done, failures)
    held.check()
    metrics = _metrics(job, settings, demo, inputs, done, time.monotonic() - started)
    rows = make_rows(metrics["results"])
    notes = [f"segmentation {job.digest}", TEST_IS, *metrics["warnings"]]
    storage.write_bytes(storage.join(job.output, CSV), as_csv(rows).encode())
    storage.write_bytes(storage.join(job.output, LATEX), as_latex(rows, notes).encode())
    storage.write_json(storage.join(job.output, METRICS), metrics)
    for warning in metrics["warnings"]:
        log.warning("%s", warning)
    log.info("segmentation: %s\n%s", job.output, _told(metrics))


class _Score(BaseModel):
    """What the table tells of one score."""

    images: int
    mean: float | None
    deviation: float | None
    against_baseline: dict[str, Any] | None = None


class _Result(BaseModel):
    """What the table tells of one network, arm and test set."""

    network: str
    arm: str
    test: str
    seeds: int
    training_pairs: int
    scores: dict[str, _Score] = Field(min_length=1)


class _Earlier(BaseModel):
    """What is read again of metrics.json."""

    inputs_digest: str
    patient_separated: bool
    baseline: str | None
    results: list[_Result] = Field(min_length=1)


def _finished(job: Job) -> dict[str, Any] | None:
    """What there is to tell of this segmentation, if it was made already."""
    try:
        earlier = read_record(_Earlier, storage.join(job.output, METRICS))
    except FileNotFoundError:
        return None
    if earlier.inputs_digest != job.digest:
        raise refused(job.output)
    return earlier.model_dump()


def _metrics(
    job: Job,
    settings: Segment,
    demo: bool,
    inputs: Inputs,
    results: Mapping[str, dict[str, Any]],
    seconds: float,
) -> dict[str, Any]:
    sets = [job.real, *job.synthetic.values(), *(test.shards for test in job.tests.values())]
    return {
        "schema_version": SCHEMA,
        "inputs_digest": job.digest,
        "inputs": job.inputs,
        "demo": demo or any(of.manifest.demo for of in sets),
        "sets": {
            "real": _described(job.real),
            "synthetic": {name: _described(of) for name, of in job.synthetic.items()},
            "tests": {
                name: _described(of.shards) | {"scored": len(of.keys)} for name, of in job.tests.items()
            },
        },
        "patient_separated": rules.has_groups(job.real),
        "baseline": job.baseline,
        "recipe": RECIPE,
        "settings": settings.model_dump(mode="json"),
        "definitions": DEFINITIONS | {"empty": EMPTY, "overall": OVERALL_IS, "p": TEST_IS},
        "results": _results(job, results),
        "trainings": [_summary(training, inputs, results[training.name]) for training in job.trainings],
        "warnings": _warnings(job),
        "seconds": round(seconds, 1),
        "versions": {name: version(name) for name in PACKAGES},
    }


def _results(job: Job, results: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry per network, arm and test set, the baseline's beside the others'."""
    found: list[dict[str, Any]] = []
    for network in dict.fromkeys(training.network for training in job.trainings):
        scores: dict[str, dict[str, list[Any]]] = {}
        pairs: dict[str, int] = {}
        for training in (training for training in job.trainings if training.network == network):
            pairs[training.arm.name] = training.pairs
            for test, of_test in results[training.name]["scores"].items():
                lists = {name: of_test[name] for name in DEFINITIONS}
                scores.setdefault(training.arm.name, {}).setdefault(test, []).append(scores_as_arrays(lists))
        seeds = len({training.settings.seed for training in job.trainings})
        about = {"network": network, "seeds": seeds}
        rows = tabulate(scores, job.baseline)
        found += [about | {"training_pairs": pairs[str(row["arm"])]} | row for row in rows]
    return found


def _summary(training: Training, inputs: Inputs, result: dict[str, Any]) -> dict[str, Any]:
    """Of one training: everything but the scores of single images, which lie in its own file."""
    scores: dict[str, dict[str, Any]] = result["scores"]
    told = {name: value for name, value in result.items() if name != "scores"}
    empty = {name: of["dice_at_0.5"].count(None) for name, of in scores.items()}
    alarms = {name: of["false_alarms"] for name, of in scores.items()}
    return told | {"weights": network_uri(inputs, training), "empty_images": empty, "false_alarms": alarms}


def _warnings(job: Job) -> list[str]:
    warnings = list(job.warnings)
    if not rules.has_groups(job.real):
        warnings.insert(0, NOT_SEPARATED.format(uri=job.real.uri))
    for name, test in job.tests.items():
        if test.shards.digest != job.real.digest:
            warnings.append(f"{name}: whether it shares patients with {job.real.uri} is not known")
        if len(test.keys) < FEW_IMAGES:
            warnings.append(f"{name}: {len(test.keys)} images are too few for any p below 0.05")
    if job.trainings[0].held_out is None:
        warnings.append("no validation: the weights of the last step are kept")
    return warnings


def _described(shard_set: ShardSet) -> dict[str, Any]:
    fields = {"kind", "count", "splits", "resolution", "license", "permitted_use", "made_from"}
    described = shard_set.manifest.model_dump(mode="json", include=fields)
    return {"uri": shard_set.uri, "digest": shard_set.digest} | described


def _told(metrics: dict[str, Any]) -> str:
    """The table of metrics.json for a person."""
    note = "" if metrics["patient_separated"] else "  not patient-separated\n"
    return note + as_text(make_rows(metrics["results"]), metrics["baseline"])
