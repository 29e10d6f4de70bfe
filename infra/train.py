"""Training on a cluster: Ray Train starts the workers, DeepSpeed ZeRO spreads optimizer, gradients and weights.

Checkpoints are the loop's own, in the store (siamdiff.training.checkpoint), not Ray's: what counts is what lies there.
A worker group that loses a worker is started again and goes on from the newest complete checkpoint.
"""

import logging
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from infra import cluster, logs, metrics
from infra.inputs import ensure_data, prepare_base, training_set
from infra.stage import LATEST
from infra.zero import DeepSpeedEngine
from siamdiff import storage
from siamdiff.config import Config
from siamdiff.errors import SiamdiffError
from siamdiff.model.folder import INFO
from siamdiff.run import Lease, Status, lease, pin
from siamdiff.training import bases, checkpoint
from siamdiff.training.context import SingleProcess, Wish
from siamdiff.training.engine import TorchEngine, check_precision
from siamdiff.training.loop import train as train_loop

log = logging.getLogger(__name__)


def train(config: Config, demo: bool) -> None:
    """Trains one run to its end; continues it if it was interrupted; does nothing if it is finished.

    Raises:
        UserError: no data, another configuration under the same name, a run that is at work, no room for the workers.
        SiamdiffError: workers were lost more often than `train.max_restarts`, damaged data, loss not finite.
    """
    uri = config.run_uri()
    ensure_data(config, demo)
    with lease(uri) as held, Status(uri, total=config.train.steps).reporting() as status:
        shard_set = training_set(config)
        base = bases.base_uri(config, shard_set.digest)
        pin(uri, config, {"data": shard_set.digest, "base": bases.identity(config, base)})
        if storage.exists(storage.join(uri, "model", INFO)):
            log.info("run %s is finished already: %s", config.train.run, storage.join(uri, "model"))
            status.done = config.train.steps
            return
        _check_precision(config)
        status.write(phase="preparing")
        if config.train.engine == "torch":
            bases.prepare_base(config)
            torch.set_num_threads(max(config.cluster.threads * config.train.workers, 1))
            train_loop(config, base, held, SingleProcess(), TorchEngine.of)
        else:
            prepare_base(config)
            cluster.connect()
            _train_on_workers(config, base, held)
        status.done = config.train.steps
        storage.write_json(storage.join(config.runs_uri(), LATEST), {"run": config.train.run})
    log.info("trained %d steps: %s", config.train.steps, storage.join(uri, "model"))


def _check_precision(config: Config) -> None:
    """Before anything is spent, as far as can be known here: a worker with a GPU looks at its own."""
    if config.train.engine == "torch":
        check_precision(config.train.precision, SingleProcess().device)
    elif not config.cluster.gpus:
        check_precision(config.train.precision, torch.device("cpu"))


def _train_on_workers(config: Config, base_uri: str, held: Lease) -> None:
    """Runs the worker group until the last step, starting it again after a loss."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    gpus = config.cluster.gpus
    resources = {"CPU": 1.0} | ({"GPU": gpus} if gpus else {})
    need = {name: amount * config.train.workers for name, amount in resources.items()}
    cluster.check_room(need, "training workers", "lower train.workers or cluster.gpus")
    attempts = 0
    with _scratch() as folder:
        while True:
            before = checkpoint.complete_steps(config.run_uri())[-1:]
            trainer = TorchTrainer(
                _worker,
                train_loop_config={"config": config.model_dump(), "base_uri": base_uri, "lease": held},
                torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
                scaling_config=ScalingConfig(
                    num_workers=config.train.workers, use_gpu=bool(gpus), resources_per_worker=resources
                ),
                run_config=RunConfig(
                    name=f"siamdiff-{uuid.uuid4().hex[:8]}",
                    storage_path=folder,
                    failure_config=FailureConfig(max_failures=0),
                ),
            )
            try:
                trainer.fit()
                return
            except TrainingFailedError as error:
                _raise_ours(error)
                held.check()
                moved = checkpoint.complete_steps(config.run_uri())[-1:] != before
                attempts = 1 if moved else attempts + 1
                if attempts > config.train.max_restarts:
                    raise SiamdiffError(
                        f"workers were lost {attempts} times without a new checkpoint, last by: "
                        f"{cluster.first_line(error)}; look at the log above, then run the same command again"
                    ) from error
                log.warning("a worker was lost, starting the workers again: %s", cluster.first_line(error))


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
    for failure in getattr(error, "worker_failures", {}).values():
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
    config = Config(**arguments["config"])
    logs.in_worker(uses_gpu=config.cluster.gpus > 0)
    torch.set_num_threads(config.cluster.threads)
    train_loop(config, arguments["base_uri"], arguments["lease"], RayContext(), DeepSpeedEngine.of)


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
        """See siamdiff.training.context.Context."""
        values: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(values, value)
        return values

    def agree(self, wish: Wish) -> Wish:
        """See siamdiff.training.context.Context."""
        return max(self.gather(wish))

    def why(self) -> str:
        """See siamdiff.training.context.Context."""
        return ""

    def report(self, line: dict[str, float]) -> None:
        """Sets the Prometheus gauges of training."""
        if self._gauges:
            self._gauges.set(line)
