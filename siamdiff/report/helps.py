"""Does it help? The sections on segmentation: arms, number of folds, settings beside each other."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from siamdiff.report import plots
from siamdiff.report.blocks import Block, Heading, Plot, Plots, Section, Tabular, Text, note
from siamdiff.report.scope import Scope, own_result, own_set
from siamdiff.report.stages import Figure, Outcome, Row, Segmentation
from siamdiff.report.svg import inline, short_id
from siamdiff.report.tables import (
    Cell,
    Line,
    Table,
    difference,
    figure_name,
    mark_of,
    mixed_words,
    number,
    p_value,
    plain_table,
    score,
    scores_table,
    words_table,
)
from siamdiff.sections.evaluate import SYNTHETIC
from siamdiff.sections.segment import OVERALL, REAL, parse_arm
from siamdiff.segmentation.table import SHOWN_P, TITLES

AXIS = f"{TITLES[SHOWN_P]} on real test images"
_MASKS: dict[str, str] = {"real": "real", "random": "transformed"}  # as siamdiff.sections.generate has them
_READING = (
    "Every training set is a row: segmenters are trained on it from several seeds and scored on the same real test "
    "images. The difference to real pairs alone is tested image by image (Wilcoxon signed rank, two-sided); p is not "
    "corrected for the number of comparisons."
)


@dataclass(frozen=True)
class Arms:
    """The arms of one network on one test set of one setting."""

    label: str  # "" where there is one setting
    network: str
    test: str
    rows: Sequence[Row]
    baseline: str | None

    @property
    def name(self) -> str:
        """Unlike those of all others of a page."""
        return short_id("arms", self.label, self.network, self.test)


def main_test(segmentation: Segmentation) -> str:
    """The test set that stands for all: all of them together, or the only one."""
    tests = list(dict.fromkeys(row.test for row in segmentation.results))
    return OVERALL if OVERALL in tests else tests[0]


def blocks_of(scope: Scope) -> list[Arms]:
    """Every network and test set of every setting; a segmentation that settings share, once."""
    found = []
    seen = set()
    for outcome in scope.outcomes:
        segmentation = outcome.segmentation
        if segmentation is None or segmentation.inputs_digest in seen:
            continue
        seen.add(segmentation.inputs_digest)
        for network, test in dict.fromkeys((row.network, row.test) for row in segmentation.results):
            rows = [row for row in segmentation.results if (row.network, row.test) == (network, test)]
            found.append(Arms(scope.label(outcome), network, test, rows, segmentation.baseline))
    return found


def fold_lines(segmentations: Mapping[str, Segmentation]) -> dict[str, list[tuple[int, float, float | None]]]:
    """Dice against the number of synthetic folds, as `plots.fold_sweep` takes it.

    Args:
        segmentations: setting -> its segmentation. A line's name has those of setting, network and synthetic set
            as far as there are several; one with real pairs alone and no other arm is left out.
    """
    lines: dict[str, list[tuple[int, float, float | None]]] = {}
    for setting, segmentation in segmentations.items():
        test = main_test(segmentation)
        rows = [row for row in segmentation.results if row.test == test]
        networks = list(dict.fromkeys(row.network for row in rows))
        for network in networks:
            points = list(_points([row for row in rows if row.network == network]))
            sets = dict.fromkeys(of for _, of, _ in points if of is not None)
            for of_set in sets or [""]:
                parts = [setting] if len(segmentations) > 1 else []
                parts += [network] if len(networks) > 1 else []
                parts += [of_set] if len(sets) > 1 else []
                line = [point for _, of, point in points if of in (None, of_set)]
                if len(line) > 1:
                    lines[", ".join(parts) or setting] = line
    return lines


def _points(rows: Sequence[Row]) -> Iterator[tuple[str, str | None, tuple[int, float, float | None]]]:
    """Arm, synthetic set (None: of all), point; of the arms of real pairs and folds."""
    for row in rows:
        arm, _, of_set = row.arm.partition(" ")
        base, folds = parse_arm(arm)
        dice = row.scores[SHOWN_P]
        if base == REAL and dice.mean is not None:
            yield row.arm, of_set if folds else None, (folds, dice.mean, dice.deviation)


def segmentation_section(scope: Scope) -> Section:
    """Every arm of every network on every test set."""
    parts: list[Block] = []
    found = blocks_of(scope)
    if found:
        parts.append(Text(_READING))
    for of in found:
        if len(found) > 1:
            parts.append(Heading(", ".join(part for part in (of.label, of.network, of.test) if part)))
        parts.append(Tabular(scores_table(of.rows, of.baseline), of.name))
        parts.append(Plots([_arms_plot(of)]))
    for outcome in scope.outcomes:
        if outcome.segmentation is None:
            parts.append(note(_missing(scope.label(outcome), outcome.missing["segment"])))
    if found:
        parts.append(_definitions(scope))
    return Section("segmentation", "Does it help a segmenter?", parts)


def _arms_plot(of: Arms) -> Plot:
    shown = {row.arm: row.scores[SHOWN_P] for row in of.rows}
    arms = {arm: (s.mean, s.deviation, s.per_seed) for arm, s in shown.items() if s.mean is not None}
    baseline = arms[of.baseline][0] if of.baseline in arms else None
    said = ", ".join(f"{arm} {score(mean, sd)}" for arm, (mean, sd, _) in arms.items())
    title = f"{AXIS}, {of.network}, {of.test}: {said}"
    svg = inline(plots.arm_scores(arms, baseline, AXIS), title, f"{of.name}p")
    seeds = max(len(per_seed) for *_, per_seed in arms.values())
    rows = [[arm, *map(score, per_seed)] for arm, (*_, per_seed) in arms.items()]
    table = plain_table(
        f"{AXIS} of every seed", ["trained on", *(f"seed {i + 1}" for i in range(seeds))], rows
    )
    caption = "Point and bar: mean and standard deviation over seeds. Strokes: every seed. Dashed: real pairs alone."
    return Plot(svg, caption, Tabular(table, f"{of.name}n", "Every seed"))


def _definitions(scope: Scope) -> Tabular:
    found = {
        name: text
        for o in scope.outcomes
        if o.segmentation
        for name, text in o.segmentation.definitions.items()
    }
    rows = [[TITLES.get(name, name), text] for name, text in found.items()]
    return Tabular(
        words_table("What the scores are", ["name", "definition"], rows), "defs", "What the scores are"
    )


def _missing(label: str, why: str) -> str:
    of = f"Of {label}, segmentation" if label else "Segmentation"
    return f"{of} {why}: whether these synthetic pairs help a segmenter is not known. jobs/segment.py measures it."


def folds_section(scope: Scope) -> Section | None:
    """Dice against the number of folds; None where no setting has two points."""
    segmentations = {o.setting.name: o.segmentation for o in scope.outcomes if o.segmentation is not None}
    lines = fold_lines(segmentations)
    if not lines:
        return None
    said = "; ".join(
        f"{name}: " + ", ".join(f"{folds} folds {score(mean)}" for folds, mean, _ in points)
        for name, points in lines.items()
    )
    folds = sorted({point[0] for points in lines.values() for point in points})
    rows = []
    for name, points in lines.items():
        of = {k: score(mean, deviation) for k, mean, deviation in points}
        rows.append([name, *(of.get(k, score(None)) for k in folds)])
    titles = ["", *("real alone" if k == 0 else f"real +{k}" for k in folds)]
    table = plain_table(f"{AXIS} by number of synthetic folds", titles, rows)
    svg = inline(plots.fold_sweep(lines, AXIS), f"{AXIS} by number of folds. {said}", "foldsp")
    caption = (
        f"A fold is one synthetic pair for every training mask. {_kinds(scope, max(folds))}Bars: standard "
    )
    caption += "deviation over seeds."
    return Section(
        "folds", "How many folds?", [Plots([Plot(svg, caption, Tabular(table, "foldsn", "The numbers"))])]
    )


def _kinds(scope: Scope, folds: int) -> str:
    """From which masks the first folds of each set were made, as far as the sets say; "" where none does."""
    found: dict[tuple[str, ...], list[str]] = {}
    for outcome in scope.outcomes:
        sets = outcome.segmentation.sets.synthetic if outcome.segmentation is not None else {}
        for name, info in sets.items():
            settings = (info.made_from.get("plan") or {}).get("settings") or {}
            masks, count = settings.get("fold_masks") or (), min(folds, settings.get("folds", 0))
            kinds = tuple(_MASKS[masks[i % len(masks)]] for i in range(count if masks else 0))
            if kinds:
                parts = [scope.label(outcome), name if len(sets) > 1 else ""]
                found.setdefault(kinds, []).append(", ".join(part for part in parts if part))
    told = [
        f"{', '.join(kinds)} ({'; '.join(names)})" if len(found) > 1 else ", ".join(kinds)
        for kinds, names in found.items()
    ]
    if not told:
        return ""
    mixed = any(len(set(kinds)) > 1 for kinds in found)
    change = "So the kind of mask changes with the number of folds. " if mixed else ""
    return f"Masks of the folds, in order: {' / '.join(told)}. {change}"


def settings_section(scope: Scope) -> Section | None:
    """The settings beside each other (Tables 5 and 6); None where there is one."""
    if len(scope.outcomes) < 2:
        return None
    figures = _figures(scope)
    names = list(dict.fromkeys(name for of in figures.values() for name in of))
    lines = []
    for outcome in scope.outcomes:
        of = figures.get(outcome.setting.name, {})
        cells = [_figure_cell(of.get(name)) for name in names]
        head = Cell(outcome.setting.name, (outcome.setting.meaning, *_other_set(outcome)))
        lines.append(Line(head, [*_arm_cells(outcome), *cells]))
    firsts = [next(of[name] for of in figures.values() if name in of) for name in names]
    arrows = [f"{_title(f)} {_arrow(f.higher_is_better)}" for f in firsts]
    titles = ["setting", f"{TITLES[SHOWN_P]} {_arrow(True)}", "against real alone", "p", *arrows]
    table = Table(
        "What each setting is and what came of it: the arm with most synthetic folds, and figures with 95% intervals",
        titles,
        lines,
    )
    parts: list[Block] = [Tabular(table, "settingst")]
    drawn = [_settings_plot(f, figures) for f in firsts[:2]]
    return Section("settings", "Settings beside each other", [*parts, Plots(drawn)] if drawn else parts)


def _figures(scope: Scope) -> dict[str, dict[str, Figure]]:
    """Setting -> figures by name, of its own set."""
    found: dict[str, dict[str, Figure]] = {}
    for outcome in scope.outcomes:
        if (name := own_result(outcome)) is not None and outcome.evaluation is not None:
            figures = outcome.evaluation.results[name].figures
            found[outcome.setting.name] = {figure.name: figure for figure in figures}
    return found


def _other_set(outcome: Outcome) -> list[str]:
    """Whose figures stand for a setting whose own set was not compared."""
    name, evaluation = own_result(outcome), outcome.evaluation
    if name is None or evaluation is None:
        return []
    is_own = evaluation.sets.synthetic[name].uri == outcome.setting.outputs.get("generate")
    return [] if is_own else [f"figures of {name}"]


def _title(figure: Figure) -> str:
    """Of a column: the kind of figure, and the name that tells networks apart."""
    kind = figure_name(figure)
    return kind if kind.lower() == figure.name else f"{kind} ({figure.name})"


def arm_with_most_folds(outcome: Outcome) -> Row | None:
    """The arm with the most synthetic folds of the setting's own set beside the real pairs, else that of synthetic
    pairs alone; of the first network."""
    segmentation = outcome.segmentation
    if segmentation is None:
        return None
    sets = segmentation.sets.synthetic
    own = own_set(outcome.setting, {name: info.uri for name, info in sets.items()}) if sets else ""
    test, network = main_test(segmentation), segmentation.results[0].network
    fed = []
    for row in segmentation.results:
        base, _, of_set = row.arm.partition(" ")
        arm = parse_arm(base)
        is_fed = arm.base == SYNTHETIC or (arm.base == REAL and arm.folds > 0)
        if is_fed and of_set in ("", own) and (row.test, row.network) == (test, network):
            fed.append((arm, row))
    return max(fed, key=lambda of: (of[0].base == REAL, of[0].folds))[1] if fed else None


def arm_title(outcome: Outcome, row: Row) -> str:
    """The arm's name, with its network where there are several."""
    segmentation = outcome.segmentation
    several = segmentation is not None and len({of.network for of in segmentation.results}) > 1
    return f"{row.arm}, {row.network}" if several else row.arm


