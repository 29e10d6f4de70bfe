"""Training on a cluster: Ray Train starts the workers, DeepSpeed ZeRO spreads optimizer, gradients and weights.

Checkpoints are the loop's own, in the store (siamdiff.training.checkpoint), not Ray's: what counts is what lies there.
infra/workers.py runs the worker group that trains, infra/trainer.py is what a worker does; here is what surrounds it.
"""

import logging
from typing import Any

import torch

from infra import cluster, workers
from infra.exporting import JobWatch
from infra.inputs import ensure_data, prepare_base, training_set
from infra.stage import LATEST, LOGS, WatchedStatus
from siamdiff import storage
from siamdiff.config import Config
from siamdiff.journal import journal
from siamdiff.model.sources import INFO
from siamdiff.run import lease, pin
from siamdiff.training import bases
from siamdiff.training.context import SingleProcess
from siamdiff.training.precision import check_precision

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
        # What brings the networks' libraries is imported where it is used: a job whose workers train does without them.
        here = config.train.engine == "torch"
        (bases.prepare_base if here else prepare_base)(config)
        if config.train.cache:
            from infra.cache import ensure_cache

            status.write(phase="caching")
            ensure_cache(config, base, lambda _done, _total: status.write())
        if here:
            from infra import trainer

            trainer.train_here(config, base, held)
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


def _worker(arguments: dict[str, Any]) -> str:
    """What each training process runs; see infra.trainer.train_as_worker."""
    from infra import trainer

    return trainer.train_as_worker(arguments)
