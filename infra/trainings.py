"""The trainings of a segmentation: one Ray task each, which trains a network, or takes it as trained, and scores it.

A network lies under ROOT/segmentation/trainings, named after what it depends on, so that another arm or test set never
trains it again. A task's result is one object, put only if absent: what lies in the store counts, nothing else.
"""

import hashlib
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from torch import nn

from infra import cluster
from infra.rows import prepare_actor
from infra.stage import SEGMENTATION, StageStatus
from siamdiff import storage, transfer
from siamdiff.config import Config, digest
from siamdiff.data.shardset import ShardSet
from siamdiff.errors import SiamdiffError
from siamdiff.records import read_record
from siamdiff.sections import set_file
from siamdiff.segmentation.arms import VAL, Arm
from siamdiff.segmentation.metrics import DEFINITIONS
from siamdiff.segmentation.networks import build_network
from siamdiff.segmentation.pairs import Pairs, parameter_count, score
from siamdiff.segmentation.train import Settings, Trained, mean_dice, train_and_choose

log = logging.getLogger(__name__)

RECIPE = 1  # raised when the same inputs come to give another network
TRAININGS, RESULTS = "trainings", "results"
NETWORK, ABOUT = "network.safetensors", "training.json"
_AGAIN = "delete its folder and run the same command again"
PACKAGES = ("torch", "monai", "transformers", "scipy", "numpy", "pillow")


@dataclass(frozen=True)
class Training:
    """One network on one arm from one seed."""

    arm: Arm
    network: str
    settings: Settings
    size: int  # side of what the network sees, pixels
    pairs: int  # trained on, copies counted
    parts: list[dict[str, Any]]  # what these are, by digests
    held_out: str | None  # digest of the set by whose val split the weights are chosen
    encoder: str | None  # digest of the pretrained encoder
    device: str  # cpu or cuda

    @property
    def name(self) -> str:
        """Of its result, as a file name."""
        return f"{self.network}--{set_file(self.arm.name)}--seed{self.settings.seed}"

    @cached_property
    def digest(self) -> str:
        """16 hex digits that name the trained network: it is a function of what they are made of."""
        known = {"recipe": RECIPE, "network": self.network, "size": self.size, "parts": self.parts}
        known |= {"settings": asdict(self.settings), "held_out": self.held_out}
        return digest(known | {"encoder": self.encoder, "device": self.device})[:16]


@dataclass(frozen=True)
class Inputs:
    """Where a task finds what it needs; sets as (URI, digest)."""

    real: tuple[str, str]
    synthetic: dict[str, tuple[str, str]]
    tests: dict[str, tuple[str, str, list[str]]]  # with the keys that are scored
    encoder: str | None  # URI
    trainings: str  # URI of the folder of trained networks
    results: str  # URI of the folder of results
    threads: int


def result_uri(results: str, training: Training) -> str:
    """Where the result of a training lies."""
    return storage.join(results, f"{training.name}.json")


def run_all(config: Config, inputs: Inputs, todo: Sequence[Training], status: StageStatus) -> dict[str, str]:
    """Runs the tasks side by side, as many as there is room for; returns {name: reason} of those that failed.

    Raises:
        UserError: a task needs more than this machine has.
    """
    import ray
    import ray.exceptions

    cluster.connect()
    cores = max(config.cluster.actor_cpus, config.cluster.threads)
    cluster.check_room(
        {"CPU": cores, "GPU": config.cluster.gpus},
        "the training of a segmenter",
        "lower cluster.actor_cpus, cluster.threads or cluster.gpus",
    )
    task = ray.remote(train_and_score).options(
        num_cpus=cores,
        num_gpus=config.cluster.gpus,
        max_retries=cluster.MAX_ATTEMPTS - 1,  # where its worker died; its own errors are told
    )
    shared = ray.put(inputs)
    waiting = {task.remote(training, shared): training for training in todo}
    failures: dict[str, str] = {}
    while waiting:
        (ended,), _ = ray.wait(list(waiting), num_returns=1)
        training = waiting.pop(ended)
        try:
            said = ray.get(ended)
        except ray.exceptions.RayTaskError as error:
            if not isinstance(error.cause, SiamdiffError | torch.OutOfMemoryError):
                raise
            failures[training.name] = cluster.first_line(error)
            log.warning("%s failed: %s", training.name, failures[training.name])
        except ray.exceptions.RayError as error:
            failures[training.name] = (
                f"its worker died {cluster.MAX_ATTEMPTS} times ({cluster.first_line(error)})"
            )
            log.warning("%s failed: %s", training.name, failures[training.name])
        else:
            status.write(done=status.done + 1)
            log.info("%d of %d: %s: %s", status.done, status.total, training.name, said)
    return failures


def train_and_score(training: Training, inputs: Inputs) -> str:
    """The task: writes the result of a training unless it is there; returns the mean Dice on each test set in words.

    Raises:
        SiamdiffError: damaged data or weights, a loss that is not finite.
    """
    prepare_actor(training.device, inputs.threads)
    if training.device != "cpu":
        # Before CUDA is first used: without it, matrix products are not the same each time.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    network, about = _trained(training, inputs)
    scores = {name: _scored(network, training, test) for name, test in inputs.tests.items()}
    result = {
        "training": training.digest,
        "arm": training.arm.name,
        "network": training.network,
        "seed": training.settings.seed,
        **about,
        "scores": scores,
    }
    uri = result_uri(inputs.results, training)
    storage.put_if_absent(uri, storage.canonical_json(result) + b"\n")
    scores = _read_result(inputs, training)["scores"]
    return ", ".join(f"{name} {_mean(of['dice_at_0.5'])}" for name, of in scores.items())