def _arm_cells(outcome: Outcome) -> list[Cell]:
    row = arm_with_most_folds(outcome)
    if row is None:
        return [Cell(score(None))] * 3
    of = row.scores[SHOWN_P]
    against = of.against_baseline
    return [
        Cell(score(of.mean, of.deviation), (arm_title(outcome, row),)),
        Cell(
            difference(against.difference if against else None),
            mixed_words(row, SHOWN_P),
            mark_of(row, SHOWN_P),
        ),
        Cell(p_value(against.p if against else None)),
    ]


def _figure_cell(figure: Figure | None) -> Cell:
    if figure is None:
        return Cell(number(None))
    interval = figure.interval
    return Cell(
        number(figure.value), (f"{number(interval[0])} to {number(interval[1])}",) if interval else ()
    )


def _settings_plot(first: Figure, figures: Mapping[str, Mapping[str, Figure]]) -> Plot:
    of = {setting: found[first.name] for setting, found in figures.items() if first.name in found}
    rows = {setting: (f.value, f.interval) for setting, f in of.items()}
    axis = f"{figure_name(first)} ({'higher' if first.higher_is_better else 'lower'} is better)"
    said = ", ".join(f"{setting} {number(f.value)}" for setting, f in of.items())
    name = short_id("settings", first.name)
    svg = inline(plots.settings_plot(rows, axis, first.floor), f"{axis}: {said}", f"{name}p")
    numbers = [[setting, number(f.value), number(f.floor)] for setting, f in of.items()]
    table = plain_table(axis, ["setting", "value", "real against real"], numbers)
    caption = f"{_title(first)}. Bar: 95% interval. Dashed: the same of real against real."
    return Plot(svg, caption, Tabular(table, f"{name}n", "The numbers"))


def _arrow(higher_is_better: bool) -> str:
    return "\N{UPWARDS ARROW}" if higher_is_better else "\N{DOWNWARDS ARROW}"
