"""The page's summary: what the numbers say, in sentences, and what they do not."""

from collections.abc import Callable, Sequence

from siamdiff.report.blocks import Card
from siamdiff.report.helps import Arms, blocks_of, main_test
from siamdiff.report.scope import TRAIN, Scope, View
from siamdiff.report.stages import Agreement, Figure, Row
from siamdiff.report.tables import difference, figure_name, number, p_value, score, verdict
from siamdiff.sections.segment import COPY_PASTE
from siamdiff.segmentation.table import SHOWN_P, TITLES

DICE = TITLES[SHOWN_P]
ALPHA = 0.05
_LOW = 0.5  # of its ceiling, at which an agreement is called low
_EACH = 2  # sets that are told of one by one; more in ranges


def title(scope: Scope) -> str:
    """What the experiment is about."""
    prompts = {shards.manifest.made_from.get("data.prompt") for shards in scope.real_sets.values()}
    prompt = next(iter(prompts)) if len(prompts) == 1 else None
    return f"Synthetic pairs: {prompt}" if prompt else "Synthetic pairs of images and masks"


def subtitle(scope: Scope) -> str:
    """Sizes, in one line."""
    parts = [f"experiment {scope.record.inputs_digest[:12]}"]
    for shards in list(scope.real_sets.values())[:1]:
        manifest = shards.manifest
        parts.append(f"{manifest.resolution} x {manifest.resolution} pixels")
        parts.append(f"{manifest.splits.get(TRAIN, 0):,} real training pairs")
    counts = sorted({view.result.count for view in scope.views})
    parts += [f"{' or '.join(f'{count:,}' for count in counts)} synthetic pairs"] if counts else []
    parts += [f"{len(scope.outcomes)} settings"] if len(scope.outcomes) > 1 else []
    return " \N{MIDDLE DOT} ".join(parts)


def summary(scope: Scope) -> list[str]:
    """Sentences, the most important first."""
    if all(outcome.evaluation is None and outcome.segmentation is None for outcome in scope.outcomes):
        return ["Nothing has been measured yet: there is neither an evaluation nor a segmentation."]
    demo = "This is a demonstration on drawn phantoms: its numbers say nothing about real images."
    return [*([demo] if scope.demo else []), *_helps(scope), *_looks(scope.views)]


def cards(scope: Scope) -> list[Card]:
    """The figures that are seen first: of the first baseline, the best arm with synthetic pairs, the first set."""
    found: list[Card] = []
    arms = _main(scope)
    for row in [row for of in arms for row in of.rows if row.arm == of.baseline][:1]:
        dice = row.scores[SHOWN_P]
        found.append(Card("real pairs alone", score(dice.mean), f"{DICE}, {dice.images} test images"))
    compared = [pair for pair in _compared(arms) if not pair[1].arm.startswith(COPY_PASTE)]
    if compared:
        of, row = max(compared, key=lambda pair: _difference(pair[1]))
        mark = verdict(row, SHOWN_P)
        told = f"{DICE}, {_p_told(row)}: {'significant' if mark else 'not significant'}"
        found.append(
            Card(f"best with synthetic pairs: {_named(of, row)}", difference(_difference(row)), told, mark)
        )
    for view in scope.views[:1]:
        found += _set_cards(view, of=view.label if len(scope.views) > 1 else "")
    return found


def warnings(scope: Scope) -> list[tuple[str, str]]:
    """What the stages warned of, each once, with the stage and the settings that did."""
    found: dict[tuple[str, str], list[str]] = {}
    for outcome in scope.outcomes:
        for name, of in (("evaluation", outcome.evaluation), ("segmentation", outcome.segmentation)):
            for warning in dict.fromkeys(of.warnings if of is not None else []):
                found.setdefault((name, warning), []).append(scope.label(outcome))
    return [
        (f"{stage} ({', '.join(labels)})" if any(labels) else stage, text)
        for (stage, text), labels in found.items()
    ]


