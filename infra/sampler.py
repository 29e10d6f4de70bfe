"""The actors of bulk generation: each holds the model on one device, samples shard after shard and writes them."""

import logging
import pickle
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from infra.gates import GateInputs, keeper_of
from infra.masks import SHARD_FAILURES, one_line
from infra.metrics import REASONS
from infra.rows import attempt_row, failed_row, prepare_actor
from siamdiff import storage, transfer
from siamdiff.data.cache import made_once
from siamdiff.data.shards import write_shard
from siamdiff.errors import SiamdiffError
from siamdiff.journal import Journal
from siamdiff.model.about import folder_digest, read_info
from siamdiff.sampling.copies import PairCopier
from siamdiff.sampling.gates import Tally
from siamdiff.sampling.plan import Plan
from siamdiff.sampling.protocols import Sampler

LoadSampler = Callable[[], Sampler]


def load_sampler(plan: Plan, model_uri: str, device: str, gates: GateInputs | None = None) -> Sampler:
    """What the plan's method asks for: the model on a device with the plan's gates, or a copier of real pairs.

    Args:
        plan: what is made.
        model_uri: where the model lies; "" for a plan that takes none.
        device: "cpu" or "cuda".
        gates: what the gates of the plan judge by.

    Raises:
        UserError: the node's cache cannot be written, or is full.
        SiamdiffError: the model, or what the gates judge by, is gone or another by now.
    """
    if plan.settings.method == "copy-paste":
        return PairCopier()
    # networks and their libraries, which the job itself does without
    from siamdiff.model.folder import load_model
    from siamdiff.sampling.shard import ShardSampler

    model = load_model(str(model_on_this_node(model_uri, plan.model)), device)
    return ShardSampler(model, plan, keeper_of(plan, gates, device))


class SamplerActor:
    """A sampler on one device, fed with one shard's masks at a time.

    Two threads may call it: one shard is finished and written while the next one has the device.

    Args:
        load: gives the sampler; called in the actor.
        output: where shards go.
        device: "cpu" or "cuda".
        threads: of PyTorch; their number changes the last bits.
        attempts: handle of the `Attempts` actor.
        logs: URI of the folder for what the actor logs.
    """

    def __init__(
        self, load: LoadSampler, output: str, device: str, threads: int, attempts: Any, logs: str
    ) -> None:
        self.name, self.born = uuid.uuid4().hex, time.monotonic()
        prepare_actor(device, threads)
        logging.getLogger().addHandler(Journal(logs, "sampler", {"output": output}))
        self.failure = ""
        try:
            self.sampler = load()
        except SHARD_FAILURES as failure:  # raised, Ray would start this actor again and again
            self.failure = one_line(failure)
        self.threads = threads
        self.output = output
        self.attempts = attempts
        self._device = Lock()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Samples and writes one shard: what `attempt_row` gives, and further fields.

        These are {redrawn, rejected} samples and the latter by gate, {rejected_copy, ...}; the seconds in which it was
        drawn, encoded and uploaded, {draw, encode, upload}; this actor, and the seconds since its start, {worker,
        alive}.
        """
        torch.set_num_threads(self.threads)  # OpenMP's number is each thread's own
        tally = Tally()
        seconds: dict[str, float] = {"draw": 0.0, "encode": 0.0, "upload": 0.0}

        def write(begin: Callable[[], None]) -> int:
            @contextmanager
            def turn() -> Iterator[None]:
                with self._device:
                    begin()  # not before: where a shard kills this process, those that only wait have not tried
                    with timed(seconds, "draw"):
                        yield

            nonlocal tally
            made = self.sampler.make(pickle.loads(row["conditions"]), turn)
            seconds["encode"] = made.encode_seconds
            with timed(seconds, "upload"):
                count = write_shard(self.output, row["name"], made.samples, made_by=made.made_by).count
            tally = Tally.of(sample.meta for sample in made.samples)
            return count

        error = row["error"] or self.failure
        made = failed_row(row, error) if error else attempt_row(row["name"], self.attempts, "sampler", write)
        made |= {"redrawn": tally.redrawn, "rejected": tally.rejected}
        made |= {f"rejected_{reason}": tally.by_gate.get(reason, 0) for reason in REASONS}
        return made | seconds | {"worker": self.name, "alive": time.monotonic() - self.born}


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Adds the block's time."""
    began = time.monotonic()
    try:
        yield
    finally:
        seconds[name] += time.monotonic() - began


def model_on_this_node(uri: str, digest: str) -> Path:
    """A local folder with the model `digest`: its own where it is local, else a copy that this node's actors share.

    Raises:
        UserError: the node's cache cannot be written, or is full.
        SiamdiffError: another model lies under `uri` by now.
    """
    in_place = storage.local_path(uri)
    if in_place is not None:
        return in_place

    def download(folder: Path) -> None:
        try:
            transfer.download_folder(uri, folder)
        except FileNotFoundError as error:
            raise SiamdiffError(f"the model at {uri} is gone; name another with --generate.model") from error
        if not _holds(folder, digest):
            raise SiamdiffError(f"the model at {uri} was replaced or damaged while the job ran; put it back")

    return made_once(f"models/{digest}", download, lambda folder: _holds(folder, digest))


def _holds(folder: Path, digest: str) -> bool:
    try:
        return read_info(str(folder)).get("model_digest") == digest == folder_digest(folder)
    except SiamdiffError:  # no siamdiff.json, or a damaged one
        return False
