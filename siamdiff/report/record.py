"""What an experiment consists of and where its parts lie: experiment.json, which page and tables are made from."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from siamdiff import storage
from siamdiff.errors import UserError
from siamdiff.records import read_record

EXPERIMENT = "experiment.json"
SCHEMA = 1
Stage = Literal["ingest", "train", "generate", "evaluate", "segment"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Setting(_Record):
    """One way to train and generate, and what came of it."""

    name: str  # a preset's name, or what is compared, such as "real masks"
    meaning: str  # in words
    fields: dict[str, Any]  # dotted field -> value: what it changes of the configuration
    outputs: dict[Stage, str]  # URIs: set, run, set, and folders; of the stages that were run
    seconds: dict[Stage, float]  # that the experiment's commands spent on each


class ExperimentRecord(_Record):
    """An experiment that is whole."""

    schema_version: int = Field(default=SCHEMA, ge=1, le=SCHEMA)
    inputs_digest: str  # of everything below that decides the result
    sweep: list[str]  # as asked for: [] the configuration alone
    demo: bool
    settings: list[Setting] = Field(min_length=1)


def read_experiment(uri: str) -> ExperimentRecord:
    """The record of the experiment in the folder `uri`.

    Raises:
        UserError: there is none.
        SiamdiffError: it is damaged, or of another version.
    """
    try:
        return read_record(ExperimentRecord, storage.join(uri, EXPERIMENT), "run jobs/experiment.py again")
    except FileNotFoundError:
        raise UserError(
            f"there is no finished experiment at {uri} ({EXPERIMENT} is missing); give ROOT/experiments/DIGEST, as the "
            "last line of jobs/experiment.py names it, or run that command to its end"
        ) from None
