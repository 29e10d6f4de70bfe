"""The Ray cluster a job runs on: the one it is told of, or a local one that ends with the job."""

import logging
import os
import warnings

# Ray reads these while it is imported. Token authentication is named because Ray's clients default to none;
# nothing is reported to anyone; worker output is passed on once.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
os.environ.setdefault("RAY_DEDUP_LOGS", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import ray

log = logging.getLogger(__name__)


def connect() -> None:
    """Joins the cluster of RAY_ADDRESS (set inside `ray job submit`), else starts one on this machine.

    Credentials of the object store are not passed on: each process has them from its own environment or role.
    """
    if ray.is_initialized():
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Ray's own start, not ours
        ray.init(
            address=os.environ.get("RAY_ADDRESS", "local"),
            include_dashboard=False,
            log_to_driver=True,
            logging_level=logging.WARNING,
            configure_logging=True,
        )
    log.info("Ray: %s", ", ".join(f"{name} {amount:g}" for name, amount in _resources().items()))


def _resources() -> dict[str, float]:
    return {name: amount for name, amount in ray.cluster_resources().items() if name in ("CPU", "GPU")}
