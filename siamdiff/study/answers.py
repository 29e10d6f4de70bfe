"""What readers said, in SQLite: each answer is on the disk before the page is told that it is saved.

`answers` holds the newest of each reader and image, `changes` everything that was ever sent, in order; rows of the
latter can neither be changed nor deleted. Each call has a connection of its own, so that threads, processes and two
windows of one reader are alike.

A page names each change by a number of its own making, and the changes that it knows of. The same change may come
again and counts once; one whose page did not know what another window said is refused, and kept in `changes`.
"""

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from siamdiff.errors import SiamdiffError
from siamdiff.study.folder import Name

SCALE = (1, 2, 3, 4, 5)
REASONS = {
    "texture": "Surface texture",
    "colour": "Colour",
    "light": "Light, reflections",
    "border": "Border of the lesion",
    "anatomy": "Anatomy, shape",
    "blur": "Blur",
    "artefact": "Pattern, artefact",
    "other": "Something else",
}
MAX_MARKS, MAX_WORDS, MAX_CHANGES = 20, 500, 200
_BUSY_SECONDS = 20.0
_TABLES = """
CREATE TABLE IF NOT EXISTS study (id TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS answers (
    reader TEXT NOT NULL, image TEXT NOT NULL, change TEXT NOT NULL, answer TEXT NOT NULL,
    first_at REAL NOT NULL, saved_at REAL NOT NULL, PRIMARY KEY (reader, image)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS changes (
    number INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, reader TEXT NOT NULL, image TEXT NOT NULL,
    change TEXT NOT NULL, answer TEXT NOT NULL, refused INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS sessions (token TEXT PRIMARY KEY, reader TEXT NOT NULL, began_at REAL NOT NULL);
CREATE TRIGGER IF NOT EXISTS changes_stay BEFORE UPDATE ON changes BEGIN SELECT RAISE(ABORT, 'append only'); END;
CREATE TRIGGER IF NOT EXISTS changes_last BEFORE DELETE ON changes BEGIN SELECT RAISE(ABORT, 'append only'); END;
"""

Change = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Words = Annotated[str, StringConstraints(max_length=MAX_WORDS)]
Grade = Annotated[int, Field(ge=SCALE[0], le=SCALE[-1], strict=True)]
Place = Annotated[float, Field(ge=0, le=1)]
Reason = Literal["texture", "colour", "light", "border", "anatomy", "blur", "artefact", "other"]


class Mark(BaseModel):
    """A place in an image that looks wrong."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    x: Place  # from the left, as a share of the width
    y: Place  # from the top
    reason: Reason | None = None
    words: Words = ""


class Answer(BaseModel):
    """What a reader said of an image; None: nothing yet."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    verdict: Literal["real", "synthetic"] | None = None
    realism: Grade | None = None  # 1 to 5; 5: as a real image
    confidence: Grade | None = None  # in the verdict
    marks: Annotated[list[Mark], Field(max_length=MAX_MARKS)] = []
    words: Words = ""
    seconds: Annotated[float, Field(ge=0, le=1e6)] = 0.0  # that the image was looked at, pauses left out

    @property
    def is_complete(self) -> bool:
        """Whether all questions are answered."""
        return None not in (self.verdict, self.realism, self.confidence)


