"""Evaluation of synthetic sets against a real one: what is compared, what is written, when it is done already.

The result is a function of (real set, synthetic sets and their names, settings, networks): metrics.json names their
digest and is written last, so that a finished evaluation is recognised and not made again.
"""

import logging
import random
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from pydantic import BaseModel, Field

from infra.copies import copies_of, copy_lines, nearest_sheet
from infra.figures import REFERENCE, figures_of
from infra.measure import Measured, measure
from infra.named_sets import NamedSet, check_count, open_sets
from infra.pairs import REFERENCE_SPLIT, refuse_shared
from infra.stage import CONFIG, EVALUATION, StageStatus, reported
from infra.tsne import Plane, plane_of
from siamdiff import storage
from siamdiff.config import Config, digest
from siamdiff.data.sample import Synthetic
from siamdiff.data.shardset import ShardSet
from siamdiff.errors import UserError
from siamdiff.evaluation.agreement import Agreement
from siamdiff.evaluation.extractors import Extractor, find
from siamdiff.evaluation.sheets import Pair, contact_sheet
from siamdiff.evaluation.table import as_latex, as_text, make_rows
from siamdiff.records import read_record
from siamdiff.sections import set_file
from siamdiff.tables import Row, as_csv

log = logging.getLogger(__name__)

SCHEMA = 4
METRICS, SAMPLES, COPIES, POINTS, CSV, LATEX = (
    "metrics.json",
    "agreement.jsonl",
    "copies.jsonl",
    "tsne.jsonl",
    "table.csv",
    "table.tex",
)
SHOWN_PAIRS = 12
PACKAGES = ("torch", "monai", "scipy", "scikit-learn", "numpy", "pillow")


@dataclass(frozen=True)
class Job:
    """What is compared, and where the result goes."""

    real: ShardSet
    synthetic: list[NamedSet]  # by name
    extractors: list[Extractor]
    inputs: dict[str, Any]  # everything that the figures depend on
    output: str

    @property
    def digest(self) -> str:
        """Identity of the evaluation."""
        return digest(self.inputs)


def evaluate(config: Config, demo: bool) -> str:
    """Compares the synthetic sets of a configuration with its real one; does nothing if that was done.

    Returns:
        URI of the folder with the result.

    Raises:
        UserError: a set is missing or not complete, sets of different resolution, too few samples, an output that holds
            another evaluation.
        SiamdiffError: damaged data, features that are not finite, lost workers.
    """
    with reported(config, EVALUATION) as status:
        return _evaluate(config, demo, status)


def _evaluate(config: Config, demo: bool, status: StageStatus) -> str:
    started = time.monotonic()
    job = _prepare(config, status)
    status.total = sum(len(named.shards) for named in job.synthetic)
    earlier = _finished(job)
    if earlier:
        status.done = status.total
        log.info("evaluated already: %s\n%s", job.output, _table(job, earlier.table))
        return job.output
    names = ", ".join(f"{named.name} ({named.shards.uri})" for named in job.synthetic)
    log.info("evaluating %s against %s", names, job.real.uri)
    status.write(phase="evaluating", output=job.output)
    measured = measure(config, job.real, job.synthetic, job.extractors)
    results = {named.name: _result(config, job, named, measured) for named in job.synthetic}
    plane = plane_of(config, job.real, job.synthetic, job.extractors, measured)
    metrics = _metrics(job, demo, results, plane, time.monotonic() - started)
    _write(config, job, metrics, measured, plane)
    status.done = status.total
    for warning in metrics["warnings"]:
        log.warning("%s", warning)
    log.info("evaluation: %s\n%s", job.output, _table(job, metrics["table"]))
    return job.output


def _prepare(config: Config, status: StageStatus) -> Job:
    """Opens all sets, checks that they fit, and names the output."""
    settings = config.evaluate
    assert settings.real and config.root, "resolve() comes first"
    real = ShardSet.open(settings.real)
    if real.manifest.kind != "real":
        raise UserError(f"{real.uri} is a {real.manifest.kind} set; evaluate.real takes a real one")
    n_train = len(real.keys(REFERENCE_SPLIT))
    check_count(real.uri, n_train)
    refuse_shared(real)
    extractors = [find(kind, given) for kind, given in settings.extractors.items()]
    synthetic = open_sets(config, real, status)
    for named in synthetic:
        if settings.protocol == "paper" and len(named.shards) < n_train:
            raise UserError(
                f"{named.name} has {len(named.shards)} images, evaluate.protocol paper takes as many as there are "
                f"training images, {n_train}; generate more, or give --evaluate.protocol all"
            )
    inputs = {
        "schema": SCHEMA,
        "real": real.digest,
        "synthetic": {named.name: named.shards.digest for named in synthetic},
        "reference_split": REFERENCE_SPLIT,
        "extractors": {extractor.kind: extractor.identity() for extractor in extractors},
        "protocol": settings.protocol,
        "resamples": settings.resamples,
        "kid_subset_size": settings.kid_subset_size,
        "copy_quantile": config.generate.gates.copy_quantile,
        "agreement_steps": settings.agreement_steps,
        "tsne": settings.tsne,
        "seed": settings.seed,
    }
    output = settings.output or storage.join(config.root, EVALUATION, digest(inputs)[:12])
    return Job(real, synthetic, extractors, inputs, output)


