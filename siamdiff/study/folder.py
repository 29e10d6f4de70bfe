"""A study's folder: what each file of it holds. It lies on a disk, and is whole or not there.

study.json           what the page may know: names of the images, and in which order each reader sees them
images/NAME.png      the images, alike in everything but their pixels
private/key.json     where each image comes from; nothing that serves the page reads it
private/readers.json the readers' codes, hashed
answers.sqlite       what the readers said (siamdiff.study.answers)
scores/              what was made of it (siamdiff.study.scoring)
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from siamdiff import storage
from siamdiff.data.sample import Amount, Key, Sha256, Side, Text
from siamdiff.errors import UserError
from siamdiff.records import read_record

STUDY, IMAGES, PRIVATE = "study.json", "images", "private"
KEY, READERS = f"{PRIVATE}/key.json", f"{PRIVATE}/readers.json"
ANSWERS, SCORES = "answers.sqlite", "scores"
REAL = "real"
REMEDY = "restore it from a copy of the study's folder"

Name = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Reader = Annotated[str, StringConstraints(pattern=r"^reader-[1-9][0-9]*$")]


class Study(BaseModel):
    """What the page knows of a study; the content of study.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    id: Name
    side: Side  # of the images, pixels
    image_bytes: Amount  # of every image's file
    orders: dict[Reader, list[Name]]  # the images in each reader's own order


class Source(BaseModel):
    """A set that images were drawn from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: Sha256
    license: Text
    permitted_use: Text


class Origin(BaseModel):
    """Where an image of a study comes from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str  # REAL, or the name of a synthetic set
    source: Key  # its key in its set
    lesion: str  # class of the lesion's size
    share: float  # of the image's pixels that the mask covers, in [0, 1]
    picture: Amount  # the same for an image and its repeat


class Secret(BaseModel):
    """The key to a study; the content of private/key.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    study: Name
    seed: Amount
    split: str | None  # of the real set; None: all
    sets: dict[str, Source]  # by method
    related: Amount  # images that share a patient or a mask with another one
    images: dict[Name, Origin]


class Readers(BaseModel):
    """The readers' codes; the content of private/readers.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    salt: str  # hex
    hashes: Annotated[dict[Reader, str], Field(min_length=1)]


def find(folder: str) -> Path:
    """The path of a study's folder.

    Raises:
        UserError: it is no folder on a disk, or holds no study.
    """
    place = storage.local_path(storage.normalize(folder))
    if place is None or not (place / STUDY).is_file():
        raise UserError(
            f"{folder} holds no study (no {STUDY} on a disk); make one: python -m siamdiff study make --to {folder} ..."
        )
    return place


def read_study(place: Path) -> Study:
    """What the page may know.

    Raises:
        SiamdiffError: study.json is damaged or of another version.
    """
    return read_record(Study, str(place / STUDY), REMEDY)


def read_readers(place: Path) -> Readers:
    """The readers' codes, hashed.

    Raises:
        UserError: they are not there.
        SiamdiffError: they are damaged or of another version.
    """
    try:
        return read_record(Readers, str(place / READERS), REMEDY)
    except FileNotFoundError:
        raise UserError(f"{place / READERS} is missing: nobody could sign in; {REMEDY}") from None


def read_key(place: Path) -> Secret:
    """The key to the study.

    Raises:
        UserError: it is not there.
        SiamdiffError: it is damaged or of another version.
    """
    try:
        return read_record(Secret, str(place / KEY), REMEDY)
    except FileNotFoundError:
        raise UserError(
            f"{place / KEY} is missing: nothing says which image is real; put it back where it was kept apart"
        ) from None
