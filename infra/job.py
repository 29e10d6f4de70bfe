"""The common door of the jobs: command line, first line, log, exit code and last line."""

import logging
import pkgutil
import sys
from pathlib import Path

from infra import cluster, logs, retry, signals
from siamdiff import storage
from siamdiff.commandline import load
from siamdiff.errors import AlreadyRunningError, SiamdiffError, StoppedError, one_line
from siamdiff.sections import PHANTOM

DEMO = Path(__file__).resolve().parents[1] / "jobs" / "configs" / "demo.yaml"

log = logging.getLogger(__name__)


DRY_RUN = "--dry-run"
ABOUT_DRY_RUN = f"""
{DRY_RUN} prints parameters, memory per GPU, arithmetic, hours and cost, and does nothing else: no GPU, no download.
"""


def run(
    stage: str,
    description: str,
    argv: list[str] | None = None,
    *,
    costly: tuple[str, ...] = (),
) -> None:
    """Runs one stage on the configuration of the command line and ends the process with its exit code.

    The stage, "module:function", gets the configuration and whether this is the demo (no --config, phantom data), which
    its outputs say. It is imported once the configuration holds: a mistake is told in a second, without its libraries.
    `costly` names what --dry-run reckons, of "train" and "generate".

    Exit codes: 0 done (also: nothing to do, another job does it), 2 the user's mistake, 1 everything else. The last
    line on stderr is the message; a traceback is shown only for a fault of our own.
    """
    logs.in_job()
    signals.end_on_sigterm()
    given = sys.argv[1:] if argv is None else argv
    try:
        dry = DRY_RUN in given and bool(costly)  # elsewhere it is an option like any other that is not known
        config, is_default = load(
            [argument for argument in given if not (dry and argument == DRY_RUN)],
            DEMO,
            description + (ABOUT_DRY_RUN if costly else ""),
        )
        assert config.root
        if dry:
            from siamdiff.estimate.report import dry_run

            sys.stdout.write(dry_run(config, costly))
            return
        if is_default:
            what = (
                "the demo experiment"
                if config.data.source == PHANTOM
                else f"the demo's settings on {config.data.source}"
            )
            log.info("no --config given: %s (%s), root %s", what, DEMO.name, config.root)
        else:
            log.info("root %s", config.root)
        storage.probe(config.root)
        pkgutil.resolve_name(stage)(config, is_default and config.data.source == PHANTOM)
    except AlreadyRunningError as error:
        log.info("%s", error)
    except SiamdiffError as error:
        if isinstance(error, StoppedError):
            retry.stay_stopped()
        sys.exit(_fail(str(error), error.exit_code))
    except KeyboardInterrupt as interruption:
        retry.stay_stopped()
        why = str(interruption) or "interrupted"
        sys.exit(_fail(f"{why}; the same command goes on from here", SiamdiffError.exit_code))


def _fail(message: str, code: int) -> int:
    cluster.leave()
    logging.shutdown()
    sys.stderr.write(f"error: {one_line(message)}\n")
    return code
