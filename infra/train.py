"""Training on a cluster: Ray Train starts the workers, DeepSpeed ZeRO spreads optimizer, gradients and weights.

Checkpoints are the loop's own, in the store (siamdiff.training.checkpoint), not Ray's: what counts is what lies there.
A worker group that loses a worker is started again and goes on from the newest complete checkpoint.
"""

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from infra import cluster, logs, metrics
from infra.ingest import ingest
from infra.zero import DeepSpeedEngine
from siamdiff import storage
from siamdiff.config import PHANTOM, Config
from siamdiff.data.shardset import ShardSet
from siamdiff.errors import SiamdiffError, UserError
from siamdiff.model.folder import INFO
from siamdiff.model.siamese import SiameseDiffusion
from siamdiff.run import Status, lease, pin
from siamdiff.training import bases
from siamdiff.training.engine import SingleProcess, TorchEngine
from siamdiff.training.loop import train as train_loop

log = logging.getLogger(__name__)


def train(config: Config, demo: bool) -> None:
    """Trains one run to its end; continues it if it was interrupted; does nothing if it is finished.

    Raises:
        UserError: no data, another configuration under the same name, a run that is at work.
        SiamdiffError: workers were lost more often than `train.max_restarts`, damaged data, loss not finite.
    """
    uri = config.run_uri()
    ensure_data(config, demo)
    with lease(uri), Status(uri, total=config.train.steps).reporting() as status:
        status.write(phase="preparing")
        assert config.data.uri
        shard_set = ShardSet.open(config.data.uri)
        if shard_set.manifest.resolution != config.data.resolution:
            raise UserError(
                f"{config.data.uri} holds images of {shard_set.manifest.resolution} pixels, data.resolution is "
                f"{config.data.resolution}; give --data.resolution {shard_set.manifest.resolution} or another root"
            )
        base = bases.base_uri(config, shard_set.digest)
        pin(uri, config, {"data": shard_set.digest, "base": base})
        if storage.exists(storage.join(uri, "model", INFO)):
            log.info("run %s is finished already: %s", config.train.run, storage.join(uri, "model"))
            status.done = config.train.steps
            return
        if config.train.engine == "torch":
            bases.prepare_base(config)
            torch.set_num_threads(max(config.cluster.threads * config.train.workers, 1))
            train_loop(config, base, SingleProcess(), _torch_engine)
        else:
            prepare_base(config)
            cluster.connect()
            _train_on_workers(config, base)
        status.done = config.train.steps
    log.info("trained %d steps: %s", config.train.steps, storage.join(uri, "model"))


def ensure_data(config: Config, demo: bool) -> None:
    """A missing phantom set is made first; any other missing set is an error that opening it will name."""
    assert config.data.uri
    if config.data.source == PHANTOM and not storage.exists(storage.join(config.data.uri, "dataset.json")):
        ingest(config, demo)


def prepare_base(config: Config) -> None:
    """Makes the tiny base on a node of the cluster, with every core of it that is free; checks another base here."""
    import ray

    if config.model.base != "tiny":
        bases.prepare_base(config)
        return
    cluster.connect()
    cores = max(1, int(min(16, ray.cluster_resources().get("CPU", 1))))
    with cluster.explained():
        ray.get(ray.remote(num_cpus=cores)(_prepare_base).remote(config.model_dump(), cores))


def _prepare_base(fields: dict[str, Any], cores: int) -> None:
    logs.in_worker()
    torch.set_num_threads(cores)
    bases.prepare_base(Config(**fields))


def _train_on_workers(config: Config, base_uri: str) -> None:
    """Runs the worker group until the last step, starting it again after a loss."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
    from ray.train.torch import TorchConfig, TorchTrainer

    gpus = config.cluster.gpus
    resources = {"CPU": 1.0} | ({"GPU": gpus} if gpus else {})
    with _scratch() as folder:
        for attempt in range(config.train.max_restarts + 1):
            trainer = TorchTrainer(
                _worker,
                train_loop_config={"config": config.model_dump(), "base_uri": base_uri},
                torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
                scaling_config=ScalingConfig(
                    num_workers=config.train.workers, use_gpu=bool(gpus), resources_per_worker=resources
                ),
                run_config=RunConfig(
                    name=f"attempt-{attempt}",
                    storage_path=folder,
                    failure_config=FailureConfig(max_failures=0),
                ),
            )
            try:
                trainer.fit()
                return
            except WorkerGroupError as error:
                _raise_ours(error)
                log.warning("a worker was lost (%s); attempt %d", cluster.first_line(error), attempt + 1)
    raise SiamdiffError(
        f"workers were lost {config.train.max_restarts + 1} times; the last complete checkpoint is kept: look at the "
        "log above, then run the same command again"
    )


@contextmanager
def _scratch() -> Iterator[str]:
    """A folder for Ray's own notes about a worker group; nothing in it is needed later."""
    folder = tempfile.mkdtemp(prefix="siamdiff-ray-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _raise_ours(error: Any) -> None:
    """Raises the SiamdiffError of a worker, if that is what ended the group: trying again would not help."""
    for failure in error.worker_failures.values():
        cause = failure
        while cause is not None:
            if isinstance(cause, SiamdiffError):
                raise cause from None
            cause = getattr(cause, "cause", None) or cause.__cause__


def _worker(arguments: dict[str, Any]) -> None:
    """What each training process runs."""
    import warnings

    warnings.filterwarnings(
        "ignore", category=FutureWarning
    )  # of torch, about DeepSpeed's use of its collectives
    logs.in_worker()
    config = Config(**arguments["config"])
    torch.set_num_threads(config.cluster.threads)
    train_loop(config, arguments["base_uri"], RayContext(), _deepspeed_engine)


def _torch_engine(model: SiameseDiffusion, config: Config, accumulation: int) -> TorchEngine:
    train = config.train
    return TorchEngine(
        model, learning_rate=train.learning_rate, weight_decay=train.weight_decay, accumulation=accumulation
    )


def _deepspeed_engine(model: SiameseDiffusion, config: Config, accumulation: int) -> DeepSpeedEngine:
    return DeepSpeedEngine(
        model,
        zero_stage=config.train.zero_stage,
        learning_rate=config.train.learning_rate,
        weight_decay=config.train.weight_decay,
        micro_batch=config.train.batch_size // torch.distributed.get_world_size() // accumulation,
        accumulation=accumulation,
    )


class RayContext:
    """This worker's place in Ray Train's worker group."""

    def __init__(self) -> None:
        import ray.train
        import ray.train.torch

        place = ray.train.get_context()
        self.rank = place.get_world_rank()
        self.world_size = place.get_world_size()
        self.device = ray.train.torch.get_device()
        self._gauges = metrics.TrainGauges() if self.rank == 0 else None

    def gather(self, value: Any) -> list[Any]:
        """See siamdiff.training.engine.Context."""
        values: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(values, value)
        return values

    def report(self, line: dict[str, float]) -> None:
        """Sets the Prometheus gauges of training."""
        if self._gauges:
            self._gauges.set(line)
