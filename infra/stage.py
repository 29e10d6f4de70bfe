"""What the stages but training share: the names of their files, and the state of a stage's newest command."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from typing import Any

from siamdiff import storage
from siamdiff.config import Config
from siamdiff.errors import AlreadyRunningError, SiamdiffError
from siamdiff.journal import journal
from siamdiff.run import Status

# folders of the stages under the root
DATA, SYNTHETIC, EVALUATION, SEGMENTATION = "data", "synthetic", "evaluation", "segmentation"
EXPERIMENTS = "experiments"
PLAN = "plan.json"
CONFIG = "config.yaml"
LATEST = "latest.json"
STATUS = "status.json"
CARD = "README.md"
LOGS = "logs"  # under the root and under a run


def logs_uri(config: Config, folder: str) -> str:
    """Where a stage's processes keep what they log. Not in the stage's folder: sets are handed on, logs are not."""
    assert config.root, "the configuration is resolved"
    return storage.join(config.root, LOGS, folder)


@dataclass
class StageStatus(Status):
    """The state of a stage's newest command; also beside its output, once that is known to belong to it."""

    output: str | None = None

    def write(self, **changes: object) -> None:
        """See siamdiff.run.Status; writes to both places."""
        super().write(**changes)
        if self.output not in (None, self.uri):
            shared: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(Status)}
            shared["uri"] = self.output
            Status(**shared).write()


@contextmanager
def reported(config: Config, folder: str) -> Iterator[StageStatus]:
    """Keeps `ROOT/FOLDER/status.json` from a command's first look at its inputs to its exit code.

    The place is known before anything else is, so that every mistake leaves its code there. An output that turns out
    to be another's is never written to.
    """
    assert config.root, "the configuration is resolved"
    logs = logs_uri(config, folder)
    status = StageStatus(storage.join(config.root, folder), log=logs)
    uri = storage.join(status.uri, STATUS)
    earlier = None
    with suppress(FileNotFoundError, SiamdiffError):  # damaged: it is written anew
        earlier = storage.read_json(uri)
    status.write(phase="preparing")  # also over an earlier end: this is of the newest command
    try:
        with journal(logs, "job"), status.reporting():
            yield status
    except AlreadyRunningError:
        if earlier:  # of the one that is at work
            storage.write_json(uri, earlier)
        raise
