"""All stages of one configuration, one after the other; each skips what is finished."""

import logging
import time
from collections.abc import Callable

from infra.evaluate import evaluate
from infra.generate import generate
from infra.ingest import ingest
from infra.named_sets import check_given
from infra.train import train
from siamdiff.config import Config
from siamdiff.run import readable_seconds

log = logging.getLogger(__name__)

STAGES: dict[str, Callable[[Config, bool], None]] = {
    "ingest": ingest,
    "train": train,
    "generate": generate,
    "evaluate": evaluate,
}


def stages(config: Config) -> dict[str, Callable[[Config, bool], None]]:
    """The stages that a configuration needs, in order: copies of the real pairs need no model, hence no training."""
    needless = {"train"} if config.generate.method == "copy-paste" else set()
    return {name: stage for name, stage in STAGES.items() if name not in needless}


def experiment(config: Config, demo: bool) -> None:
    """Ingest, train, generate, evaluate; ends with a table of the stages and their times.

    Raises:
        UserError: a set that is to be compared at the end is missing.
        SiamdiffError: what the first stage that failed raised; the same command goes on there.
    """
    check_given(config)
    seconds: dict[str, float] = {}
    try:
        for name, stage in stages(config).items():
            log.info("== %s", name)
            started = time.monotonic()
            seconds[name] = float("nan")
            stage(config, demo)
            seconds[name] = time.monotonic() - started
    finally:
        log.info("stages:\n%s", _table(seconds))
    log.info("everything lies under %s", config.root)


def _table(seconds: dict[str, float]) -> str:
    rows = [
        f"  {name:<10} {readable_seconds(spent) if spent == spent else 'failed':>8}"
        for name, spent in seconds.items()
    ]
    whole = sum(spent for spent in seconds.values() if spent == spent)
    return "\n".join([*rows, f"  {'all':<10} {readable_seconds(whole):>8}"])