def _mean(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"Dice {sum(known) / len(known):.3f}" if known else "no lesions"


def _trained(training: Training, inputs: Inputs) -> tuple[nn.Module, dict[str, Any]]:
    """The network and what is known of its training: from the store, else trained and put there."""
    folder = storage.join(inputs.trainings, training.digest)
    weights, about = storage.join(folder, NETWORK), storage.join(folder, ABOUT)
    if not storage.exists(about):
        started = time.monotonic()
        trained = _train(training, inputs)
        storage.put_if_absent(weights, safetensors.torch.save(trained.network.state_dict()))
        content = _about(training, trained, inputs, time.monotonic() - started)
        # Of the weights that lie there: another attempt's, trained from the same, may have come first.
        content["weights_sha256"] = hashlib.sha256(storage.read_bytes(weights)).hexdigest()
        storage.put_if_absent(about, storage.canonical_json(content) + b"\n")
    known = read_record(_About, about, _AGAIN).model_dump()
    return _loaded(training, weights, known["weights_sha256"]), known


def _loaded(training: Training, uri: str, sha256: str) -> nn.Module:
    network = build_network(training.network)
    try:
        data = storage.read_bytes(uri)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise SiamdiffError(f"{uri} is damaged: its hash is not that of {ABOUT}; {_AGAIN}")
        network.load_state_dict(safetensors.torch.load(data))
    except (FileNotFoundError, SafetensorError, RuntimeError) as error:  # RuntimeError: another network's
        reason = " ".join(str(error).split())[:160]
        raise SiamdiffError(f"{uri} is missing or damaged ({reason}); {_AGAIN}") from error
    return network.to(training.device).eval()


def _about(training: Training, trained: Trained, inputs: Inputs, seconds: float) -> dict[str, Any]:
    return {
        "steps": training.settings.steps,
        "training_pairs": training.pairs,
        "kept_step": trained.step,
        "history": trained.history,
        "parameters": parameter_count(trained.network),
        "seconds": round(seconds, 1),
        "made_by": {
            "device": training.device,
            "threads": inputs.threads,
            "versions": {name: version(name) for name in PACKAGES},
        },
    }


def _train(training: Training, inputs: Inputs) -> Trained:
    real = ShardSet.open(*inputs.real)
    synthetic = {
        name: ShardSet.open(*of) for name, of in inputs.synthetic.items() if name == training.arm.synthetic
    }
    pairs = Pairs(training.arm.parts(real, synthetic), training.size)
    held_out = None
    if training.held_out:
        seen = Pairs([(real, real.keys(VAL))], training.size)
        held_out = partial(mean_dice, parts=seen.in_parts, device=training.device)
    with encoder_folder(inputs.encoder if training.encoder else None) as encoder:
        return train_and_choose(
            partial(build_network, training.network, encoder),
            pairs.read,
            len(pairs),
            training.settings,
            held_out,
            training.device,
        )


@contextmanager
def encoder_folder(uri: str | None) -> Iterator[Path | None]:
    """A local folder with the pretrained encoder; None where there is none."""
    if uri is None:
        yield None
        return
    with transfer.local_copy(uri) as folder:
        yield folder


def _scored(network: nn.Module, training: Training, test: tuple[str, str, list[str]]) -> dict[str, Any]:
    """The scores of each image in the order of the keys, None for none, and the empty ones where a lesion was seen."""
    uri, set_digest, keys = test
    scores, false_alarms = score(
        network, ShardSet.open(uri, set_digest), keys, training.size, training.device
    )
    plain = {name: [None if math.isnan(v) else v for v in values] for name, values in scores.items()}
    return plain | {"false_alarms": false_alarms}


def network_uri(inputs: Inputs, training: Training) -> str:
    """Where the trained network lies."""
    return storage.join(inputs.trainings, training.digest, NETWORK)


def trainings_uri(config: Config) -> str:
    """The folder of trained networks of a resolved configuration."""
    assert config.root, "resolve() comes first"
    return storage.join(config.root, SEGMENTATION, TRAININGS)


class _About(BaseModel):
    """training.json of a trained network."""

    model_config = ConfigDict(extra="allow")

    weights_sha256: str


class _Result(BaseModel):
    """The result of a training."""

    model_config = ConfigDict(extra="allow")

    training: str  # its digest
    scores: dict[str, dict[str, list[float | None] | int]]  # test set -> score -> of each image


def read_results(inputs: Inputs, trainings: Sequence[Training]) -> Mapping[str, dict[str, Any]]:
    """The results that lie in the store, by name.

    Raises:
        SiamdiffError: one is damaged, or of another training.
    """
    found = storage.list_files(inputs.results)
    return {
        training.name: _read_result(inputs, training)
        for training in trainings
        if f"{training.name}.json" in found
    }


def _read_result(inputs: Inputs, training: Training) -> dict[str, Any]:
    uri = result_uri(inputs.results, training)
    result = read_record(_Result, uri)
    counts = {
        name: {score: len(keys) for score in DEFINITIONS} for name, (_, _, keys) in inputs.tests.items()
    }
    held = {
        name: {score: len(values) for score, values in of.items() if isinstance(values, list)}
        for name, of in result.scores.items()
    }
    if result.training != training.digest or held != counts:
        raise SiamdiffError(
            f"{uri} holds the scores of another training or other images; delete it and run the same command again"
        )
    return result.model_dump()
