"""The comparison of several synthetic sets as one table: for the log, as CSV, as LaTeX.

A table is a list of rows, one per set, {column: value}. Columns are named as the figures are; what a set lacks is None.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

SET, IMAGES = "set", "images"
AGREEMENT, CEILING = "mask_agreement_dice", "mask_agreement_dice_real"
FLOOR = (
    "_floor"  # ending of the column beside a figure's: the same distance between two parts of the real set
)
_TITLES = {AGREEMENT: "mask agreement (Dice)", CEILING: "  on held-out real images"}
_DIGITS = {AGREEMENT: 2, CEILING: 2}
_OTHER_DIGITS = 3


def make_rows(results: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """One row per set, by name.

    Args:
        results: name -> `figures` (list of siamdiff.evaluation.distances.Figure.as_dict) and `mask_agreement`
            (Agreement.as_dict; None: the set has no masks), as metrics.json holds them.
    """
    rows = []
    for name in sorted(results):
        figures, agreement = results[name]["figures"], results[name]["mask_agreement"] or {}
        row: dict[str, Any] = {SET: name, IMAGES: results[name]["count"]}
        for figure in figures:
            row |= {figure["name"]: figure["value"], figure["name"] + FLOOR: figure["floor"]}
        rows.append(row | {AGREEMENT: agreement.get("synthetic"), CEILING: agreement.get("real")})
    return rows


def as_text(rows: Sequence[Row]) -> str:
    """For people: a column per set, a line per figure, its floor or ceiling below it."""
    columns = [column for column in rows[0] if column != SET]
    titles = {column: f"  {_title(column)}" for column in columns}
    width = max(map(len, titles.values()))
    widths = [max(len(row[SET]), 9) for row in rows]
    head = " " * width + "".join(f"  {row[SET]:>{w}}" for row, w in zip(rows, widths, strict=True))
    lines = [
        f"{titles[column]:<{width}}"
        + "".join(f"  {_cell(column, row[column]):>{w}}" for row, w in zip(rows, widths, strict=True))
        for column in columns
        if any(row[column] is not None for row in rows)
    ]
    return "\n".join([head, *lines])


def as_csv(rows: Sequence[Row]) -> str:
    """Every number in full; empty where a set has none."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_latex(rows: Sequence[Row], notes: Sequence[str]) -> str:
    """A plain tabular, without floors, that needs no package; `notes` go above it as comments."""
    columns = [column for column in rows[0] if not column.endswith(FLOOR) and column != CEILING]
    lines = [
        *(f"% {note}" for note in notes),
        rf"\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}",
        r"\hline",
        _latex_line(_title(column) for column in columns),
        r"\hline",
        *(_latex_line(_cell(column, row[column]) for column in columns) for row in rows),
        r"\hline",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _title(column: str) -> str:
    return "  real against real" if column.endswith(FLOOR) else _TITLES.get(column, column)


def _cell(column: str, value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.{_DIGITS.get(column, _OTHER_DIGITS)}f}" if isinstance(value, float) else str(value)


def _latex_line(cells: Iterable[str]) -> str:
    return " & ".join(cell.replace("_", r"\_") for cell in cells) + r" \\"
