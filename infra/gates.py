"""What the gates of bulk generation judge by: the training images, embedded once for a set, and the segmenter.

Both spaces of the copy filter and its limits lie under ROOT/synthetic/cache, named after what they depend on, so that
every plan on the same training set takes the same ones. One task makes them, since limits come of all images together.
The limits that a set is begun with lie in its gates.json: whoever goes on with it judges by them.
"""

import dataclasses
import hashlib
import logging
import platform
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel

from infra import cluster
from infra.rows import prepare_actor
from infra.stage import SYNTHETIC
from infra.synthetic import Job, TrainingSet
from siamdiff import storage
from siamdiff.config import Config, digest
from siamdiff.data.cache import checked_copy
from siamdiff.data.manifest import MANIFEST
from siamdiff.data.shardset import ShardSet
from siamdiff.errors import SiamdiffError, UserError
from siamdiff.evaluation.copies import SIDE, BothSpaces, CopyFilter, Limits, Training, calibrate, from_rows
from siamdiff.evaluation.features import EfficientNetLite0
from siamdiff.records import read_record
from siamdiff.sampling.gates import Gatekeeper
from siamdiff.sampling.plan import Plan

log = logging.getLogger(__name__)

CACHE = "cache"  # may be deleted at any time
RECIPE = 2  # raised when the same training images come to give other vectors or limits
GATES = "gates.json"  # in the set
TRAINING_SPLIT = "train"
CHUNK = 32  # images read and embedded at a time


@dataclass(frozen=True)
class Reference:
    """The training images in both spaces, in the store, and the limits that they give."""

    uri: str
    sha256: str
    limits: Limits


@dataclass(frozen=True)
class GateInputs:
    """What an actor needs to judge."""

    reference: Reference | None = None  # without the copy filter
    segmenter: str | None = None  # URI


class _Judged(BaseModel):
    """What is read of a set's gates.json."""

    limits: Limits


class _Kept(BaseModel):
    """What lies beside the vectors."""

    sha256: str  # of them
    limits: Limits
    set: str | None = None  # digest of the set whose training images they are of; earlier ones do not say it


def inputs_of(config: Config, job: Job) -> GateInputs | None:
    """What the gates of a job judge by, made if it is not there; None without gates.

    Raises:
        UserError: the training set cannot be had, or the task needs more than this machine has.
        SiamdiffError: the training set is damaged.
    """
    if job.plan.settings.gates is None:
        return None
    reference = None
    if job.training:
        made = _reference(config, job.training)
        uri = storage.join(job.output, GATES)
        # What the set is judged by from its first shard on; the first to describe it decides.
        storage.put_if_absent(uri, storage.canonical_json(_description(job.training, made.limits)))
        reference = dataclasses.replace(made, limits=read_record(_Judged, uri).limits)
    return GateInputs(reference, config.generate.gates.segmenter)


def described(job: Job) -> dict[str, Any] | None:
    """What the manifest says of the copy filter that a set was judged by; None where there is none.

    Raises:
        SiamdiffError: what it was judged by is gone or damaged.
    """
    if job.training is None:
        return None
    uri = storage.join(job.output, GATES)
    try:
        read_record(_Judged, uri)
    except FileNotFoundError:
        raise SiamdiffError(
            f"{uri} is gone, by which the shards were judged; put it back, or make the set anew with another "
            "--generate.output"
        ) from None
    return storage.read_json(uri)


def _description(training: TrainingSet, limits: Limits) -> dict[str, Any]:
    return {
        "training": {"uri": training.uri, "digest": training.digest},
        "features": EfficientNetLite0.spec.label,
        "limits": limits.as_dict(),
    }


def tell(inputs: GateInputs | None) -> None:
    """Says in the log what is taken for a copy."""
    if inputs and inputs.reference:
        limits = inputs.reference.limits
        told = log.info if limits.rank else log.warning
        said = "copies: what is within %.3g in features and %.3g in pixels of a training image; these are %s"
        told(said, limits.features, limits.pixels, limits.basis)


def keeper_of(plan: Plan, inputs: GateInputs | None, device: str) -> Gatekeeper | None:
    """What judges images on a device; None without gates.

    Raises:
        UserError: the node's cache cannot be written, or is full.
        SiamdiffError: the reference or the segmenter is gone, or is another by now.
    """
    gates = plan.settings.gates
    if gates is None or inputs is None:
        return None
    copies, finder = None, None
    if inputs.reference:
        copies = _copy_filter(inputs.reference, device)
    if inputs.segmenter:
        from siamdiff.evaluation.mask_finder import MaskFinder  # MONAI, which takes seconds to import

        finder = MaskFinder(_segmenter(inputs.segmenter, gates.segmenter), inputs.segmenter, device)
    return Gatekeeper(gates, copies, finder)


