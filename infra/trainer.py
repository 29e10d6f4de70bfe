"""Training itself: by each worker of a group, or in the job's own process. It brings the networks' libraries."""

import warnings
from typing import Any

import torch

from infra import logs, signals, workers
from infra.context import RayContext
from infra.stage import LOGS
from infra.zero import DeepSpeedEngine
from siamdiff import storage
from siamdiff.config import Config
from siamdiff.errors import StoppedError
from siamdiff.journal import journal
from siamdiff.run import Lease
from siamdiff.training.context import SingleProcess
from siamdiff.training.engine import TorchEngine
from siamdiff.training.loop import train
from siamdiff.training.wish import Wish


def train_here(config: Config, base_uri: str, held: Lease) -> None:
    """Trains in this process; a signal asks the loop for a checkpoint and the end."""
    torch.set_num_threads(max(config.cluster.threads * config.train.workers, 1))
    grace, context = config.train.grace_seconds, SingleProcess()

    def late() -> None:
        raise workers.stopped(config, stop, is_late=True)

    def ask(why: str) -> None:
        context.ask(Wish.STOP, why)
        stop.limit(grace, late)

    with signals.watched(ask) as stop:
        train(config, base_uri, held, context, TorchEngine.of)


def train_as_worker(arguments: dict[str, Any]) -> str:
    """Trains as one worker of a group; returns why it stopped before the last step, "" if it did not.

    Args:
        arguments: configuration, base, lease, supervisor and attempt, as infra.workers.run gives them.
    """
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
            train(config, arguments["base_uri"], arguments["lease"], context, DeepSpeedEngine.of)
        except StoppedError as stopped:  # on every worker at once, and no failure in Ray's eyes
            return str(stopped)
    return ""
