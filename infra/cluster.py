"""The Ray cluster a job runs on: the one it is told of, or a local one that ends with the job."""

import logging
import os
import warnings

# Ray and the libraries read these while they are imported.
DEFAULTS = {
    "RAY_AUTH_MODE": "token",  # Ray's clients would default to none and be refused
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to anyone
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # every line once
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # nobody listens to its notices, and its start logs an error
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
for _name, _value in DEFAULTS.items():
    os.environ.setdefault(_name, _value)

log = logging.getLogger(__name__)


def connect() -> None:
    """Joins the cluster of RAY_ADDRESS (set inside `ray job submit`), else starts one on this machine.

    Credentials of the object store are not passed on: each process has them from its own environment or role.
    """
    import ray

    if ray.is_initialized():
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Ray's own start, not ours
        ray.init(
            address=os.environ.get("RAY_ADDRESS", "local"),
            include_dashboard=True,  # on loopback; Ray Train asks its state API
            log_to_driver=True,
            logging_level=logging.WARNING,
            configure_logging=True,
        )
    log.info("Ray: %s", ", ".join(f"{name} {amount:g}" for name, amount in _resources().items()))


def _resources() -> dict[str, float]:
    import ray

    return {name: amount for name, amount in ray.cluster_resources().items() if name in ("CPU", "GPU")}
