"""Signals to a job: SIGTERM and Ctrl-C end it with one line, and training with a checkpoint."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOPPING = (signal.SIGTERM, signal.SIGINT)


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised where Python would raise KeyboardInterrupt for Ctrl-C: no `except Exception` holds it up."""


def end_on_sigterm() -> None:
    """Lets SIGTERM unwind the job from wherever it is, so that it leaves its lease and says how it ended."""
    if _in_main_thread():
        signal.signal(signal.SIGTERM, _terminate)


def _terminate(_number: int, _frame: FrameType | None) -> None:
    # `ray job stop` signals every process of a job, and jobs/retry.py hands it on: one does not interrupt the other
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated("stopped by SIGTERM")


@contextmanager
def kept() -> Iterator[None]:
    """Puts the handlers back that the block replaces: ray.init()'s exits with the signal's number as the code."""
    before = {number: signal.getsignal(number) for number in STOPPING} if _in_main_thread() else {}
    try:
        yield
    except SystemExit as ending:
        if ending.code == signal.SIGTERM:
            _terminate(signal.SIGTERM, None)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Stop:
    """Whether a signal asked for the end, which one, and when."""

    def __init__(self) -> None:
        self.why = ""  # name of the signal
        self.at = 0.0  # time.monotonic() of the first one

        self.on_late: Callable[[], None] | None = None
        self._timer: threading.Timer | None = None

    def limit(self, seconds: float, on_late: Callable[[], None]) -> None:
        """Calls `on_late` in the main thread after so many seconds, unless the block ends before."""
        main = threading.main_thread().ident
        assert main is not None

        def expire() -> None:
            self.on_late = on_late
            signal.pthread_kill(main, signal.SIGTERM)  # runs the handler below, even if Python sleeps

        self._timer = threading.Timer(seconds, expire)
        self._timer.daemon = True
        self._timer.start()

    def finish(self) -> None:
        """Nothing is late any more."""
        if self._timer:
            self._timer.cancel()

    def seconds(self) -> float:
        """Since the first signal; 0 without one."""
        return time.monotonic() - self.at if self.why else 0.0


@contextmanager
def watched(on_stop: Callable[[str], None] | None = None) -> Iterator[Stop]:
    """Turns the first SIGTERM or Ctrl-C into a wish while the block runs; a second Ctrl-C interrupts as ever.

    Nothing is watched outside of the main thread, where Python delivers no signals.

    Args:
        on_stop: called with the signal's name in the handler, at the first.
    """
    stop = Stop()

    def handle(number: int, _frame: FrameType | None) -> None:
        if not stop.why:
            stop.why, stop.at = signal.Signals(number).name, time.monotonic()
            if on_stop:
                on_stop(stop.why)
        elif stop.on_late:
            stop.on_late()
        elif number == signal.SIGINT:
            raise KeyboardInterrupt

    with kept():
        if _in_main_thread():
            for number in STOPPING:
                signal.signal(number, handle)
        try:
            yield stop
        finally:
            stop.finish()


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
