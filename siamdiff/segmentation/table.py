"""The results of a segmentation as one table: its rows, for the log, as LaTeX.

A table is a list of rows, one per network, test set and arm, {column: value}; what is not known is None.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from siamdiff.tables import Row, tabular

NETWORK, TEST, ARM, IMAGES, SEEDS, PAIRS = "network", "test", "arm", "images", "seeds", "training_pairs"
DEVIATION, DIFFERENCE, P = "_sd", "_difference", "_p"  # endings of the columns beside a score's
SHOWN_P = "dice_at_0.5"  # the score whose p the short tables show
TITLES = {
    "dice_at_0.5": "Dice (0.5)",
    "iou_at_0.5": "IoU (0.5)",
    "dice_256_thresholds": "Dice (256)",
    "iou_256_thresholds": "IoU (256)",
}


def make_rows(results: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The rows of some results, arm after arm under each network and test set.

    Args:
        results: as metrics.json holds them: `network`, `arm`, `test`, `seeds`, `training_pairs` and `scores` as of
            siamdiff.segmentation.statistics.tabulate.
    """
    rows: list[Mapping[str, Any]] = []
    blocks = list(dict.fromkeys((result[NETWORK], result[TEST]) for result in results))
    for result in sorted(results, key=lambda of: blocks.index((of[NETWORK], of[TEST]))):
        scores = result["scores"]
        row: dict[str, Any] = {name: result[name] for name in (NETWORK, TEST, ARM, SEEDS, PAIRS)}
        row[IMAGES] = next(iter(scores.values()))["images"]
        for name, score in scores.items():
            against = score.get("against_baseline") or {}
            row |= {name: score["mean"], name + DEVIATION: score["deviation"]}
            row |= {name + DIFFERENCE: against.get("difference"), name + P: against.get("p")}
        rows.append(row)
    return rows


def as_text(rows: Sequence[Row], baseline: str | None) -> str:
    """For people: a block per network and test set, a line per arm, mean and deviation over the seeds."""
    width = max(len("training on"), *(len(row[ARM]) for row in rows))
    lines: list[str] = []
    block = None
    for row in rows:
        if block != (row[NETWORK], row[TEST]):
            block = (row[NETWORK], row[TEST])
            lines.append(f"  {row[NETWORK]}, {row[TEST]}: {row[IMAGES]} images, {row[SEEDS]} seeds")
            heads = "".join(f"  {title:<15}" for title in TITLES.values())
            lines.append(
                f"    {'training on':<{width}}   pairs{heads}"
                + (f"  p of {TITLES[SHOWN_P]}" * bool(baseline))
            )
        cells = "".join(f"  {_cell(row, name):<15}" for name in TITLES)
        p = _p(row[SHOWN_P + P])
        lines.append(f"    {row[ARM]:<{width}}  {row[PAIRS]:>6}{cells}  {p}".rstrip())
    if baseline:
        lines.append(f"  p: each against {baseline}, paired over test images")
    return "\n".join(lines)


def as_latex(rows: Sequence[Row], notes: Sequence[str]) -> str:
    """A plain tabular that needs no package; `notes` go above it as comments."""
    titles = ["network", "test", "training on", *TITLES.values(), f"$p$ of {TITLES[SHOWN_P]}"]
    lines = [
        [
            row[NETWORK],
            row[TEST],
            row[ARM],
            *(_cell(row, name) for name in TITLES),
            _p(row[SHOWN_P + P]) or "-",
        ]
        for row in rows
    ]
    written = [[cell.replace(" +- ", r" $\pm$ ").replace("< ", "$<$ ") for cell in line] for line in lines]
    return tabular("lll" + "r" * (len(titles) - 3), titles, written, notes)


def _cell(row: Row, name: str) -> str:
    if row[name] is None:
        return "-"
    deviation = row[name + DEVIATION]
    return f"{row[name]:.3f}" + ("" if deviation is None else f" +- {deviation:.3f}")


def _p(value: float | None) -> str:
    if value is None:
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