def _copy_filter(reference: Reference, device: str) -> CopyFilter:
    name = f"copies/{reference.sha256}.safetensors"
    file = checked_copy(reference.uri, reference.sha256, name, "delete it")
    return CopyFilter(Training.from_bytes(file.read_bytes(), reference.uri), reference.limits, device)


def _segmenter(uri: str, sha256: str | None) -> bytes:
    try:
        data = storage.read_bytes(uri)
    except FileNotFoundError:
        raise SiamdiffError(
            f"the segmenter {uri} cannot be read on {platform.node()}; put it where every node finds it"
        ) from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise SiamdiffError(f"the segmenter {uri} was replaced while the job ran; run the same command again")
    return data


def _reference(config: Config, training: TrainingSet) -> Reference:
    depends_on = {
        "recipe": RECIPE,
        "set": training.digest,
        "quantile": config.generate.gates.copy_quantile,
        "side": SIDE,
    }
    name = digest(depends_on | {"extractor": asdict(EfficientNetLite0.spec)})[:16]
    assert config.root, "resolve() comes first"
    cache = storage.join(config.root, SYNTHETIC, CACHE)
    about = storage.join(cache, f"copies-{name}.json")
    if storage.exists(about):
        known = _known(cache, about)
        if storage.exists(known.uri):
            return known
        storage.delete(about)  # half of the cache was deleted
    _embed_on_cluster(config, _opened(training), cache, about)
    return _known(cache, about)


def _known(cache: str, about: str) -> Reference:
    """What is there; with other vectors of the same images, made at the same time, those that were described first."""
    known = read_record(_Kept, about)
    return Reference(_vectors_uri(cache, known.sha256), known.sha256, known.limits)


def _vectors_uri(cache: str, sha256: str) -> str:
    return storage.join(cache, f"copies-{sha256[:16]}.safetensors")


def _opened(training: TrainingSet) -> ShardSet:
    """The training set as it was planned with.

    Raises:
        UserError: it is gone, another one by now, or has no training image.
    """
    fix = "put it back, name it with --generate.training, or give --generate.gates.copies false"
    if not training.uri or not storage.exists(storage.join(training.uri, MANIFEST)):
        raise UserError(
            f"the set that the model was trained on is not at {training.uri!r}, so copies of it cannot be found; {fix}"
        )
    found = ShardSet.open(training.uri)
    if found.digest != training.digest:
        raise UserError(
            f"{training.uri} is another set by now than the model was trained on, so copies cannot be found; {fix}"
        )
    if not found.keys(TRAINING_SPLIT):
        raise UserError(
            f"{found.uri} has no image in split {TRAINING_SPLIT!r} (it has {found.manifest.splits}), so copies cannot "
            "be found; name another set with --generate.training, or give --generate.gates.copies false"
        )
    return found


def _embed_on_cluster(config: Config, training: ShardSet, cache: str, about: str) -> None:
    import ray

    cluster.connect()
    resources = {"CPU": config.cluster.actor_cpus, "GPU": config.cluster.gpus}
    cluster.check_room(resources, "the copy filter's reference", "lower cluster.actor_cpus or cluster.gpus")
    count = training.manifest.splits[TRAINING_SPLIT]
    log.info("copies: embedding the %d training images of %s, once for every set", count, training.uri)
    task = ray.remote(_embed).options(num_cpus=config.cluster.actor_cpus, num_gpus=config.cluster.gpus)
    worker = {"device": "cuda" if config.cluster.gpus else "cpu", "threads": config.cluster.threads}
    of = training.uri, training.digest
    with cluster.explained():
        ray.get(task.remote(of, config.generate.gates.copy_quantile, cache, about, worker))


def _embed(of: tuple[str, str], quantile: float, cache: str, about: str, worker: dict[str, Any]) -> None:
    """Writes vectors and limits of a set's training images; the limits last, which say that both are there."""
    prepare_actor(**worker)
    shard_set, embed = ShardSet.open(*of), BothSpaces(worker["device"])
    keys = shard_set.keys(TRAINING_SPLIT)
    rows = [
        embed(np.stack([shard_set.read(key).image for key in keys[start : start + CHUNK]]))
        for start in range(0, len(keys), CHUNK)
    ]
    training = from_rows(np.concatenate(rows))
    index = shard_set.index
    group_of = dict(zip(index["key"].to_pylist(), index["group"].to_pylist(), strict=True))
    limits = calibrate(training, [group_of[key] for key in keys], quantile)
    data = training.to_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    storage.write_bytes(_vectors_uri(cache, sha256), data)
    kept = _Kept(sha256=sha256, limits=limits, set=shard_set.digest)
    storage.put_if_absent(about, kept.model_dump_json().encode())
