"""Scores a study: reads what readers said and the key, and writes what came out.

scores.json   every figure with its interval, how far the readers came, what the study was made from
scores.csv    the same figures, one a row
answers.csv   every answer with the image's origin, readers by their pseudonyms
table.txt, table.tex, scores.svg
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from siamdiff import storage
from siamdiff.errors import SiamdiffError, UserError
from siamdiff.report import plots
from siamdiff.study import results
from siamdiff.study.answers import REASONS, Answers, Kept
from siamdiff.study.folder import ANSWERS, REAL, SCORES, Secret, Study, find, read_key, read_study
from siamdiff.study.ratings import collect, progress
from siamdiff.study.scores import Scores, score_ratings
from siamdiff.tables import as_csv

_PANELS = ("mean opinion score, 1 to 5 (dashed: real images)", "share called real (dashed: real images)")
_FORMULA = "=+-@\t\r"  # with which a spreadsheet begins to reckon


@dataclass(frozen=True)
class Scored:
    """What was written, and the table for people."""

    place: str
    text: str


def score(folder: str, to: str | None = None) -> Scored:
    """Scores what is there so far, complete or not; earlier scores are replaced.

    Args:
        folder: of the study.
        to: where the files go [scores/ in the study's folder].

    Raises:
        UserError: no study, no key, or no complete answer.
        SiamdiffError: something of it is damaged, or of another study.
    """
    place = find(folder)
    study, secret = read_study(place), read_key(place)
    if secret.study != study.id or {name for order in study.orders.values() for name in order} != set(
        secret.images
    ):
        raise SiamdiffError(f"{place} holds the key of another study; put back the one that was made with it")
    kept = _kept(place, study)
    ratings = collect(study, secret, kept)
    if not ratings.readers:
        raise UserError(
            f"nobody has answered all questions of an image of {place} yet: there is nothing to score"
        )
    scores, came = score_ratings(ratings), progress(study, kept)
    target = storage.normalize(to) if to else str(place / SCORES)
    notes = _notes(secret, results.progress_notes(came))
    text = results.as_text(scores, notes)
    about = {
        "study": study.id,
        "seed": secret.seed,
        "split": secret.split,
        "related": secret.related,
        "sets": {method: source.model_dump() for method, source in secret.sets.items()},
        "progress": [asdict(row) for row in came],
        "notes": [results.INTERVALS, *notes],
        "reasons": _reasons(secret, kept),
    }
    written = {
        "scores.json": storage.canonical_json(about | asdict(scores)),
        "scores.csv": as_csv(results.as_rows(scores)).encode(),
        "answers.csv": as_csv(_answer_rows(study, secret, kept)).encode(),
        "table.txt": f"{text}\n".encode(),
        "table.tex": results.as_latex(scores, notes).encode(),
        "scores.svg": plot(scores).encode(),
    }
    for name, content in written.items():
        storage.write_bytes(storage.join(target, name), content)
    return Scored(target, text)


def plot(scores: Scores) -> str:
    """MOS and the share called real, by method and lesion size, as SVG."""
    panels: dict[str, dict[str, dict[str, plots.Interval]]] = {
        "mean opinion score, 1 to 5": {},
        "called real": {},
    }
    for row in scores.opinions:
        for panel, of in zip(panels.values(), (row.mos, row.called_real), strict=True):
            if of.value is not None:
                interval = None if of.low is None or of.high is None else (of.low, of.high)
                panel.setdefault(row.method, {})[row.lesion] = (of.value, interval)
    return plots.rated(panels, REAL)


def _kept(place: Path, study: Study) -> list[Kept]:
    if not (place / ANSWERS).exists():
        raise UserError(f"{place} has no answers yet; serve it first: python -m siamdiff study serve {place}")
    return Answers(place / ANSWERS, study.id, reading=True).all()


def _notes(secret: Secret, notes: Sequence[str]) -> list[str]:
    if not secret.related:
        return list(notes)
    return [
        *notes,
        f"{secret.related} images share a patient or a mask with another one: they are not independent",
    ]


def _reasons(secret: Secret, kept: Sequence[Kept]) -> dict[str, dict[str, int]]:
    """How often each reason was marked, by method; answers that are not complete among them."""
    found: dict[str, Counter[str]] = {method: Counter() for method in secret.sets}
    for of in kept:
        found[secret.images[of.image].method].update(mark.reason or "not said" for mark in of.answer.marks)
    return {
        method: {reason: counts[reason] for reason in (*REASONS, "not said")}
        for method, counts in found.items()
    }


def _answer_rows(study: Study, secret: Secret, kept: Sequence[Kept]) -> list[dict[str, Any]]:
    rows = []
    for of in kept:
        origin, order = secret.images[of.image], study.orders[of.reader]
        shown = [secret.images[name].picture for name in order].index(origin.picture)
        answer = of.answer.model_dump()
        rows.append(
            {
                "reader": of.reader,
                "position": order.index(of.image) + 1,
                "image": of.image,
                "picture": origin.picture,
                "is_repeat": order.index(of.image) != shown,
                "method": origin.method,
                "lesion": origin.lesion,
                "share": origin.share,
                "source": origin.source,
                **{name: answer[name] for name in ("verdict", "realism", "confidence", "seconds")},
                "is_right": None
                if answer["verdict"] is None
                else (answer["verdict"] == REAL) == (origin.method == REAL),
                "marks": storage.canonical_json(answer["marks"]).decode(),
                "words": _harmless(answer["words"]),
                "first_at": _moment(of.first_at),
                "saved_at": _moment(of.saved_at),
            }
        )
    return sorted(rows, key=lambda row: (int(row["reader"].partition("-")[2]), row["position"]))


def _harmless(words: str) -> str:
    return f"'{words}" if words[:1] and words[0] in _FORMULA else words


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
