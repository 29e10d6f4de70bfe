"""The common door of the jobs: command line, first line, log, exit code and last line."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path

from infra import logs
from siamdiff import storage
from siamdiff.commandline import load
from siamdiff.config import Config
from siamdiff.errors import SiamdiffError
from siamdiff.sections import PHANTOM

DEMO = Path(__file__).resolve().parents[1] / "jobs" / "configs" / "demo.yaml"

log = logging.getLogger(__name__)


def run(stage: Callable[[Config, bool], None], description: str, argv: list[str] | None = None) -> None:
    """Runs one stage on the configuration of the command line and ends the process with its exit code.

    The stage gets the configuration and whether this is the demo (no --config, phantom data), which its outputs say.

    Exit codes: 0 done (also: nothing to do), 2 the user's mistake, 1 everything else. The last line on stderr is the
    message; a traceback is shown only for a fault of our own.
    """
    logs.in_job()
    try:
        config, is_default = load(sys.argv[1:] if argv is None else argv, DEMO, description)
        assert config.root
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
        stage(config, is_default and config.data.source == PHANTOM)
    except SiamdiffError as error:
        sys.exit(_fail(str(error), error.exit_code))
    except KeyboardInterrupt:
        sys.exit(_fail("interrupted; the same command goes on from here", SiamdiffError.exit_code))


def _fail(message: str, code: int) -> int:
    logging.shutdown()
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    return code