def _main(scope: Scope) -> list[Arms]:
    """The arms of every setting and network on the test set that stands for all."""
    tests = {main_test(o.segmentation) for o in scope.outcomes if o.segmentation is not None}
    return [of for of in blocks_of(scope) if of.test in tests and of.baseline]


def _compared(arms: Sequence[Arms]) -> list[tuple[Arms, Row]]:
    return [(of, row) for of in arms for row in of.rows if _p(row) is not None]


def _helps(scope: Scope) -> list[str]:
    arms = _main(scope)
    if not arms:
        return ["Whether the synthetic pairs help a segmenter was not measured."]
    compared = _compared(arms)
    made = [pair for pair in compared if not pair[1].arm.startswith(COPY_PASTE)]
    good = [pair for pair in made if verdict(pair[1], SHOWN_P) == "good"]
    bad = [pair for pair in made if verdict(pair[1], SHOWN_P) == "bad"]
    sentences = list(
        dict.fromkeys(_baseline(of, row) for of in arms for row in of.rows if row.arm == of.baseline)
    )
    if good:
        sentences += _better(good, len(compared))
    elif made and len(bad) < len(made):
        of, row = max(made, key=lambda pair: _difference(pair[1]))
        best = f"the best, {_named(of, row)}, is at {_told(row)}"
        sentences.append(
            f"No training set with synthetic pairs does significantly better: {best}. "
            "So a benefit is not shown on these images and seeds."
        )
    if bad:
        every = "Every training set with synthetic pairs does significantly worse"
        worse = "; ".join(f"{_named(of, row)}, {_told(row)}" for of, row in bad)
        sentences.append(f"{every if len(bad) == len(made) else 'Significantly worse'}: {worse}.")
    for of, row in compared:
        if row.arm.startswith(COPY_PASTE):
            sentences.append(
                f"Copies of the real pairs, nothing new, ({_named(of, row)}) are at {_told(row)}."
            )
    if any(o.segmentation is not None and not o.segmentation.patient_separated for o in scope.outcomes):
        sentences.append("The splits are not patient-separated: images of one patient may lie on both sides.")
    return sentences


def _baseline(of: Arms, row: Row) -> str:
    dice = row.scores[SHOWN_P]
    seeds = "1 seed" if row.seeds == 1 else f"{row.seeds} seeds"
    images = f"{dice.images} test images, {seeds}"
    return f"Trained on real pairs alone, {of.network} reaches {DICE} {score(dice.mean, dice.deviation)} ({images})."


def _better(good: Sequence[tuple[Arms, Row]], compared: int) -> list[str]:
    good = sorted(good, key=lambda pair: _difference(pair[1]), reverse=True)
    told = "; ".join(f"{_named(of, row)}, {_told(row)}" for of, row in good)
    sentences = [f"Significantly better with synthetic pairs, image by image: {told}."]
    if compared > 1:
        limit = ALPHA / compared
        safe = [_named(of, row) for of, row in good if (_p(row) or 0.0) < limit]
        held = (
            f"{', '.join(safe)} {'is' if len(safe) == 1 else 'are'} below it" if safe else "none is below it"
        )
        sentences.append(
            f"p is not corrected for {compared} comparisons; the limit would then be {limit:.3g} (Bonferroni): {held}."
        )
    within = [_named(of, row) for of, row in good if _difference(row) < _spread(of, row)]
    if within:
        sentences.append(
            f"p is of other test images, not of other trainings: {', '.join(within)} {_differ(within)} from real pairs "
            "alone by less than the seeds do among themselves."
        )
    return sentences


def _differ(names: Sequence[str]) -> str:
    return "differs" if len(names) == 1 else "differ"


def _spread(of: Arms, row: Row) -> float:
    """The standard deviations over seeds of an arm and its baseline, together."""
    rows = [row, *(other for other in of.rows if other.arm == of.baseline)]
    return sum(one.scores[SHOWN_P].deviation or 0.0 for one in rows)


def _looks(views: Sequence[View]) -> list[str]:
    if len(views) > _EACH:
        return _ranges(views)
    return [sentence for view in views if (sentence := _look(view, view.label if len(views) > 1 else ""))]


