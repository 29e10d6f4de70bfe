"""The plots of a page as SVG text that stands alone: plain data in, the same bytes for the same data.

Every series has its own colour and its own marker or dash, so that colour alone tells nothing apart.
"""

import io
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter, StrMethodFormatter

# Colours that siamdiff.report.svg replaces by the page's own; alone they are those of a light page.
INK, GRID, PAPER = "#1b1f27", "#d4d8df", "#fefefe"
SERIES = ("#1f66b0", "#c2540a", "#0b7a66", "#8a3f9c", "#7a6400", "#b3264a", "#4d5560")
MARKERS = ("o", "^", "s", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 1)))
WIDE, HIGH = 4.9, 3.2  # inches of 72 units: at 390 pixels the text is still of 10
MAX_POINTS = 400  # of a set in a scatter; more hide each other
BINS = 16
_LEGEND, _HANDLE = 60, 8  # letters that fit into a row of a legend; that a line's picture takes
_LEGEND_ROW = 0.2  # inches
CELLS = 8  # a side, of the map of centres
_SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "siamdiff",
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 10,
}
_NOTHING = "a plot needs at least one series"

Interval = tuple[float, tuple[float, float] | None]  # a value and its interval; None: it has none


def loss_curves(series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Losses by training step, on a logarithmic scale.

    Args:
        series: name of the loss -> (step, value); values that are not above 0 are left out.

    Raises:
        ValueError: no series, as of every plot.
    """
    with _style():
        figure, axes = _canvas(series)
        for i, (name, points) in enumerate(series.items()):
            shown = [(step, value) for step, value in points if value > 0]
            steps, values = zip(*shown, strict=True) if shown else ((), ())
            few = len(shown) < 12
            axes.plot(steps, values, label=name, marker=_of(MARKERS, i) if few else None, ms=4, **_line(i))
        axes.set_yscale("log")
        axes.set(xlabel="training step", ylabel="loss")
        _legend(axes)
        return _svg(figure)


def fold_sweep(lines: Mapping[str, Sequence[tuple[int, float, float | None]]], score: str) -> str:
    """A score against the number of synthetic folds beside the real pairs, 0 being real pairs alone (Fig. 7).

    Args:
        lines: setting -> (folds, mean, standard deviation over seeds or None).
        score: its name, for the axis.
    """
    with _style():
        figure, axes = _canvas(lines)
        width = 0.05 * (len(lines) - 1)
        for i, (name, points) in enumerate(lines.items()):
            folds, means, deviations = zip(*sorted(points, key=lambda point: point[0]), strict=True)
            # beside each other, or their bars would be one
            x = np.array(folds) + (np.linspace(-width, width, len(lines))[i] if len(lines) > 1 else 0)
            axes.errorbar(
                x,
                means,
                yerr=[deviation or 0 for deviation in deviations],
                label=name,
                capsize=4,
                fmt=_of(MARKERS, i),
                ms=6,
                **_line(i),
            )
        ticks = sorted({point[0] for points in lines.values() for point in points})
        axes.set_xticks(ticks, ["real alone" if tick == 0 else f"+{tick}" for tick in ticks])
        axes.set(xlabel="synthetic folds added to the real pairs", ylabel=score)
        if len(lines) > 1:
            _legend(axes)
        return _svg(figure)


def arm_scores(
    arms: Mapping[str, tuple[float, float | None, Sequence[float]]], baseline: float | None, score: str
) -> str:
    """A row per arm: mean and standard deviation, and every seed as a small mark; the baseline as a dashed line.

    Args:
        arms: arm -> (mean, standard deviation over seeds or None, the seeds' means).
        baseline: mean of the baseline; None: there is none.
        score: its name, for the axis.
    """
    with _style():
        figure, axes = _canvas(arms, high=0.9 + 0.42 * len(arms))
        if baseline is not None:
            axes.axvline(baseline, color=INK, linestyle="--", linewidth=1)
        for y, (mean, deviation, seeds) in enumerate(arms.values()):
            axes.errorbar(mean, y, xerr=deviation or 0, fmt="o", ms=7, capsize=4, color=SERIES[0])
            axes.plot(seeds, [y + 0.24] * len(seeds), "|", ms=7, color=INK)
        _rows(axes, list(arms))
        axes.set_xlabel(score)
        return _svg(figure)


def ranges(rows: Mapping[str, Sequence[float]], label: str, limit: float | None = None) -> str:
    """A row per set: a thin bar, a thick one inside it, and a mark; a limit as a dashed line.

    Args:
        rows: set -> where thin bar, thick bar and mark begin and end: thin, thick, mark, thick, thin.
        label: for the axis, which begins at 0.
        limit: None: there is none.
    """
    with _style():
        figure, axes = _canvas(rows, high=0.9 + 0.38 * len(rows))
        if limit is not None:
            axes.axvline(limit, color=SERIES[5], linestyle="--", linewidth=1.6)
        for y, (low, lower, middle, higher, high) in enumerate(rows.values()):
            axes.plot([low, high], [y, y], color=SERIES[y % 2], linewidth=1.6)
            axes.plot([lower, higher], [y, y], color=SERIES[y % 2], linewidth=7, solid_capstyle="butt")
            axes.plot(middle, y, "D", ms=6, markerfacecolor=PAPER, markeredgecolor=INK)
        _rows(axes, list(rows))
        axes.set_xlim(left=0)
        axes.set_xlabel(label)
        return _svg(figure)


def settings_plot(
    rows: Mapping[str, tuple[float, tuple[float, float] | None]], figure_name: str, floor: float | None = None
) -> str:
    """A row per setting: a figure and its interval; its floor as a dashed line.

    Args:
        rows: setting -> (value, its interval; None: it has none).
        figure_name: for the axis.
        floor: the same figure of real images; None: there is none.
    """
    with _style():
        figure, axes = _canvas(rows, high=0.9 + 0.38 * len(rows))
        if floor is not None:
            axes.axvline(floor, color=INK, linestyle="--", linewidth=1)
        for y, (value, interval) in enumerate(rows.values()):
            if interval is not None:
                axes.plot(interval, [y, y], color=SERIES[0], linewidth=2)
            axes.plot(value, y, "o", ms=7, color=SERIES[0])
        _rows(axes, list(rows))
        axes.set_xlabel(figure_name)
        return _svg(figure)


def rated(panels: Mapping[str, Mapping[str, Mapping[str, Interval]]], reference: str | None = None) -> str:
    """Several figures, one panel below the other: a row per method, and in it a mark with its interval per part.

    Args:
        panels: figure -> method -> part (all, small lesions, ...) -> value and interval; the first part is larger.
        reference: a method whose first part is a dashed line in every panel.
    """
    with _style():
        methods = list(dict.fromkeys(method for of in panels.values() for method in of))
        parts = list(dict.fromkeys(part for of in panels.values() for rows in of.values() for part in rows))
        figure, first = _canvas(methods, high=(0.8 + 0.16 * len(parts) * len(methods)) * len(panels) + 0.4)
        figure.delaxes(first)
        for axes, (label, of) in zip(
            figure.subplots(len(panels), squeeze=False)[:, 0], panels.items(), strict=True
        ):
            _bare(axes)
            if reference is not None and reference in of:
                axes.axvline(next(iter(of[reference].values()))[0], color=INK, linestyle="--", linewidth=1)
            for i, part in enumerate(parts):
                at = {y + 0.7 * (i - (len(parts) - 1) / 2) / len(parts): of.get(method, {}).get(part)
                      for y, method in enumerate(methods)}  # fmt: skip
                _part(axes, {y: found for y, found in at.items() if found is not None}, i, part)
            _rows(axes, methods)
            axes.set_xlabel(label)
        _legend(figure.axes[0])
        return _svg(figure)


def shares(sets: Mapping[str, np.ndarray], label: str, limit: float | None = None) -> str:
    """Histograms of numbers of several sets over each other, each as shares of its own set.

    Args:
        sets: name -> numbers, 0 or more.
        label: of the axis.
        limit: end of the axis [the largest number].
    """
    with _style():
        figure, axes = _canvas(sets)
        top = limit or max(float(values.max(initial=0)) for values in sets.values()) or 1
        edges = np.linspace(0, top, BINS + 1)
        for i, (name, values) in enumerate(sets.items()):
            counts, _ = np.histogram(values, edges)
            axes.stairs(counts / max(len(values), 1), edges, label=name, fill=False, **_line(i))
        axes.set(xlabel=label, ylabel="share of the masks")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_ylim(bottom=0)
        _legend(axes)
        return _svg(figure)


def numbers(sets: Mapping[str, Mapping[str, float]], label: str) -> str:
    """Bars side by side: shares by class of several sets; all have the same classes in order."""
    with _style():
        figure, axes = _canvas(sets)
        classes = list(next(iter(sets.values())))
        width = 0.8 / len(sets)
        for i, (name, found) in enumerate(sets.items()):
            x = np.arange(len(classes)) - 0.4 + width * (i + 0.5)
            # outlined and more or less filled: they differ without colour too
            axes.bar(x, list(found.values()), width * 0.9, label=name, color=_of(SERIES, i), alpha=1 - 0.4 * (i % 2),
                     edgecolor=INK, linewidth=0.8, hatch=("", "///", "...")[i % 3])  # fmt: skip
        axes.set_xticks(range(len(classes)), classes)
        axes.set(xlabel=label, ylabel="share of the masks")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        _legend(axes)
        return _svg(figure)


def centres(name: str, points: np.ndarray, colour: int = 0) -> str:
    """Where the masks of a set lie: the share of their centres in each cell of a grid over the image.

    Args:
        name: of the set.
        points: float (N, 2), x and y in [0, 1] from the upper left corner.
        colour: place in SERIES.
    """
    with _style():
        figure, axes = _canvas([name], wide=3.2, high=2.8)
        found, _, _ = np.histogram2d(points[:, 1], points[:, 0], CELLS, [(0, 1), (0, 1)])
        top = found.max(initial=1)
        for row, column in np.argwhere(found):
            share = float(found[row, column] / top)
            cell = Rectangle((column / CELLS, row / CELLS), 1 / CELLS, 1 / CELLS, alpha=share, linewidth=0)
            cell.set_facecolor(_of(SERIES, colour))
            axes.add_patch(cell)
        axes.set(xlim=(0, 1), ylim=(1, 0), aspect="equal")
        axes.set_xticks([0, 0.5, 1], ["left", "", "right"])
        axes.set_yticks([0, 0.5, 1], ["top", "", "bottom"])
        axes.spines[["top", "right"]].set_visible(True)
        axes.grid(False)
        return _svg(figure)


def growth(lines: Mapping[str, Sequence[tuple[float, float]]], x: str, y: str) -> str:
    """What grows with what, both on logarithmic scales; on paper of its own, for pages of any colour.

    Args:
        lines: name -> points, ascending.
        x, y: names of the axes; powers of 2 are marked on the first.
    """
    with _style():
        figure, axes = _canvas(lines)
        figure.patch.set(visible=True, facecolor=PAPER)
        for i, (name, points) in enumerate(lines.items()):
            axes.plot(*zip(*points, strict=True), label=name, marker=_of(MARKERS, i), ms=4, **_line(i))
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.set(xlabel=x, ylabel=y)
        _legend(axes)
        return _svg(figure)


def tsne(sets: Mapping[str, np.ndarray]) -> str:
    """Points of several sets in the plane; a set has its colour and its marker (Fig. 4).

    Args:
        sets: name -> float (N, 2); of each at most MAX_POINTS, evenly spread over its rows, are drawn.
    """
    with _style():
        figure, axes = _canvas(sets, high=4.2)
        for i, (name, points) in enumerate(sets.items()):
            chosen = np.unique(np.linspace(0, len(points) - 1, min(len(points), MAX_POINTS)).astype(int))
            x, y = points[chosen].T
            # the first, real one, is hollow, so that what lies on it does not hide it
            face: dict[str, Any] = {"mfc": "none"} if i == 0 else {"mew": 0.0, "alpha": 0.75}
            axes.plot(x, y, _of(MARKERS, i), ms=5, color=_of(SERIES, i), label=name, **face)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        axes.grid(False)
        _legend(axes, scale=1.5)
        return _svg(figure)


def _style() -> AbstractContextManager[None]:
    """matplotlib's settings, whatever the user's own are."""
    settings: Any = matplotlib.rcParamsDefault | _SETTINGS
    return matplotlib.rc_context(settings)


def _canvas(series: Any, wide: float = WIDE, high: float = HIGH) -> tuple[Figure, Axes]:
    if not len(series):
        raise ValueError(_NOTHING)
    figure = Figure(figsize=(wide, high), layout="constrained")
    figure.patch.set_visible(False)
    FigureCanvasSVG(figure)
    return figure, _bare(figure.add_subplot())


def _bare(axes: Axes) -> Axes:
    """Without a frame or a ground of its own."""
    axes.patch.set_visible(False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    return axes


def _part(axes: Axes, at: Mapping[float, Interval], i: int, name: str) -> None:
    """Marks of one part, by the place of their row, each with its interval."""
    for y, (_, interval) in at.items():
        if interval is not None:
            axes.plot(interval, [y, y], color=_of(SERIES, i), linewidth=1.2 if i else 2.2)
    values = [value for value, _ in at.values()]
    axes.plot(values, list(at), _of(MARKERS, i), ms=4.5 if i else 7, color=_of(SERIES, i), label=name)


def _rows(axes: Axes, names: list[str]) -> None:
    """One row per name, the first on top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.margins(x=0.08)


def _legend(axes: Axes, scale: float = 1.0) -> None:
    """Above the axes, in as many columns as its names leave room for; many rows make the figure higher."""
    names = [str(name) for name in axes.get_legend_handles_labels()[1]]
    columns = max(1, min(3, len(names), int(_LEGEND / (_HANDLE + max(map(len, names))))))
    figure = axes.get_figure(root=True)
    if isinstance(figure, Figure):
        rows = -(-len(names) // columns)
        figure.set_figheight(figure.get_figheight() + _LEGEND_ROW * max(0, rows - 3))
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=columns,
        borderaxespad=0.2,
        handlelength=2.4,
        markerscale=scale,
    )


def _line(i: int) -> dict[str, Any]:
    return {"color": _of(SERIES, i), "linestyle": _of(DASHES, i), "linewidth": 1.8}


def _of(values: Sequence[Any], i: int) -> Any:
    return values[i % len(values)]


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasSVG)
    canvas.print_svg(text, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return text.getvalue()
