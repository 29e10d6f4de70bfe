"""Evaluation of a synthetic set against a real one: what is compared, what is written, when it is done already.

The result is a function of (real set, synthetic set, settings, network): metrics.json names their digest and is written
last, so that a finished evaluation is recognised and not made again.
"""

import logging
import random
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from infra.measure import REFERENCE_SPLIT, measure
from infra.stage import CONFIG, EVALUATION, LATEST, SYNTHETIC, StageStatus, reported
from siamdiff import storage
from siamdiff.config import Config, digest
from siamdiff.data.shardset import ShardSet
from siamdiff.errors import SiamdiffError, UserError
from siamdiff.evaluation.agreement import Agreement
from siamdiff.evaluation.distances import Figure, compare
from siamdiff.evaluation.features import EfficientNetLite0
from siamdiff.evaluation.sheets import Pair, contact_sheet

log = logging.getLogger(__name__)

SCHEMA = 1
METRICS, SHEET, SAMPLES = "metrics.json", "contact_sheet.png", "agreement.jsonl"
SHOWN_PAIRS = 12
PACKAGES = ("torch", "monai", "scipy", "numpy", "pillow")


@dataclass(frozen=True)
class Job:
    """What is compared, and where the result goes."""

    real: ShardSet
    synthetic: ShardSet
    inputs: dict[str, Any]  # everything that the figures depend on
    output: str

    @property
    def digest(self) -> str:
        """Identity of the evaluation."""
        return digest(self.inputs)


def evaluate(config: Config, demo: bool) -> None:
    """Compares the synthetic set of a configuration with its real one; does nothing if that was done.

    Raises:
        UserError: a set is missing or not complete, sets of different resolution, no real training samples, an output
            that holds another evaluation.
        SiamdiffError: damaged data, features that are not finite, lost workers.
    """
    with reported(config, EVALUATION) as status:
        _evaluate(config, demo, status)


def _evaluate(config: Config, demo: bool, status: StageStatus) -> None:
    started = time.monotonic()
    job = _prepare(config)
    status.total = len(job.synthetic)
    earlier = _finished(job)
    if earlier:
        status.done = status.total
        log.info("evaluated already: %s\n%s", job.output, table(earlier))
        return
    log.info("evaluating %s against %s", job.synthetic.uri, job.real.uri)
    status.write(phase="evaluating", output=job.output)
    features, agreement = measure(config, job.real, job.synthetic)
    figures, warnings = compare(
        features["synthetic"],
        features["real"],
        EfficientNetLite0.spec,
        f"real, {REFERENCE_SPLIT}",
        config.evaluate.seed,
    )
    if agreement.real is None:
        warnings.append(
            "the real set has no val or test samples: mask agreement has no ceiling to compare with"
        )
    metrics = _metrics(job, demo, figures, agreement, warnings, time.monotonic() - started)
    _write(config, job, metrics, agreement)
    status.done = status.total
    for warning in warnings:
        log.warning("%s", warning)
    log.info("evaluation: %s\n%s", job.output, table(metrics))


def _prepare(config: Config) -> Job:
    """Opens both sets, checks that they fit, and names the output."""
    settings = config.evaluate
    assert settings.real and config.root, "resolve() comes first"
    real, synthetic = ShardSet.open(settings.real), ShardSet.open(settings.synthetic or _latest(config))
    for shard_set, kind in ((real, "real"), (synthetic, "synthetic")):
        if shard_set.manifest.kind != kind:
            raise UserError(
                f"{shard_set.uri} is a {shard_set.manifest.kind} set; evaluate.{kind} takes a {kind} one"
            )
    sides = real.manifest.resolution, synthetic.manifest.resolution
    if sides[0] != sides[1]:
        raise UserError(
            f"{real.uri} holds images of {sides[0]} pixels, {synthetic.uri} of {sides[1]}; "
            "evaluate sets of one resolution"
        )
    for shard_set, count in ((real, len(real.keys(REFERENCE_SPLIT))), (synthetic, len(synthetic))):
        if count < 2:
            raise UserError(
                f"{shard_set.uri} has {count} samples to compare; a distance needs at least 2 on each side"
            )
    inputs = {
        "schema": SCHEMA,
        "real": real.digest,
        "synthetic": synthetic.digest,
        "reference_split": REFERENCE_SPLIT,
        "features": asdict(EfficientNetLite0.spec),
        "agreement_steps": settings.agreement_steps,
        "seed": settings.seed,
    }
    output = settings.output or storage.join(config.root, EVALUATION, digest(inputs)[:12])
    return Job(real, synthetic, inputs, output)


def _latest(config: Config) -> str:
    assert config.root
    uri = storage.join(config.root, SYNTHETIC, LATEST)
    try:
        return storage.read_json(uri)["uri"]
    except FileNotFoundError:
        raise UserError(
            f"there is no synthetic set under {config.root} ({uri} is missing); generate first, or give "
            "--evaluate.synthetic URI"
        ) from None