class _Earlier(BaseModel):
    """What is read again of metrics.json."""

    inputs_digest: str
    table: list[dict[str, str | int | float | None]] = Field(min_length=1)


def _finished(job: Job) -> _Earlier | None:
    """The metrics of this evaluation, if it was made already."""
    try:
        metrics = read_record(_Earlier, storage.join(job.output, METRICS))
    except FileNotFoundError:
        return None
    if metrics.inputs_digest != job.digest:
        raise UserError(
            f"{job.output} holds the evaluation of other sets or settings; give another --evaluate.output"
        )
    return metrics


def _result(config: Config, job: Job, named: NamedSet, measured: Measured) -> dict[str, Any]:
    """What metrics.json says of one synthetic set."""
    figures, warnings = figures_of(config, job.extractors, named.name, measured, len(named.shards))
    quantile = config.generate.gates.copy_quantile
    copies = copies_of(job.real, named.shards, named.name, measured, quantile)
    if copies and copies["rate"] > 2 * quantile:
        warnings.append(
            f"{copies['count']} of {len(named.shards)} images are copies of training images, more than the "
            f"{2 * quantile:.0%} that new real ones might be taken for"
        )
    agreement = measured.agreement.get(named.name)
    if agreement is None:
        warnings.append("its images came without masks: there is no mask agreement")
    elif agreement.synthetic is None:
        warnings.append("all its masks are empty: there is no mask agreement")
    elif agreement.real is None:
        warnings.append(
            "the real set has no val or test samples: mask agreement has no ceiling to compare with"
        )
    sizes = _source_sizes(named)
    side = named.shards.manifest.resolution
    resized = sum(count for size, count in sizes.items() if size != f"{side} x {side}")
    if resized:
        fit = named.shards.manifest.made_from.get("data.fit")
        warnings.append(
            f"{resized} of {len(named.shards)} images were resized to {side} x {side} pixels ({fit})"
        )
    if named.left_out:
        reasons = ", ".join(f"{count} {reason}" for reason, count in named.left_out.items())
        warnings.append(f"left out of {named.source}: {reasons}")
    return {
        "count": len(named.shards),
        "figures": [figure.as_dict() for figure in figures],
        "mask_agreement": agreement and agreement.as_dict(),
        "copies": copies,
        "source_sizes": sizes,
        "left_out": named.left_out or {},
        "warnings": [f"{named.name}: {warning}" for warning in warnings],
        "shown": _shown(job, named),
        "contact_sheet": f"contact_sheet-{set_file(named.name)}.png",
        "nearest_sheet": f"nearest-{set_file(named.name)}.png" if copies else None,
    }


def _source_sizes(named: NamedSet) -> dict[str, int]:
    """Of images that another method made: "WIDTH x HEIGHT" before they were ingested -> images."""
    if named.origin is None:
        return {}
    keys = named.shards.keys()
    metas = (named.shards.read_encoded(key).meta for key in keys)
    sizes = Counter(f"{meta.source_width} x {meta.source_height}" for meta in metas)
    return dict(sizes.most_common())


def _shown(job: Job, named: NamedSet) -> list[str]:
    """Keys of the pairs on the contact sheet: drawn at random, not chosen for their looks."""
    keys = named.shards.keys()
    return sorted(random.Random(job.inputs["seed"]).sample(keys, min(SHOWN_PAIRS, len(keys))))


def _metrics(job: Job, demo: bool, results: dict[str, Any], plane: Plane, seconds: float) -> dict[str, Any]:
    manifests = [job.real.manifest, *(named.shards.manifest for named in job.synthetic)]
    return {
        "schema_version": SCHEMA,
        "inputs_digest": job.digest,
        "inputs": job.inputs,
        "demo": demo or any(manifest.demo for manifest in manifests),
        "sets": {
            "real": _describe(job.real),
            "synthetic": {
                named.name: _describe(named.shards)
                | {"origin": named.origin and named.origin.model_dump(), "source": named.source}
                for named in job.synthetic
            },
        },
        "results": results,
        "table": make_rows(results),
        "tsne": plane.about,
        "warnings": [
            *_unequal(results),
            *plane.warnings,
            *(line for result in results.values() for line in result["warnings"]),
        ],
        "seconds": round(seconds, 1),
        "versions": {name: version(name) for name in PACKAGES},
    }


