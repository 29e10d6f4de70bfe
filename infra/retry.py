"""A command run again while trying again may help: by its exit code, which Ray's job CLI does not hand on."""

import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import tenacity

from infra.signals import STOPPING
from siamdiff.errors import SiamdiffError, UserError

FINAL = (0, UserError.exit_code)  # done, or the user's mistake: the same would happen again
FAILED = SiamdiffError.exit_code
# Set for the command: a file that it makes when it was asked to stop, by a signal or a budget, and is to stay so.
STAY_STOPPED = "SIAMDIFF_STAY_STOPPED"
SECONDS_BETWEEN = 20.0  # twice as long each time, ten minutes at most

log = logging.getLogger(__name__)


def stay_stopped() -> None:
    """Tells whoever runs this process again on failure not to: it was asked to stop."""
    if path := os.environ.get(STAY_STOPPED):
        Path(path).touch()


def run(times: int, command: list[str], seconds_between: float = SECONDS_BETWEEN) -> int:
    """Runs a command, and again while it ends with another exit code than 0 or 2, `times` times in all.

    SIGTERM and Ctrl-C end it for good, and are handed on as one SIGTERM: `ray job stop` and a terminal signal all
    processes themselves, and a second Ctrl-C would cost the command its checkpoint.

    Args:
        times: runs at most, at least 1.
        command: program and arguments.
        seconds_between: the first pause; doubled after each run.

    Returns:
        exit code of the last run: 0, 1 or 2, any other code and a signal count as 1.

    Raises:
        UserError: `times` below 1, or a program that cannot be started.
    """
    if times < 1:
        raise UserError(f"{times} runs; at least 1 is needed")
    with tempfile.TemporaryDirectory() as folder, _stoppable() as stop:
        mark = Path(folder) / "stopped"

        def once() -> int:
            return _run(command, mark, stop)

        def is_worth_it(code: int) -> bool:
            return code not in FINAL and not stop.why and not mark.exists()

        def tell(state: tenacity.RetryCallState) -> None:
            assert state.outcome and state.next_action
            log.warning(
                "ended with exit code %d; run %d of %d in %.0f s",
                state.outcome.result(),
                state.attempt_number + 1,
                times,
                state.next_action.sleep,
            )

        code = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(times),
            wait=tenacity.wait_exponential(seconds_between, max=600),
            retry=tenacity.retry_if_result(is_worth_it),
            sleep=stop.pause,
            before_sleep=tell,
            retry_error_callback=lambda state: state.outcome.result() if state.outcome else FAILED,
        )(once)
    return code if code in FINAL else FAILED


class _Stop:
    """The first signal that asked for the end, and the process that it was handed on to."""

    def __init__(self) -> None:
        self.why = 0
        self.process: subprocess.Popen[bytes] | None = None

    def handle(self, number: int, _frame: FrameType | None) -> None:
        if not self.why:
            self.why = number
            if self.process:
                self.process.send_signal(signal.SIGTERM)

    def pause(self, seconds: float) -> None:
        """Sleeps, but not once a signal came."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
        try:
            if not self.why and (got := signal.sigtimedwait(STOPPING, seconds)):
                self.why = got.si_signo
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _stoppable() -> Iterator[_Stop]:
    stop = _Stop()
    before = {number: signal.signal(number, stop.handle) for number in STOPPING}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(command: list[str], mark: Path, stop: _Stop) -> int:
    if stop.why:
        return FAILED
    sys.stdout.flush()
    try:
        process = subprocess.Popen(command, env=os.environ | {STAY_STOPPED: str(mark)})
    except OSError as error:
        raise UserError(f"{command[0]} cannot be started: {error.strerror}") from None
    stop.process = process
    if stop.why:  # while it was being started
        process.send_signal(signal.SIGTERM)
    code = process.wait()
    stop.process = None
    return code if code >= 0 else FAILED
