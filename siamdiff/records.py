"""JSON that a job wrote and reads again: what became of it in the meantime is one line, never a traceback."""

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from siamdiff import storage
from siamdiff.errors import SiamdiffError

Read = TypeVar("Read", bound=BaseModel)


def read_record(kind: type[Read], uri: str, remedy: str = "delete it and run the same command again") -> Read:
    """What is kept at a URI.

    Args:
        kind: what is read of it; with `extra="allow"` the rest is kept.
        uri: of a JSON object.
        remedy: what to do about another content, for the message.

    Raises:
        FileNotFoundError: nothing.
        SiamdiffError: something else, or JSON of another version.
    """
    try:
        return kind.model_validate_json(storage.read_bytes(uri))
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise SiamdiffError(
            f"{uri} is damaged or of another version ({where + ': ' if where else ''}{fault['msg']}); {remedy}"
        ) from error