def _look(view: View, of: str) -> str:
    result = view.result
    told = []
    agreement = result.mask_agreement
    if agreement is not None and agreement.synthetic is not None:
        ceiling = "" if agreement.real is None else f", on held-out real pairs {agreement.real:.2f}"
        told.append(f"mask agreement (Dice) is {agreement.synthetic:.2f}{ceiling}{_reading(agreement)}")
    if first := _first(result.figures):
        floor = "" if first.floor is None else f", that of real images among themselves {number(first.floor)}"
        told.append(f"the {figure_name(first)} is {number(first.value)}{floor}")
    if result.copies is not None:
        images = f"{result.copies.count:,} of {result.count:,} images ({result.copies.rate:.1%})"
        told.append(f"{images} are copies of training images by the evaluation's limits")
    text = "; ".join(told)
    return f"{of + ': ' if of else ''}{text if of else text[:1].upper() + text[1:]}." if told else ""


def _reading(agreement: Agreement) -> str:
    """What a low agreement means."""
    if not agreement.real or (agreement.synthetic or 0.0) > _LOW * agreement.real:
        return ""
    return ": the lesion often is not found where the mask says"


def _ranges(views: Sequence[View]) -> list[str]:
    agreements = {v.label: v.result.mask_agreement for v in views}
    dice = {
        label: of.synthetic for label, of in agreements.items() if of is not None and of.synthetic is not None
    }
    firsts = {view.label: first for view in views if (first := _first(view.result.figures))}
    same = {label: f.value for label, f in firsts.items() if f.name == next(iter(firsts.values())).name}
    rates = {view.label: view.result.copies.rate for view in views if view.result.copies is not None}
    told = [f"Of {len(views)} sets"]
    told += [f"mask agreement (Dice) {_range(dice, '{:.2f}'.format)}"] if dice else []
    told += [f"the {figure_name(next(iter(firsts.values())))} {_range(same, number)}"] if same else []
    told += [f"the share of copies {_range(rates, '{:.1%}'.format)}"] if rates else []
    return [f"{told[0]}, {'; '.join(told[1:])}."] if told[1:] else []


def _range(values: dict[str, float], written: Callable[[float], str]) -> str:
    least, most = min(values, key=lambda of: values[of]), max(values, key=lambda of: values[of])
    if written(values[least]) == written(values[most]):
        return f"is {written(values[least])}"
    return f"goes from {written(values[least])} ({least}) to {written(values[most])} ({most})"


def _set_cards(view: View, of: str) -> list[Card]:
    found = []
    beside = f", {of}" if of else ""
    agreement = view.result.mask_agreement
    if agreement is not None and agreement.synthetic is not None:
        real = (
            "no held-out real pairs" if agreement.real is None else f"real pairs reach {agreement.real:.2f}"
        )
        found.append(Card(f"mask agreement{beside}", f"{agreement.synthetic:.2f}", real))
    if first := _first(view.result.figures):
        floor = f"real against real {number(first.floor)}"
        found.append(Card(f"{figure_name(first)}{beside}", number(first.value), floor))
    if (copies := view.result.copies) is not None:
        images = f"{copies.count:,} of {view.result.count:,} images"
        found.append(Card(f"copies of training images{beside}", f"{copies.rate:.1%}", images))
    return found


def _first(figures: Sequence[Figure]) -> Figure | None:
    """The figure that stands for all: FID where there is one."""
    return next((figure for figure in figures if figure.name == "fid"), figures[0] if figures else None)


def _named(of: Arms, row: Row) -> str:
    return f"{row.arm} ({of.label})" if of.label else row.arm


def _told(row: Row) -> str:
    return f"{difference(_difference(row))} ({_p_told(row)})"


def _p_told(row: Row) -> str:
    p = p_value(_p(row))
    return f"p {p}" if p.startswith("<") else f"p = {p}"


def _difference(row: Row) -> float:
    against = row.scores[SHOWN_P].against_baseline
    return against.difference if against and against.difference is not None else 0.0


def _p(row: Row) -> float | None:
    against = row.scores[SHOWN_P].against_baseline
    return against.p if against else None
