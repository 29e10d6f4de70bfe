"""The comparison of several synthetic sets as one table: its rows, for the log, as LaTeX.

A table is a list of rows, one per set, {column: value}. Columns are named as the figures are; what a set lacks is None.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from siamdiff.tables import Row, tabular

SET, IMAGES = "set", "images"
AGREEMENT, CEILING = "mask_agreement_dice", "mask_agreement_dice_real"
COPIES = "copies"  # share of the images that are copies of training images
# Endings of the columns beside a figure's own:
FLOOR = "_floor"  # the same between two parts of the real set
LOW, HIGH = "_low", "_high"  # ends of its interval
DEVIATION = "_deviation"  # over the subsets of KID
_BESIDE = (FLOOR, LOW, HIGH, DEVIATION)
_TITLES = {
    COPIES: "copies of training images",
    AGREEMENT: "mask agreement (Dice)",
    CEILING: "  on held-out real images",
}
_SUBTITLES = {FLOOR: "  real against real", LOW: "  95% interval", DEVIATION: "  deviation of subsets"}
_DIGITS = {COPIES: 3, AGREEMENT: 2, CEILING: 2}
_SMALL = 0.1  # numbers below it are shown with as many digits as those above


def make_rows(results: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """One row per set, by name; all with the same columns.

    Args:
        results: name -> `figures` (list of siamdiff.evaluation.figures.Figure.as_dict) and `mask_agreement`
            (Agreement.as_dict; None: the set has no masks), as metrics.json holds them; perhaps `copies`.
    """
    rows = [_row(name, results[name]) for name in sorted(results)]
    longest_first = sorted(rows, key=len, reverse=True)  # what a set lacks stays in its place
    order = list(dict.fromkeys(column for row in longest_first for column in row))
    ends = [column for column in (COPIES, AGREEMENT, CEILING) if column in order]
    columns = [column for column in order if column not in ends] + ends
    return [{column: row.get(column) for column in columns} for row in rows]


def _row(name: str, result: Mapping[str, Any]) -> Row:
    agreement = result["mask_agreement"] or {}
    row: dict[str, Any] = {SET: name, IMAGES: result["count"]}
    for figure in result["figures"]:
        of = figure["name"]
        row |= {of: figure["value"]}
        if figure.get("deviation") is not None:
            row[of + DEVIATION] = figure["deviation"]
        if figure.get("interval"):
            row[of + LOW], row[of + HIGH] = figure["interval"]
        row[of + FLOOR] = figure["floor"]
    if result.get("copies"):
        row[COPIES] = result["copies"]["rate"]
    return row | {AGREEMENT: agreement.get("synthetic"), CEILING: agreement.get("real")}


def as_text(rows: Sequence[Row]) -> str:
    """For people: a column per set, a line per figure; its interval, its floor or ceiling below it."""
    columns = [column for column in rows[0] if column != SET and not column.endswith(HIGH)]
    titles = {column: f"  {_title(column)}" for column in columns}
    width = max(map(len, titles.values()))
    cells = {column: [_text(column, row) for row in rows] for column in columns}
    widths = [max(len(row[SET]), 9, *(len(of[i]) for of in cells.values())) for i, row in enumerate(rows)]
    head = " " * width + "".join(f"  {row[SET]:>{w}}" for row, w in zip(rows, widths, strict=True))
    lines = [
        f"{titles[column]:<{width}}"
        + "".join(f"  {cell:>{w}}" for cell, w in zip(cells[column], widths, strict=True))
        for column in columns
        if any(row[column] is not None for row in rows)
    ]
    return "\n".join([head, *lines])


def _text(column: str, row: Row) -> str:
    cell = _cell(column, row[column])
    if not column.endswith(LOW) or row[column] is None:
        return cell
    return f"{cell}..{_cell(column, row[column.removesuffix(LOW) + HIGH])}"


def as_latex(rows: Sequence[Row], notes: Sequence[str]) -> str:
    """A plain tabular, of figures alone, that needs no package; `notes` go above it as comments."""
    columns = [column for column in rows[0] if not column.endswith(_BESIDE) and column != CEILING]
    lines = ([_cell(column, row[column]) for column in columns] for row in rows)
    return tabular("l" + "r" * (len(columns) - 1), map(_title, columns), lines, notes)


def _title(column: str) -> str:
    beside = [title for ending, title in _SUBTITLES.items() if column.endswith(ending)]
    return beside[0] if beside else _TITLES.get(column, column)


def _cell(column: str, value: Any) -> str:
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    if 0 < abs(value) < _SMALL and column not in _DIGITS:
        return f"{value:#.3g}"
    return f"{value:.{_DIGITS.get(column, 3)}f}"
