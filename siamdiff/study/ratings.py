"""What readers said, as arrays: first showings of each image, and how each reader judged a repeat."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from siamdiff.study.answers import Kept
from siamdiff.study.folder import REAL, Origin, Secret, Study


@dataclass(frozen=True)
class Again:
    """A picture that one reader judged twice: first showing, repeat."""

    reader: int  # row
    picture: int  # column
    realism: tuple[int, int]  # 1 to 5
    real: tuple[int, int]  # 1: called real


@dataclass(frozen=True)
class Ratings:
    """R readers and I pictures; NaN where a reader has not judged one.

    A picture that was shown twice counts as it was judged the first time.
    """

    readers: list[str]
    method: np.ndarray  # str (I,)
    lesion: np.ndarray  # str (I,)
    realism: np.ndarray  # float (R, I), 1 to 5
    real: np.ndarray  # float (R, I), 1: called real, 0: called synthetic
    confidence: np.ndarray  # float (R, I), 1 to 5
    seconds: np.ndarray  # float (R, I)
    again: list[Again]

    @property
    def is_real(self) -> np.ndarray:
        """Which pictures are real, bool (I,)."""
        return self.method == REAL

    @property
    def methods(self) -> list[str]:
        """REAL and the synthetic methods, by name."""
        return [REAL, *sorted({*self.method.tolist()} - {REAL})]


@dataclass(frozen=True)
class Progress:
    """How far a reader came."""

    reader: str
    complete: int  # images, repeats among them, with all questions answered
    begun: int  # with some of them answered, which count for nothing
    images: int


def progress(study: Study, kept: Sequence[Kept]) -> list[Progress]:
    """How far every reader came, those who said nothing among them."""
    rows = []
    for reader, order in study.orders.items():
        complete = [of.answer.is_complete for of in kept if of.reader == reader]
        rows.append(Progress(reader, sum(complete), len(complete) - sum(complete), len(order)))
    return rows


def collect(study: Study, secret: Secret, kept: Sequence[Kept]) -> Ratings:
    """The complete answers of readers who gave any."""
    said = {(of.reader, of.image): of.answer for of in kept if of.answer.is_complete}
    readers = [reader for reader in study.orders if any(reader == of for of, _ in said)]
    pictures: dict[int, Origin] = {origin.picture: origin for origin in secret.images.values()}
    rows = {picture: row for row, picture in enumerate(sorted(pictures))}
    realism, real, confidence, seconds = (np.full((len(readers), len(rows)), np.nan) for _ in range(4))
    again = []
    for r, reader in enumerate(readers):
        shown: dict[int, list[str]] = {}
        for name in study.orders[reader]:
            shown.setdefault(secret.images[name].picture, []).append(name)
        for picture, names in shown.items():
            found = [said.get((reader, name)) for name in names]
            if found[0] is None:
                continue
            answer, i = found[0], rows[picture]
            realism[r, i], real[r, i] = answer.realism, answer.verdict == REAL
            confidence[r, i], seconds[r, i] = answer.confidence, answer.seconds
            if len(found) == 2 and (repeat := found[1]) is not None:
                grades = (int(answer.realism or 0), int(repeat.realism or 0))
                again.append(Again(r, i, grades, (int(answer.verdict == REAL), int(repeat.verdict == REAL))))
    origins = [pictures[picture] for picture in rows]
    return Ratings(
        readers=readers,
        method=np.array([origin.method for origin in origins]),
        lesion=np.array([origin.lesion for origin in origins]),
        realism=realism,
        real=real,
        confidence=confidence,
        seconds=seconds,
        again=again,
    )
