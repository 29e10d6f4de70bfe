"""The figures of a study as tables: for people, for a spreadsheet, for a paper."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from siamdiff.study.intervals import Estimate
from siamdiff.study.ratings import Progress
from siamdiff.study.scores import ALL, Opinion, Recognition, Scores, Within
from siamdiff.tables import Row, tabular

INTERVALS = (
    "in brackets: 95% intervals for other readers and other images; in braces for these readers and other images, as "
    "those of single readers are"
)

_OPINION = ("method", "lesion", "images", "ratings", "MOS", "called real", "sure", "s")
_EVERYWHERE = {"reader": ALL, "method": ALL, "lesion": ALL}


def as_rows(scores: Scores) -> list[Row]:
    """One row per figure, all with the same columns: what is measured, of whom, of which images, value, interval, n."""
    rows: list[Row] = []

    def add(
        measure: str, of: Estimate, n: int, p: float | None = None, where: Mapping[str, str] = _EVERYWHERE
    ) -> None:
        place = {**_EVERYWHERE, **where}
        rows.append(
            {
                "measure": measure,
                **place,
                "value": of.value,
                "low": of.low,
                "high": of.high,
                "low_these": of.low_these,
                "high_these": of.high_these,
                "p": p,
                "n": n,
            }
        )

    for row in scores.opinions:
        where = {"method": row.method, "lesion": row.lesion}
        add("mos", row.mos, row.ratings, where=where)
        add("called_real", row.called_real, row.ratings, where=where)
        add("confidence", Estimate(row.confidence), row.ratings, where=where)
        add("seconds_median", Estimate(row.seconds), row.ratings, where=where)
    counts = {row.method: row.ratings for row in scores.opinions if row.lesion == ALL}
    for row in scores.differences:
        n = counts[row.method] + counts[row.other]
        add("mos_difference", row.difference, n, row.p, {"method": f"{row.method} - {row.other}"})
    for row in scores.recognition:
        where = {"reader": row.reader, "method": row.method, "lesion": row.lesion}
        add("accuracy", row.accuracy, row.answers, row.p, where)
        add("sensitivity", row.sensitivity, row.answers, where=where)
        add("specificity", row.specificity, row.answers, where=where)
    add("alpha_realism", scores.between.realism, scores.between.images)
    add("alpha_verdict", scores.between.verdict, scores.between.images)
    for row in scores.within:
        for name in ("same_realism", "same_verdict", "kappa_realism", "kappa_verdict"):
            add(name, getattr(row, name), row.pairs, where={"reader": row.reader})
    return rows


def as_text(scores: Scores, notes: Iterable[str]) -> str:
    """For people."""
    parts = [
        "realism (1 to 5), and how often images were called real",
        _aligned(
            _OPINION,
            [_opinion(row) for row in scores.opinions],
            left=2,
        ),
        "difference of MOS",
        _aligned(
            ("between", "difference", "p"),
            [(f"{row.method} - {row.other}", _told(row.difference), _p(row.p)) for row in scores.differences],
        ),
        "real and synthetic told apart (chance: 0.5)",
        _aligned(
            ("reader", "method", "lesion", "accuracy", "p", "synthetic found", "real found"),
            [_recognition(row) for row in scores.recognition],
            left=3,
        ),
        f"agreement between {scores.between.readers} readers, {scores.between.images} images with two answers or more",
        _aligned(
            ("Krippendorff's alpha", ""),
            [
                ("realism (ordinal)", _twice(scores.between.realism)),
                ("real or synthetic (nominal)", _twice(scores.between.verdict)),
            ],
        ),
        "agreement of readers with themselves, on images shown twice",
        _aligned(
            ("reader", "pairs", "same grade", "same verdict", "kappa of grades", "kappa of verdicts"),
            [_within(row) for row in scores.within],
        )
        if scores.within
        else "  no image was judged twice",
        "\n".join(f"  {note}" for note in (INTERVALS, *notes)),
    ]
    titles, tables = parts[:-1:2], parts[1:-1:2]
    return "\n\n".join(
        [*(f"{title}\n{table}" for title, table in zip(titles, tables, strict=True)), parts[-1]]
    )


def as_latex(scores: Scores, notes: Iterable[str]) -> str:
    """The opinions as a plain tabular that needs no package; `notes` go above it as comments."""
    lines = [
        [cell.replace("{", r"\{").replace("}", r"\}") for cell in _opinion(row)] for row in scores.opinions
    ]
    return tabular("llrrrrrr", _OPINION, lines, (INTERVALS, *notes))


def progress_notes(rows: Sequence[Progress]) -> list[str]:
    """What of the answers is missing, in words."""
    notes = [
        f"{row.reader} answered {row.complete} of {row.images} images"
        + (f"; {row.begun} more were begun and count for nothing" if row.begun else "")
        for row in rows
        if row.complete < row.images
    ]
    return notes or ["all readers answered everything"]


def _opinion(row: Opinion) -> tuple[str, ...]:
    return (
        row.method, row.lesion, str(row.images), str(row.ratings), _twice(row.mos), _twice(row.called_real),
        _number(row.confidence, 1), _number(row.seconds, 0),
    )  # fmt: skip


def _recognition(row: Recognition) -> tuple[str, ...]:
    figures = (_told(row.accuracy), _p(row.p), _told(row.sensitivity), _told(row.specificity))
    return (row.reader, row.method, row.lesion, *figures)


def _within(row: Within) -> tuple[str, ...]:
    figures = (row.same_realism, row.same_verdict, row.kappa_realism, row.kappa_verdict)
    return (row.reader, str(row.pairs), *map(_told, figures))


def _told(of: Estimate) -> str:
    if of.value is None:
        return "-"
    return f"{of.value:.2f}{_ends(of.low, of.high, '[]')}"


def _twice(of: Estimate) -> str:
    """With the interval for these readers."""
    return "-" if of.value is None else f"{_told(of)}{_ends(of.low_these, of.high_these, '{}')}"


def _ends(low: float | None, high: float | None, around: str) -> str:
    inside = "-" if low is None or high is None else f"{low:.2f}, {high:.2f}"
    return f" {around[0]}{inside}{around[1]}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _p(value: float | None) -> str:
    if value is None:
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _aligned(titles: Sequence[str], lines: Sequence[Sequence[Any]], left: int = 1) -> str:
    """Columns of even width, the first ones to the left."""
    widths = [max(len(str(cell)) for cell in column) for column in zip(titles, *lines, strict=True)]
    return "\n".join(
        "  "
        + "  ".join(
            f"{cell:<{width}}" if i < left else f"{cell:>{width}}"
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in (titles, *lines)
    )
