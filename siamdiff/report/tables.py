"""The tables of a page as plain data, and how numbers are written in them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from siamdiff.report.stages import Figure, Result, Row
from siamdiff.segmentation.table import TITLES

_KINDS = {
    "frechet": "Frechet distance",
    "mmd_polynomial": "Kernel distance, cubic",
    "mmd_linear": "Kernel distance, linear",
    "precision": "Precision",
    "recall": "Recall",
    "density": "Density",
    "coverage": "Coverage",
    "lpips": "LPIPS",
    "clip_i": "CLIP-I",
    "cmmd": "CMMD",
    "fid": "FID",
    "kid": "KID",
}
_CODE = re.compile(r"[0-9a-f]{64}|(?:\w+:/)?/\S+")  # digests and places
ALPHA = 0.05  # below which a p is called significant
NONE = "\N{EN DASH}"
PLUS_MINUS = "\N{PLUS-MINUS SIGN}"


@dataclass(frozen=True)
class Cell:
    """A cell: its text, smaller lines below, and what is to be seen of it."""

    text: str
    below: tuple[str, ...] = ()
    mark: str = (
        ""  # "good", "bad": significantly better, worse; "head": what others are compared with; "code"
    )


@dataclass(frozen=True)
class Line:
    """A row: its head, and one cell per further column."""

    head: Cell
    cells: Sequence[Cell]
    arrow: str = ""  # "up" or "down": which direction is better


@dataclass(frozen=True)
class Table:
    """A table with its caption; the first title is that of the rows' heads."""

    caption: str
    titles: Sequence[str]
    lines: Sequence[Line]
    notes: Sequence[str] = field(default_factory=tuple)
    is_prose: bool = False  # its cells are words, not numbers


def number(value: float | None) -> str:
    """Three digits that count, at most three places."""
    if value is None:
        return NONE
    if value == 0 or abs(value) >= 100:
        return minus(f"{value:,.0f}")
    return minus(
        f"{value:.3g}" if abs(value) < 0.1 else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    )


def score(value: float | None, deviation: float | None = None) -> str:
    """A Dice or an IoU, with its deviation over seeds."""
    if value is None:
        return NONE
    return f"{value:.3f}" + ("" if deviation is None else f" {PLUS_MINUS} {deviation:.3f}")


def difference(value: float | None) -> str:
    """With its sign."""
    return NONE if value is None else minus(f"{value:+.3f}")


def p_value(p: float | None) -> str:
    """As "0.012" or "< 0.001"; beside ALPHA with as many digits as show on which side it is."""
    if p is None:
        return NONE
    if p < 0.001:
        return "< 0.001"
    digits = 3
    while float(f"{p:.{digits}f}") == ALPHA != p:
        digits += 1
    return f"{p:.{digits}f}"


def minus(text: str) -> str:
    """With a minus sign for a hyphen."""
    return text.replace("-", "\N{MINUS SIGN}") if text.startswith("-") else text


def figure_name(figure: Figure) -> str:
    """A figure's name for people: "Frechet distance", without its network."""
    kind = next((kind for kind in _KINDS if figure.name == kind or figure.name.startswith(f"{kind}_")), None)
    return _KINDS[kind] if kind else figure.name


def figures_table(results: Mapping[str, Result]) -> Table:
    """Every figure with its interval and its floor; a column group per set."""
    names = list(dict.fromkeys(figure.name for result in results.values() for figure in result.figures))
    found = {name: {figure.name: figure for figure in result.figures} for name, result in results.items()}
    alone = len(results) == 1
    lines = []
    for name in names:
        first = next(of[name] for of in found.values() if name in of)
        cells = [cell for of in found.values() for cell in _cells(of.get(name), alone)]
        arrow = "up" if first.higher_is_better else "down"
        lines.append(Line(Cell(figure_name(first), (name,)), cells, arrow))
    titles = ["value", "95% interval", "real against real", "images"] if alone else list(results)
    caption = "Synthetic images compared with real ones"
    said = "each with its 95% interval and, in brackets, the same figure of real against real"
    return Table(
        caption if alone else f"{caption}: {said}", ["figure", *titles], lines, _definitions(results)
    )


