"""What the stages but training share: the names of their files, and the state of a stage's newest command."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from typing import Any, Self

from infra import cluster
from infra.exporting import JobWatch
from siamdiff import storage
from siamdiff.config import Config
from siamdiff.errors import AlreadyRunningError, NotFiniteError, SiamdiffError, UserError
from siamdiff.journal import journal
from siamdiff.run import Status

# folders of the stages under the root
DATA, SYNTHETIC, EVALUATION, SEGMENTATION = "data", "synthetic", "evaluation", "segmentation"
EXPERIMENTS = "experiments"
COMMANDS = {DATA: "ingest", SYNTHETIC: "generate", EVALUATION: "evaluate", SEGMENTATION: "segment"}
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
class WatchedStatus(Status):
    """The state of a command, which its metrics tell as well."""

    watch: JobWatch | None = None

    def write(self, **changes: object) -> None:
        """See siamdiff.run.Status."""
        super().write(**changes)
        if self.watch:
            self.watch.tell(self.phase, self.done, self.total)

    def told_of(self, phase: str) -> JobWatch:
        """The metrics' part, which knows of a phase that others write to status.json."""
        assert self.watch
        self.watch.tell(phase, self.done, self.total)
        return self.watch

    @contextmanager
    def reporting(self) -> Iterator[Self]:
        """See siamdiff.run.Status. On a cluster there already is, whoever watches it sees the command from here on."""
        watch = self.watch
        if watch is None:
            with super().reporting():
                yield self
            return
        with watch.beating():
            try:
                with super().reporting():
                    if os.environ.get("RAY_ADDRESS"):
                        cluster.connect()
                    yield self
            except AlreadyRunningError:
                raise
            except BaseException as error:
                watch.ended(_end(error, self.phase))
                raise
            watch.ended("finished")


def _end(error: BaseException, phase: str) -> str:
    """Of metrics.ENDS, by what ended a command and the phase that it left."""
    kinds = {UserError: "refused", NotFiniteError: "diverged"}
    return next((end for kind, end in kinds.items() if isinstance(error, kind)), phase)


@dataclass
class StageStatus(WatchedStatus):
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
    watch = JobWatch(COMMANDS.get(folder, folder), config)
    status = StageStatus(storage.join(config.root, folder), log=logs, watch=watch)
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
