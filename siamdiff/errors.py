"""The two kinds of failure a person sees: a mistake in what they gave (exit 2), and everything else (exit 1).

The message is one line: what was given, what is allowed, how to fix it.
"""


class SiamdiffError(Exception):
    """A failure that is not the user's mistake: store unreachable, damaged shard, lost workers. Exit code 1."""

    exit_code = 1


class UserError(SiamdiffError):
    """A mistake in what the user gave: unknown option, missing folder, wrong credentials. Exit code 2."""

    exit_code = 2


class NotFiniteError(SiamdiffError):
    """A run whose loss or gradient is not finite, or larger than it may be. Exit code 1; again it ends the same way."""


class StoppedError(SiamdiffError):
    """A job that was asked to stop, and did so after writing a checkpoint. Exit code 1: it is not done."""


class AlreadyRunningError(SiamdiffError):
    """Another job does this very work. Exit code 0: for whoever schedules jobs nothing is wrong."""

    exit_code = 0


def printable(text: str) -> str:
    """A text without what would lead a terminal or a log astray: escapes for control and formatting characters.

    Names of files and texts of sets come from anywhere: a line feed in them would forge a line of the log.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(error: BaseException | str) -> str:
    """A message as the one line that a person is shown."""
    return printable(" ".join(str(error).split()))


def nearest(name: str, valid: list[str]) -> str:
    """A hint naming the valid name closest to `name`: "; did you mean 'steps'?", or "" where none is close."""
    import difflib

    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