def _unequal(results: dict[str, Any]) -> list[str]:
    if len({result["count"] for result in results.values()}) == 1:
        return []
    return [
        "the sets have different numbers of images: compare a Frechet distance with its floor, not with another set's"
    ]


def _describe(shard_set: ShardSet) -> dict[str, Any]:
    fields = {"count", "splits", "resolution", "license", "permitted_use", "made_from"}
    described = shard_set.manifest.model_dump(mode="json", include=fields)
    return {"uri": shard_set.uri, "digest": shard_set.digest} | described


def _write(config: Config, job: Job, metrics: dict[str, Any], measured: Measured, plane: Plane) -> None:
    """Everything beside the sets; metrics.json last."""
    agreement = measured.agreement
    rows = (
        {"set": name, "key": key, "dice": dice if np.isfinite(dice) else None}
        for name, of_set in agreement.items()
        for key, dice in of_set.per_sample.items()
    )
    table = metrics["table"]
    files = {
        SAMPLES: _lines(rows),
        COPIES: _lines(
            row for named in job.synthetic for row in copy_lines(job.real, named.shards, named.name, measured)
        ),
        CSV: as_csv(table).encode(),
        LATEX: as_latex(table, [_reference(job), f"evaluation {job.digest}"]).encode(),
        CONFIG: config.to_yaml().encode(),
    }
    if plane.about:
        files[POINTS] = _lines(plane.points)
    for named in job.synthetic:
        result = metrics["results"][named.name]
        files[result["contact_sheet"]] = _sheet(
            job, named, result["shown"], agreement.get(named.name), metrics["demo"]
        )
        if result["copies"]:
            title = (
                "DEMO on phantoms: " if metrics["demo"] else ""
            ) + f"Nearest training images: {named.name}"
            files[result["nearest_sheet"]] = nearest_sheet(job.real, named.shards, result["copies"], title)
    for name, content in files.items():
        storage.write_bytes(storage.join(job.output, name), content)
    storage.write_json(storage.join(job.output, METRICS), metrics)


def _lines(rows: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(storage.canonical_json(row) + b"\n" for row in rows)


def _sheet(job: Job, named: NamedSet, shown: list[str], agreement: Agreement | None, demo: bool) -> bytes:
    side, shards = job.real.manifest.resolution, named.shards
    what = "pairs" if named.has_masks else "images"
    notes = [
        f"{len(shown)} of {len(shards)} {what}, drawn at random (seed {job.inputs['seed']}); "
        f"{side} x {side} pixels; real set {job.real.digest[:12]}, synthetic set {shards.digest[:12]}",
    ]
    if agreement is not None and agreement.synthetic is not None:
        ceiling = "" if agreement.real is None else f", {agreement.real:.2f} on held-out real images"
        notes.append(
            f"Mask agreement (Dice): {agreement.synthetic:.2f} on all {agreement.n_synthetic} synthetic images{ceiling}"
        )
    title = "Synthetic images" + (" and the masks they were made from" if named.has_masks else "")
    if len(job.synthetic) > 1:
        title += f": {named.name}"
    real_keys = set(job.real.keys())
    return contact_sheet(
        [_pair(job.real, real_keys, named, key, agreement) for key in shown],
        f"DEMO on phantoms: {title}" if demo else title,
        notes,
    )


def _pair(
    real: ShardSet, real_keys: set[str], named: NamedSet, key: str, agreement: Agreement | None
) -> Pair:
    sample = named.shards.read(key)
    origin = sample.meta.synthetic
    known = origin if isinstance(origin, Synthetic) else None
    parent = real.read(known.parent) if known and known.parent in real_keys else None
    dice = agreement.per_sample[key] if agreement else float("nan")
    return Pair(
        key=key,
        image=sample.image,
        mask=sample.mask if named.has_masks else None,
        parent=known.parent if known else None,
        fold=known.fold if known else None,
        transform=known.transform if known else {},
        real_image=parent.image if parent else None,
        real_mask=parent.mask if parent else None,
        dice=dice if np.isfinite(dice) else None,
    )


def _table(job: Job, rows: Sequence[Row]) -> str:
    """The comparison for a person."""
    return f"  {_reference(job)}\n{as_text(rows)}"


def _reference(job: Job) -> str:
    return f"reference: {job.real.manifest.splits[REFERENCE_SPLIT]} images ({REFERENCE})"
