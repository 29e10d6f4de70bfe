"""Tables of results as text files: CSV with every number in full, LaTeX as it goes into a paper."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]  # {column: value}; what is not known is None


def as_csv(rows: Sequence[Row]) -> str:
    """Every number in full; empty where there is none. All rows have the columns of the first."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def tabular(
    columns: str, titles: Iterable[str], lines: Iterable[Iterable[str]], notes: Iterable[str] = ()
) -> str:
    """A LaTeX tabular that needs no package.

    Args:
        columns: how they are aligned, such as "lrr".
        titles: of the columns, as LaTeX but for underscores, as all cells are.
        lines: cells of each row.
        notes: comments above it.
    """
    return "\n".join(
        [
            *(f"% {note}" for note in notes),
            rf"\begin{{tabular}}{{{columns}}}",
            r"\hline",
            _line(titles),
            r"\hline",
            *map(_line, lines),
            r"\hline",
            r"\end{tabular}",
            "",
        ]
    )


def _line(cells: Iterable[str]) -> str:
    return " & ".join(cell.replace("_", r"\_") for cell in cells) + r" \\"
