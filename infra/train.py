"""Training on a cluster: Ray Train starts the workers, DeepSpeed ZeRO spreads optimizer, gradients and weights.

Checkpoints are the loop's own, in the store (siamdiff.training.checkpoint), not Ray's: what counts is what lies there.
infra/workers.py runs the worker group that trains; here is what surrounds it.
"""

import logging
from typing import Any

import torch

from infra import cluster, logs, signals, workers
from infra.cache import ensure_cache
from infra.context import RayContext
from infra.exporting import JobWatch
from infra.inputs import ensure_data, prepare_base, training_set
from infra.stage import LATEST, LOGS, WatchedStatus
from infra.zero import DeepSpeedEngine
from siamdiff import storage
from siamdiff.config import Config
from siamdiff.errors import StoppedError
from siamdiff.journal import journal
from siamdiff.model.folder import INFO
from siamdiff.run import Lease, lease, pin
from siamdiff.training import bases
from siamdiff.training.context import SingleProcess, Wish
from siamdiff.training.engine import TorchEngine, check_precision
from siamdiff.training.loop import train as train_loop

log = logging.getLogger(__name__)


def train(config: Config, demo: bool) -> str:
    """Trains one run to its end; continues it if it was interrupted; does nothing if it is finished.

    Returns:
        URI of the run's folder.

    Raises:
        UserError: no data, another configuration under the same name, a run that is at work, no room for the workers.
        StoppedError: a signal, or a budget that is used up.
        SiamdiffError: workers were lost more often than `train.max_restarts`, damaged data, loss not finite.
    """
    uri = config.run_uri()
    ensure_data(config, demo)
    logs = storage.join(uri, LOGS)
    watched = WatchedStatus(uri, total=config.train.steps, log=logs, watch=JobWatch("train", config))
    with (
        lease(uri) as held,
        journal(logs, "job", run=str(config.train.run)),
        watched.reporting() as status,
    ):
        shard_set = training_set(config)
        base = bases.base_uri(config, shard_set.digest)
        pin(uri, config, {"data": shard_set.digest, "base": bases.identity(config, base)})
        if storage.exists(storage.join(uri, "model", INFO)):
            log.info("run %s is finished already: %s", config.train.run, storage.join(uri, "model"))
            status.done = config.train.steps
            if status.before != "finished":  # the job was lost between its last two writes
                _name_latest(config)
            return uri
        _check_precision(config)
        status.write(phase="preparing")
        here = config.train.engine == "torch"
        (bases.prepare_base if here else prepare_base)(config)
        if config.train.cache:
            status.write(phase="caching")
            ensure_cache(config, base, lambda _done, _total: status.write())
        if here:
            torch.set_num_threads(max(config.cluster.threads * config.train.workers, 1))
            _train_here(config, base, held)
        else:
            cluster.connect()
            workers.run(_worker, config, base, held, watched.told_of("training"))
        status.done = config.train.steps
        _name_latest(config)
    log.info("trained %d steps: %s", config.train.steps, storage.join(uri, "model"))
    return uri


def _name_latest(config: Config) -> None:
    """Tells the stages after training which run finished last."""
    storage.write_json(storage.join(config.runs_uri(), LATEST), {"run": config.train.run})


def _check_precision(config: Config) -> None:
    """Before anything is spent, as far as can be known here: a worker with a GPU looks at its own."""
    if config.train.engine == "torch":
        check_precision(config.train.precision, SingleProcess().device)
    elif not config.cluster.gpus:
        check_precision(config.train.precision, torch.device("cpu"))


def _train_here(config: Config, base_uri: str, held: Lease) -> None:
    """Trains in this process; a signal asks the loop for a checkpoint and the end."""
    grace, context = config.train.grace_seconds, SingleProcess()

    def late() -> None:
        raise workers.stopped(config, stop, is_late=True)

    def ask(why: str) -> None:
        context.ask(Wish.STOP, why)
        stop.limit(grace, late)

    with signals.watched(ask) as stop:
        train_loop(config, base_uri, held, context, TorchEngine.of)


def _worker(arguments: dict[str, Any]) -> str:
    """What each training process runs; returns why it stopped before the last step, "" if it did not."""
    import warnings

    # of torch, about DeepSpeed's use of its collectives
    warnings.filterwarnings("ignore", category=FutureWarning)
    config = Config(**arguments["config"])
    logs.in_worker(uses_gpu=config.cluster.gpus > 0)
    torch.set_num_threads(config.cluster.threads)
    logs_uri = storage.join(config.run_uri(), LOGS)
    patience = max(30.0, 2 * config.train.stall_minutes)
    with (
        RayContext(arguments["supervisor"], arguments["attempt"], patience) as context,
        journal(logs_uri, f"worker-{context.rank}", run=str(config.train.run), rank=context.rank),
    ):
        try:
            train_loop(config, arguments["base_uri"], arguments["lease"], context, DeepSpeedEngine.of)
        except StoppedError as stopped:  # on every worker at once, and no failure in Ray's eyes
            return str(stopped)
    return ""