def _finished(job: Job) -> dict[str, Any] | None:
    """The metrics of this evaluation, if it was made already."""
    try:
        metrics = storage.read_json(storage.join(job.output, METRICS))
    except FileNotFoundError:
        return None
    if metrics.get("inputs_digest") != job.digest:
        raise UserError(
            f"{job.output} holds the evaluation of other sets or settings; give another --evaluate.output"
        )
    return metrics


def _metrics(
    job: Job,
    demo: bool,
    figures: list[Figure],
    agreement: Agreement,
    warnings: list[str],
    seconds: float,
) -> dict[str, Any]:
    real, synthetic = job.real.manifest, job.synthetic.manifest
    return {
        "schema_version": SCHEMA,
        "inputs_digest": job.digest,
        "inputs": job.inputs,
        "demo": demo or real.demo or synthetic.demo,
        "sets": {
            name: {
                "uri": shard_set.uri,
                "digest": shard_set.digest,
                "count": shard_set.manifest.count,
                "splits": shard_set.manifest.splits,
                "resolution": shard_set.manifest.resolution,
                "license": shard_set.manifest.license,
                "permitted_use": shard_set.manifest.permitted_use,
                "made_from": shard_set.manifest.made_from,
            }
            for name, shard_set in (("real", job.real), ("synthetic", job.synthetic))
        },
        "figures": [figure.as_dict() for figure in figures],
        "mask_agreement": agreement.as_dict(),
        "warnings": warnings,
        "shown": _shown(job),
        "seconds": round(seconds, 1),
        "versions": {name: version(name) for name in PACKAGES},
    }


def _shown(job: Job) -> list[str]:
    """Keys of the pairs on the contact sheet: drawn at random, not chosen for their looks."""
    keys = job.synthetic.keys()
    return sorted(random.Random(job.inputs["seed"]).sample(keys, min(SHOWN_PAIRS, len(keys))))


def _write(config: Config, job: Job, metrics: dict[str, Any], agreement: Agreement) -> None:
    """Everything beside the sets; metrics.json last."""
    rows = (
        {"key": key, "dice": dice if np.isfinite(dice) else None}
        for key, dice in agreement.per_sample.items()
    )
    lines = b"".join(storage.canonical_json(row) + b"\n" for row in rows)
    storage.write_bytes(storage.join(job.output, SAMPLES), lines)
    storage.write_bytes(storage.join(job.output, SHEET), _sheet(job, metrics, agreement))
    storage.write_bytes(storage.join(job.output, CONFIG), config.to_yaml().encode())
    storage.write_json(storage.join(job.output, METRICS), metrics)


def _sheet(job: Job, metrics: dict[str, Any], agreement: Agreement) -> bytes:
    side, count = job.real.manifest.resolution, len(job.synthetic)
    ceiling = "" if agreement.real is None else f", {agreement.real:.2f} on held-out real images"
    notes = [
        f"{len(metrics['shown'])} of {count} pairs, drawn at random (seed {job.inputs['seed']}); "
        f"{side} x {side} pixels; real set {job.real.digest[:12]}, synthetic set {job.synthetic.digest[:12]}",
        f"Mask agreement (Dice): {agreement.synthetic:.2f} on all {agreement.n_synthetic} synthetic images{ceiling}",
    ]
    title = "Synthetic images and the masks they were made from"
    real_keys = set(job.real.keys())
    return contact_sheet(
        [_pair(job, real_keys, key, agreement) for key in metrics["shown"]],
        f"DEMO on phantoms: {title}" if metrics["demo"] else title,
        notes,
    )


def _pair(job: Job, real_keys: set[str], key: str, agreement: Agreement) -> Pair:
    sample = job.synthetic.read(key)
    origin = sample.meta.synthetic
    if origin is None:
        raise SiamdiffError(f"{job.synthetic.uri}: sample {key} does not say what it was made from")
    parent = job.real.read(origin.parent) if origin.parent in real_keys else None
    dice = agreement.per_sample[key]
    return Pair(
        key=key,
        parent=origin.parent,
        fold=origin.fold,
        transform=origin.transform,
        real_image=parent.image if parent else None,
        real_mask=parent.mask if parent else None,
        image=sample.image,
        mask=sample.mask,
        dice=dice if np.isfinite(dice) else None,
    )


def table(metrics: dict[str, Any]) -> str:
    """The figures of metrics.json for a person, one a line."""
    lines = []
    for figure in metrics["figures"]:
        line = f"  {figure['name']:<32} {figure['value']:9.3f}"
        if figure["floor"] is not None:
            n_first, n_second = figure["floor_counts"]
            line += f"   real against real {figure['floor']:.3f} ({n_first} against {n_second})"
        lines.append(line)
    agreement = metrics["mask_agreement"]
    line = f"  {'mask agreement (Dice)':<32} {agreement['synthetic']:9.2f}"
    if agreement["real"] is not None:
        line += f"   on real {agreement['real']:.2f} ({agreement['n_real']} held out)"
    counts = metrics["figures"][0]
    head = (
        f"  {counts['n_synthetic']} synthetic against {counts['n_reference']} images ({counts['reference']})"
    )
    return "\n".join([head, *lines, line])
