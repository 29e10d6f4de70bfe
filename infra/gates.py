"""What the gates of bulk generation judge by: the training images, embedded once for a set, and the segmenter.

Both spaces of the copy filter and its limits lie under ROOT/synthetic/cache, named after what they depend on, so that
every plan on the same training set takes the same ones. One task makes them, since limits come of all images together.
"""

import hashlib
import logging
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from infra import cluster
from infra.rows import prepare_actor
from infra.stage import SYNTHETIC
from infra.synthetic import TRAINING_SPLIT, Job
from siamdiff import storage
from siamdiff.config import Config, digest
from siamdiff.data.cache import checked_copy
from siamdiff.data.shardset import ShardSet
from siamdiff.errors import SiamdiffError
from siamdiff.evaluation.copies import SIDE, CopyFilter, Embedder, Limits, Training, calibrate
from siamdiff.evaluation.features import EfficientNetLite0
from siamdiff.sampling.gates import Gatekeeper
from siamdiff.sampling.plan import Plan

log = logging.getLogger(__name__)

CACHE = "cache"  # may be deleted at any time
RECIPE = 1  # raised when the same training images come to give other vectors or limits
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


def inputs_of(config: Config, job: Job) -> GateInputs | None:
    """What the gates of a job judge by, made if it is not there; None without gates.

    Raises:
        UserError: the task needs more than this machine has.
        SiamdiffError: the training set is damaged.
    """
    if job.plan.settings.gates is None:
        return None
    reference = _reference(config, job.training) if job.training else None
    return GateInputs(reference, config.generate.gates.segmenter)


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
    file = checked_copy(reference.uri, reference.sha256, name, "delete it and run the same command again")
    return CopyFilter(Training.from_bytes(file.read_bytes(), reference.uri), reference.limits, device)


def _segmenter(uri: str, sha256: str | None) -> bytes:
    try:
        data = storage.read_bytes(uri)
    except FileNotFoundError:
        data = b""
    if hashlib.sha256(data).hexdigest() != sha256:
        raise SiamdiffError(f"the segmenter {uri} was replaced while the job ran; run the same command again")
    return data


def _reference(config: Config, training: ShardSet) -> Reference:
    quantile, device = config.generate.gates.copy_quantile, "cuda" if config.cluster.gpus else "cpu"
    depends_on = {
        "recipe": RECIPE,
        "device": device,
        "set": training.digest,
        "quantile": quantile,
        "side": SIDE,
    }
    name = digest(depends_on | {"extractor": asdict(EfficientNetLite0.spec)})[:16]
    assert config.root, "resolve() comes first"
    uri = storage.join(config.root, SYNTHETIC, CACHE, f"copies-{name}.safetensors")
    about = uri.removesuffix(".safetensors") + ".json"
    if not storage.exists(about) or not storage.exists(uri):
        _embed_on_cluster(config, training, uri, about, device)
    known = storage.read_json(about)
    return Reference(uri, known["sha256"], Limits(**known["limits"]))


def _embed_on_cluster(config: Config, training: ShardSet, uri: str, about: str, device: str) -> None:
    import ray

    cluster.connect()
    resources = {"CPU": config.cluster.actor_cpus, "GPU": config.cluster.gpus}
    cluster.check_room(resources, "the copy filter's reference", "lower cluster.actor_cpus or cluster.gpus")
    log.info("copies: embedding the training images of %s", training.uri)
    task = ray.remote(_embed).options(num_cpus=config.cluster.actor_cpus, num_gpus=config.cluster.gpus)
    worker = {"device": device, "threads": config.cluster.threads}
    of = training.uri, training.digest
    with cluster.explained():
        ray.get(task.remote(of, config.generate.gates.copy_quantile, uri, about, worker))


def _embed(of: tuple[str, str], quantile: float, uri: str, about: str, worker: dict[str, Any]) -> None:
    """Writes vectors and limits of a set's training images; the limits last, which say that both are there."""
    prepare_actor(**worker)
    shard_set, embed = ShardSet.open(*of), Embedder(worker["device"])
    keys = shard_set.keys(TRAINING_SPLIT)
    parts = [
        embed(np.stack([shard_set.read(key).image for key in keys[start : start + CHUNK]]))
        for start in range(0, len(keys), CHUNK)
    ]
    training = Training(
        np.concatenate([part.features for part in parts]), np.concatenate([part.pixels for part in parts])
    )
    index = shard_set.index
    group_of = dict(zip(index["key"].to_pylist(), index["group"].to_pylist(), strict=True))
    limits = calibrate(training, [group_of[key] for key in keys], quantile)
    data = training.to_bytes()
    storage.write_bytes(uri, data)
    storage.write_json(about, {"sha256": hashlib.sha256(data).hexdigest(), "limits": asdict(limits)})
