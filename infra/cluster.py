"""The Ray cluster a job runs on: the one it is told of, or a local one that ends with the job."""

import logging
import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from infra import exporting, signals
from siamdiff.errors import SiamdiffError, UserError

# Ray and the libraries read these while they are imported.
DEFAULTS = {
    "RAY_AUTH_MODE": "token",  # Ray's clients would default to none and be refused
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to anyone
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # every line once
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",  # the stages log their own progress
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
for _name, _value in DEFAULTS.items():
    os.environ.setdefault(_name, _value)

# For a cluster on this machine alone: Ray then takes 127.0.0.1 for the node's address, and all its servers listen there
# instead of on every address. The name is of the systems where it is Ray's default; Linux honours it as well.
ON_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "GLOO_SOCKET_IFNAME": "lo"}

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 4  # at one row of Ray Data, each but the last ended by the death of its process
CLOSED = 0  # instead of the number of an attempt: no row is begun any more


class Attempts:
    """An actor that counts how often each row was begun, where the death of a worker does not reach.

    Ray Data gives the row of a dead worker to another one, without end: a row that kills its worker every time would
    be tried for ever.
    """

    def __init__(self) -> None:
        self._begun: Counter[str] = Counter()
        self._is_closed = False

    def begin(self, row: str) -> int:
        """Counts one more attempt; returns their number, or CLOSED."""
        if self._is_closed:
            return CLOSED
        self._begun[row] += 1
        return self._begun[row]

    def close(self) -> None:
        """From now on no row is begun; those at work are finished."""
        self._is_closed = True

    @classmethod
    def start(cls) -> Any:
        """A new count: the handle of its actor, on this node, which no other node takes along when it dies."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        return ray.remote(cls).options(num_cpus=0, scheduling_strategy=here).remote()


def connect() -> None:
    """Joins the cluster of RAY_ADDRESS (set inside `ray job submit`), else starts one on this machine, on loopback.

    Credentials of the object store are not passed on: each process has them from its own environment or role.
    """
    with _on_loopback():
        import ray

        _join(ray)


@contextmanager
def _on_loopback() -> Iterator[None]:
    """While the block runs, what Ray and its processes take over to listen on loopback alone; nothing for a cluster.

    Ray reads it while it is imported. Later than that the processes would not agree on the node's address.
    """
    is_early = "ray" not in sys.modules and "RAY_ADDRESS" not in os.environ
    added = {name: value for name, value in ON_LOOPBACK.items() if is_early and name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def _join(ray: Any) -> None:
    if ray.is_initialized():
        return
    with warnings.catch_warnings(), signals.kept():
        warnings.simplefilter("ignore")  # of Ray's own start, not ours
        ray.init(
            address=os.environ.get("RAY_ADDRESS", "local"),
            include_dashboard=True,  # on loopback; Ray Train asks its state API
            log_to_driver=True,
            logging_level=logging.WARNING,
            configure_logging=True,
        )
    exporting.watch_store()
    log.info("Ray: %s", ", ".join(f"{name} {amount:g}" for name, amount in _resources().items()))


def leave() -> None:
    """Leaves the cluster, or ends its own: what workers still have to say comes before the job's last line."""
    if "ray" in sys.modules:
        import ray

        ray.shutdown()


def configure_data() -> None:
    """Sets what every stage wants of Ray Data: no lines but ours, and a task's own error as the cause of a failure."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # that there are no bars
    # the traceback of a task's error, which comes out as an error anyway
    for name in ("_internal.execution.streaming_executor_state", "exceptions"):
        logging.getLogger(f"ray.data.{name}").setLevel(logging.CRITICAL)


@contextmanager
def explained() -> Iterator[None]:
    """Turns what Ray raises into ours: a SiamdiffError of a task or actor comes out as it went in.

    Raises:
        SiamdiffError: what a task raised, or that its worker was lost.
    """
    import ray.exceptions

    try:
        yield
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, SiamdiffError):
            # below our one line Ray Data says how its attempts could be changed
            error.cause.args = (str(error.cause).partition("\n")[0],)
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        raise SiamdiffError(f"a worker was lost ({first_line(error)}); run the same command again") from error


def check_room(need: dict[str, float], what: str, fix: str) -> None:
    """Refuses what a local cluster has no room for: it would be waited for without end.

    Nodes may join a cluster that the job was told of (RAY_ADDRESS), so there it only warns.

    Args:
        need: amounts by resource ("CPU", "GPU"), of all that must run at once.
        what: that needs them, plural.
        fix: the settings to change.

    Raises:
        UserError: a local cluster with less than `need`.
    """
    import ray

    have = ray.cluster_resources()
    short = [
        f"{amount:g} {name} of {have.get(name, 0):g}"
        for name, amount in need.items()
        if amount > have.get(name, 0)
    ]
    if not short:
        return
    message = f"{what} need {' and '.join(short)}"
    if os.environ.get("RAY_ADDRESS"):
        log.warning("%s: waiting for nodes", message)
        return
    raise UserError(f"{message}; {fix}")


def largest_node(resource: str) -> float:
    """The most of a resource that one living node has: what a single task can ask for at once."""
    import ray

    return max((node["Resources"].get(resource, 0.0) for node in ray.nodes() if node["Alive"]), default=0.0)


def first_line(error: BaseException) -> str:
    """One line of an error's message: of what was raised on the cluster where Ray wraps it in a stack trace."""
    from ray.exceptions import RayActorError, RayTaskError

    if isinstance(error, RayTaskError) and error.cause:
        error = error.cause
    lines = (str(error).strip() or type(error).__name__).splitlines()
    in_constructor = isinstance(error, RayActorError) and error.actor_init_failed
    line = lines[-1 if in_constructor else 0]  # the trace of a constructor ends with its error
    return line.removeprefix("siamdiff.errors.UserError: ").removeprefix("siamdiff.errors.SiamdiffError: ")


def _resources() -> dict[str, float]:
    import ray

    return {name: amount for name, amount in ray.cluster_resources().items() if name in ("CPU", "GPU")}
