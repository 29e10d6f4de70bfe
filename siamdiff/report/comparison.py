"""The settings of an experiment as one table: what the images are like, and what segmenters make of them.

A row is a setting. Columns are the figures of its evaluation under their own names, and Dice at 0.5 of every arm of its
segmentation, with network and test set where there are several; what a setting lacks is None.
"""

from collections.abc import Sequence
from typing import Any

from siamdiff import storage
from siamdiff.evaluation.table import AGREEMENT, CEILING, COPIES, SET
from siamdiff.evaluation.table import make_rows as evaluation_rows
from siamdiff.report.record import Setting
from siamdiff.report.scope import own_set
from siamdiff.segmentation.table import ARM, DEVIATION, NETWORK, SHOWN_P, TEST
from siamdiff.segmentation.table import make_rows as segmentation_rows
from siamdiff.tables import Row, as_csv, tabular

__all__ = ["as_csv", "as_latex", "as_text", "make_rows"]

SETTING = "setting"
METRICS = "metrics.json"
_TITLES = {COPIES: "copies", AGREEMENT: "mask agreement"}
_HIDDEN = ("_floor", "_low", "_high", "_deviation", DEVIATION)


def make_rows(settings: Sequence[Setting]) -> list[Row]:
    """One row per setting, all with the same columns.

    Raises:
        FileNotFoundError: an evaluation or a segmentation is not where the record says.
    """
    rows = [{SETTING: one.name} | _quality(one) | _dice(one) for one in settings]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return [{column: row.get(column) for column in columns} for row in rows]


def as_text(rows: Sequence[Row]) -> str:
    """For people: a column per setting, a line per figure."""
    lines = [[_title(column), *(_cell(row, column) for row in rows)] for column in _shown(rows)]
    first, *widths = (max(map(len, cells)) for cells in zip(*lines, strict=True))
    return "\n".join(
        f"  {name:<{first}}"
        + "".join(f"  {cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        for name, *cells in lines
    )


def as_latex(rows: Sequence[Row], notes: Sequence[str]) -> str:
    """A plain tabular that needs no package; `notes` go above it as comments."""
    columns = _shown(rows)
    lines = [[_cell(row, column).replace(" +- ", r" $\pm$ ") for column in columns] for row in rows]
    return tabular("l" + "r" * (len(columns) - 1), map(_title, columns), lines, notes)


def _quality(setting: Setting) -> dict[str, Any]:
    """The figures of the setting's own set; where it was not compared, of the first by name."""
    if "evaluate" not in setting.outputs:
        return {}
    metrics = storage.read_json(storage.join(setting.outputs["evaluate"], METRICS))
    results = metrics["results"]
    own = own_set(
        setting, {name: of["uri"] for name, of in metrics["sets"]["synthetic"].items() if name in results}
    )
    row = next(row for row in evaluation_rows(results) if row[SET] == own)
    return {name: value for name, value in row.items() if name not in (SET, CEILING)}


def _dice(setting: Setting) -> dict[str, Any]:
    if "segment" not in setting.outputs:
        return {}
    rows = segmentation_rows(storage.read_json(storage.join(setting.outputs["segment"], METRICS))["results"])
    several = [name for name in (NETWORK, TEST) if len({row[name] for row in rows}) > 1]
    found: dict[str, Any] = {}
    for row in rows:
        where = ", ".join([row[ARM], *(row[name] for name in several)])
        found |= {f"Dice, {where}": row[SHOWN_P], f"Dice, {where}{DEVIATION}": row[SHOWN_P + DEVIATION]}
    return found


def _shown(rows: Sequence[Row]) -> list[str]:
    return [column for column in rows[0] if not column.endswith(_HIDDEN)]


def _title(column: str) -> str:
    return _TITLES.get(column, column)


def _cell(row: Row, column: str) -> str:
    value, deviation = row[column], row.get(column + DEVIATION)
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    text = f"{value:#.3g}" if 0 < abs(value) < 0.1 else f"{value:.3f}"
    return text if deviation is None else f"{text} +- {deviation:.3f}"