class Sent(BaseModel):
    """A change of an answer as a page sends it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    change: Change
    knows: Annotated[list[Change], Field(max_length=MAX_CHANGES)] = []  # changes of this answer
    answer: Answer


class Kept(BaseModel):
    """An answer as it is kept."""

    model_config = ConfigDict(frozen=True)

    reader: str
    image: Name
    change: Change
    answer: Answer
    first_at: float  # seconds since 1970
    saved_at: float


class Answers:
    """The answers of a study.

    Args:
        path: of the database.
        study: its id.
        reading: look at what is there, and make nothing.

    Raises:
        SiamdiffError: the file is no database, or of another study.
    """

    def __init__(self, path: Path, study: str, *, reading: bool = False) -> None:
        self._path, self._reading = path, reading
        try:
            with self._connected() as database:
                if not reading:
                    database.execute("PRAGMA journal_mode=WAL")
                    database.executescript(_TABLES)
                    database.execute(
                        "INSERT INTO study SELECT ? WHERE NOT EXISTS (SELECT 1 FROM study)", (study,)
                    )
                found = [row[0] for row in database.execute("SELECT id FROM study")]
        except sqlite3.DatabaseError as error:
            raise SiamdiffError(
                f"{path} cannot be used ({error}); restore it from a copy, or move it away to begin anew"
            ) from error
        if found != [study]:
            raise SiamdiffError(
                f"{path} holds the answers of another study; put each study's own into its folder"
            )

    def save(self, reader: str, image: str, sent: Sent) -> bool:
        """Keeps a change. False: it was refused, since another window had said something else."""
        now = time.time()
        text = sent.answer.model_dump_json()
        with self._writing() as database:
            row = database.execute(
                "SELECT change, first_at FROM answers WHERE reader = ? AND image = ?", (reader, image)
            ).fetchone()
            if row is None or row[0] != sent.change:
                refused = row is not None and row[0] not in sent.knows
                database.execute(
                    "INSERT INTO changes (at, reader, image, change, answer, refused) VALUES (?, ?, ?, ?, ?, ?)",
                    (now, reader, image, sent.change, text, refused),
                )
                if refused:
                    return False
                first = row[1] if row else now
                database.execute(
                    "INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (reader, image) DO UPDATE "
                    "SET change = excluded.change, answer = excluded.answer, saved_at = excluded.saved_at",
                    (reader, image, sent.change, text, first, now),
                )
        return True

    def of(self, reader: str) -> dict[str, Kept]:
        """A reader's answers by image."""
        return {kept.image: kept for kept in self._kept("WHERE reader = ?", reader)}

    def all(self) -> list[Kept]:
        """All answers, by reader and image."""
        return self._kept("")

    def _kept(self, where: str, *values: str) -> list[Kept]:
        with self._connected() as database:
            rows = database.execute(
                f"SELECT reader, image, change, answer, first_at, saved_at FROM answers {where} ORDER BY reader, image",
                values,
            ).fetchall()
        return [
            Kept(
                reader=row[0],
                image=row[1],
                change=row[2],
                answer=json.loads(row[3]),
                first_at=row[4],
                saved_at=row[5],
            )
            for row in rows
        ]

    def changes(self) -> list[dict[str, Any]]:
        """Everything that was ever sent, in order."""
        with self._connected() as database:
            rows = database.execute(
                "SELECT at, reader, image, change, answer, refused FROM changes ORDER BY number"
            )
            names = ("at", "reader", "image", "change", "answer", "refused")
            return [dict(zip(names, row, strict=True)) for row in rows]

    def begin_session(self, token: str, reader: str, forget_before: float) -> None:
        """Notes that a reader signed in, under a hash of the session's token; older sessions are forgotten."""
        with self._writing() as database:
            database.execute("DELETE FROM sessions WHERE began_at < ?", (forget_before,))
            database.execute("INSERT INTO sessions VALUES (?, ?, ?)", (token, reader, time.time()))

    def session(self, token: str, since: float) -> str | None:
        """Whose session it is that began after `since`; None: nobody's."""
        with self._connected() as database:
            row = database.execute(
                "SELECT reader FROM sessions WHERE token = ? AND began_at >= ?", (token, since)
            ).fetchone()
        return row[0] if row else None

    def end_session(self, token: str) -> None:
        """Forgets a session."""
        with self._writing() as database:
            database.execute("DELETE FROM sessions WHERE token = ?", (token,))

    @contextlib.contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        mode = "ro" if self._reading else "rwc"
        uri = f"{self._path.absolute().as_uri()}?mode={mode}"
        with contextlib.closing(
            sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)
        ) as database:
            database.execute(
                "PRAGMA synchronous=FULL"
            )  # on the disk, not in a cache that a power cut empties
            yield database

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, alone from its beginning."""
        with self._connected() as database:
            database.execute("BEGIN IMMEDIATE")
            with database:  # committed, or rolled back after an error
                yield database
