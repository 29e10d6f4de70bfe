"""How near the images come to real ones, and whether they show their lesions: figures, t-SNE, mask agreement."""

from collections.abc import Mapping, Sequence

import numpy as np

from siamdiff.report import plots
from siamdiff.report.blocks import Block, Heading, Plot, Plots, Section, Tabular, Text, note
from siamdiff.report.looks import not_evaluated
from siamdiff.report.scope import Scope, View
from siamdiff.report.stages import TSNE, Agreement, Result
from siamdiff.report.svg import inline, short_id
from siamdiff.report.tables import (
    Cell,
    Line,
    Table,
    figure_name,
    figures_table,
    plain_table,
    score,
    words_table,
)

REAL = "real"
_PARTS = (
    "Read every figure beside that of real against real, its floor: the same figure of two disjoint random parts of "
    "the real images, the first with as many images as the synthetic set, at most half of the real ones. A set that "
    "comes to its floor differs no more than real images do among themselves, by this figure. "
)
_CEILING = (
    "For {names}, where higher is better, it is a ceiling: what real images reach of each other, though chance can "
    "carry a set above it. "
)
_OF_PAIRS = (
    "{names} {compare} an image with the real one that its mask was made from; real against real are then pairs of "
    "different real images, which share no more than the kind. "
)
_INTERVAL = (
    "The interval says how the figure would vary with other images of the same sources, not with another training "
    "run."
)
_PAIRED = ("lpips", "clip_i")  # how the names of figures of pairs begin


def figures_section(scope: Scope) -> Section:
    """All figures of all sets, with t-SNE where the evaluation has it."""
    parts: list[Block] = []
    results = {view.label: view.result for view in scope.views}
    if any(result.figures for result in results.values()):
        table = figures_table(results)
        rows = [text.split(": ", 1) for text in table.notes]
        definitions = words_table("What the figures are", ["figure or network", "definition"], rows)
        parts += [Text(_reading(results)), Tabular(table, "figurest")]
        parts.append(Tabular(definitions, "figuresd", "What the figures are, and the networks"))
    if scope.views:
        parts.append(Heading("Map of real and synthetic images (t-SNE)"))
    drawn = [plot for view in _evaluations(scope) if (plot := _tsne_plot(scope, view)) is not None]
    if drawn:
        parts.append(Text(drawn[0][1]))
        parts.append(Plots([plot for plot, _ in drawn]))
    without = [view.label for view in _evaluations(scope) if view.evaluation.tsne is None]
    if without and len(without) == len(_evaluations(scope)):
        parts.append(note("This evaluation was made without a t-SNE map."))
    elif without:
        parts.append(note(f"Without a t-SNE map: {', '.join(without)}."))
    return Section("figures", "How near are they to real images?", [*parts, *not_evaluated(scope)])


def _reading(results: Mapping[str, Result]) -> str:
    """How to read the figures that there are."""
    figures = [figure for result in results.values() for figure in result.figures]
    paired = dict.fromkeys(figure_name(f) for f in figures if f.name.startswith(_PAIRED))
    parted = [figure for figure in figures if not figure.name.startswith(_PAIRED)]
    ceiling = dict.fromkeys(figure_name(f) for f in parted if f.higher_is_better)
    told = _PARTS if parted else ""
    told += _CEILING.format(names=_and(list(ceiling))) if ceiling else ""
    if paired:
        told += _OF_PAIRS.format(
            names=_and(list(paired)), compare="compare" if len(paired) > 1 else "compares"
        )
    return told + _INTERVAL


def _and(names: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def _evaluations(scope: Scope) -> list[View]:
    """One view of each evaluation."""
    firsts: dict[str, View] = {}
    for view in scope.views:
        firsts.setdefault(view.evaluation.inputs_digest, view)
    return list(firsts.values())


def _tsne_plot(scope: Scope, view: View) -> tuple[Plot, str] | None:
    about = view.evaluation.tsne
    rows = view.outcome.lines(TSNE) if about else None
    if not about or not rows:
        return None
    points = {
        name: np.array([(r["x"], r["y"]) for r in rows if r["set"] == name])
        for name in dict.fromkeys(r["set"] for r in rows)
    }
    names = sorted(points, key=lambda name: name != REAL)  # the real ones first
    counts = [
        [name, len(points[name]), *(f"{value:.2f}" for value in points[name].mean(0))] for name in names
    ]
    table = plain_table("Images on the map, and the middle of each set", ["set", "images", "x", "y"], counts)
    of = scope.label(view.outcome)
    name = short_id("tsne", view.evaluation.inputs_digest)
    said = ", ".join(f"{len(points[n]):,} {n}" for n in names)
    title = f"t-SNE map{' of ' + of if of else ''}: {said} images; the table below has the middle of each set"
    svg = inline(plots.tsne({n: points[n] for n in names}), title, f"{name}p")
    drawn = (
        f"; of each set {plots.MAX_POINTS} are drawn"
        if max(map(len, points.values())) > plots.MAX_POINTS
        else ""
    )
    caption = f"{of + ': ' if of else ''}{said}{drawn}."
    definition = about.definition.rstrip(".")
    told = f"Features of {about.extractor}, perplexity {about.perplexity:g}, seed {about.seed}. {definition}."
    return Plot(svg, caption, Tabular(table, f"{name}n", "The numbers")), told


def agreement_section(scope: Scope) -> Section:
    """Mask agreement, with its breakdown by the size of lesions."""
    parts: list[Block] = []
    found = [(view.label, view.result.mask_agreement) for view in scope.views]
    measured = [(label, of) for label, of in found if of is not None]
    if measured:
        definition = measured[0][1].definition
        parts.append(
            Text(
                "A small segmenter, trained on real training pairs alone, looks for the lesion in synthetic images; "
                f"its Dice with the mask given is the agreement: {definition}. Held-out real pairs are its ceiling."
            )
        )
        parts.append(Tabular(_agreement_table(measured), "agreementt"))
        parts += [
            Tabular(_sizes_table(label, of), short_id("sizes", label)) for label, of in measured if of.by_size
        ]
    parts += [note(f"The images of {label} came without masks.") for label, of in found if of is None]
    return Section("agreement", "Is the lesion where the mask says?", [*parts, *not_evaluated(scope)])


def _agreement_table(measured: Sequence[tuple[str, Agreement]]) -> Table:
    lines = [
        Line(
            Cell(label),
            [
                Cell(score(of.synthetic)),
                Cell(f"{of.n_synthetic:,}"),
                Cell(score(of.real)),
                Cell(f"{of.n_real:,}"),
            ],
            "up",
        )
        for label, of in measured
    ]
    return Table(
        "Mask agreement (Dice)", ["set", "synthetic pairs", "images", "held-out real pairs", "images"], lines
    )


def _sizes_table(label: str, of: Agreement) -> Table:
    lines = []
    above = 0.0
    for size in of.by_size:
        span = f"{above:.0%} to {size.up_to:.0%} of the image"
        cells = [score(size.synthetic), f"{size.n_synthetic:,}", score(size.real), f"{size.n_real:,}"]
        lines.append(Line(Cell(size.name, (span,)), [Cell(cell) for cell in cells]))
        above = size.up_to
    titles = ["size of the lesion", "synthetic pairs", "images", "held-out real pairs", "images"]
    return Table(f"Mask agreement (Dice) by size of the lesion, {label}", titles, lines)