def _cells(figure: Figure | None, alone: bool) -> list[Cell]:
    if figure is None:
        return [Cell(NONE)] * (4 if alone else 1)
    interval = (
        NONE if not figure.interval else f"{number(figure.interval[0])} to {number(figure.interval[1])}"
    )
    if not alone:
        return [Cell(number(figure.value), (interval, f"[{number(figure.floor)}]"))]
    counts = f"{figure.n_synthetic:,} / {figure.n_reference:,}"
    return [Cell(number(figure.value)), Cell(interval), Cell(number(figure.floor)), Cell(counts)]


def _definitions(results: Mapping[str, Result]) -> list[str]:
    figures = [figure for result in results.values() for figure in result.figures]
    networks = dict.fromkeys(
        f"{f.features.label}: {f.features.weights}; {f.features.layer}; {f.features.resize}" for f in figures
    )
    definitions = dict.fromkeys(f"{figure_name(f)}: {f.definition}" for f in figures)
    return [*definitions, *networks]


def scores_table(rows: Sequence[Row], baseline: str | None) -> Table:
    """The arms of one network on one test set, with the comparison with the baseline."""
    first = rows[0]
    shown = [name for name in TITLES if name in first.scores]
    main, others = shown[0], shown[1:]
    titles = ["trained on", TITLES[main]]
    titles += [f"against {baseline}", "p"] if baseline else []
    lines = []
    for row in rows:
        of = row.scores[main]
        cells = [Cell(score(of.mean, of.deviation))]
        if baseline:
            cells += _against(row, main)
        cells += [Cell(score(row.scores[name].mean, row.scores[name].deviation)) for name in others]
        head = Cell(row.arm, (f"{row.training_pairs:,} pairs",), "head" if row.arm == baseline else "")
        lines.append(Line(head, cells))
    of_test = f"{first.network}, {first.test}: {first.scores[main].images} images"
    seeds = f"{first.seeds} seeds" if first.seeds > 1 else "1 seed"
    caption = f"{of_test}; mean {PLUS_MINUS} standard deviation over {seeds}. Higher is better"
    return Table(caption, [*titles, *(TITLES[name] for name in others)], lines)


def _against(row: Row, name: str) -> list[Cell]:
    against = row.scores[name].against_baseline
    if against is None:
        return [Cell(NONE)] * 2
    images = (f"{against.better} better, {against.worse} worse",)
    cell = Cell(difference(against.difference), images + mixed_words(row, name), mark_of(row, name))
    return [cell, Cell(p_value(against.p))]


def verdict(row: Row, name: str) -> str:
    """Whether an arm differs significantly from the baseline; "" if not.

    "good": better, on average and on more images than it is worse on; "bad": worse likewise; "mixed": the mean says the
    one, the number of images the other. The test ranks differences, so its p alone goes with either direction.
    """
    against = row.scores[name].against_baseline
    if not against or against.p is None or against.difference is None or against.p >= ALPHA:
        return ""
    if against.difference > 0 and against.better > against.worse:
        return "good"
    return "bad" if against.difference < 0 and against.better < against.worse else "mixed"


def mark_of(row: Row, name: str) -> str:
    """The mark of a cell or card that shows the difference: neither good nor bad where it is mixed."""
    return "" if (said := verdict(row, name)) == "mixed" else said


def mixed_words(row: Row, name: str) -> tuple[str, ...]:
    """In which way the mean and the number of images contradict each other, as one text; () where they do not."""
    against = row.scores[name].against_baseline
    if against is None or verdict(row, name) != "mixed":
        return ()
    if against.better == against.worse:
        size = "more" if (against.difference or 0.0) > 0 else "less"
        return (f"as many images gain as lose, but by {size}",)
    if against.better < against.worse:
        return ("fewer images gain than lose, but by more",)
    return ("more images gain than lose, but by less",)


def plain_table(caption: str, titles: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    """A table of numbers that are texts already."""
    return Table(caption, titles, [_line(row) for row in rows])


def words_table(caption: str, titles: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    """A table of words; digests and places are set as code."""
    return Table(caption, titles, [_line(row) for row in rows], is_prose=True)


def _line(row: Sequence[Any]) -> Line:
    cells = [Cell(str(of), mark="code" if _CODE.fullmatch(str(of)) else "") for of in row[1:]]
    return Line(Cell(str(row[0])), cells)
