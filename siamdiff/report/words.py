"""The page's summary: what the numbers say, in sentences, and what they do not."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from siamdiff.report.blocks import Card
from siamdiff.report.helps import Arms, blocks_of, main_test
from siamdiff.report.scope import TRAIN, Scope, View, own_result
from siamdiff.report.stages import Agreement, Figure, Row
from siamdiff.report.tables import (
    ALPHA,
    difference,
    figure_name,
    mark_of,
    mixed_words,
    number,
    p_value,
    score,
    verdict,
)
from siamdiff.sections.evaluate import SYNTHETIC
from siamdiff.sections.segment import REAL, parse_arm
from siamdiff.segmentation.table import SHOWN_P, TITLES

DICE = TITLES[SHOWN_P]
_LOW = 0.5  # of its ceiling, at which an agreement is called low
_EACH = 2  # sets that are told of one by one; more in ranges, and arms at once


@dataclass(frozen=True)
class _Compared:
    """An arm that was compared with its baseline."""

    name: str  # with setting and network, as far as there are several
    row: Row
    baseline: Row

    @property
    def is_made(self) -> bool:
        """Whether there are synthetic pairs in it."""
        return _is_made(self.row)

    @property
    def difference(self) -> float:
        """Of the means."""
        against = self.row.scores[SHOWN_P].against_baseline
        return against.difference if against and against.difference is not None else 0.0

    @property
    def spread(self) -> float | None:
        """The standard deviations over seeds of the arm and its baseline, together; None: one seed has none."""
        both = [row.scores[SHOWN_P].deviation for row in (self.row, self.baseline)]
        known = [deviation for deviation in both if deviation is not None]
        return sum(known) if len(known) == len(both) else None

    @property
    def verdict(self) -> str:
        """As siamdiff.report.tables.verdict."""
        return verdict(self.row, SHOWN_P)

    def told(self) -> str:
        """Name, difference and p."""
        return f"{self.name}, {self.numbers()}"

    def numbers(self) -> str:
        """Difference and p, and in which way it is mixed."""
        against = self.row.scores[SHOWN_P].against_baseline
        mixed = [
            f"{against.better} images gain, {against.worse} lose: {text}"
            for text in mixed_words(self.row, SHOWN_P)
            if against
        ]
        return f"{difference(self.difference)} ({'; '.join([_p_told(self.row), *mixed])})"


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
    """The figures that are seen first: the first baseline, the best arm with synthetic pairs, a setting's own set."""
    found: list[Card] = []
    arms = _main(scope)
    for row in [row for of in arms for row in of.rows if row.arm == of.baseline][:1]:
        dice = row.scores[SHOWN_P]
        found.append(Card("real pairs alone", score(dice.mean), f"{DICE}, {dice.images} test images"))
    compared = _compared(arms)
    if made := [one for one in compared if one.is_made]:
        found.append(_best_card(made, len(compared)))
    owns = [view for view in scope.views if view.name == own_result(view.outcome)]
    for view in owns[:1]:
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


def _compared(arms: Sequence[Arms]) -> list[_Compared]:
    """Every arm with a p; one without synthetic pairs, whose trainings settings share, once for all of them."""
    found: dict[tuple[str, ...], _Compared] = {}
    several = len({of.network for of in arms}) > 1
    for of in arms:
        baseline = next((row for row in of.rows if row.arm == of.baseline), None)
        for row in of.rows:
            if baseline is None or _p(row) is None:
                continue
            parts = [of.label] if of.label and (_is_made(row) or not _is_shared(row, of, arms)) else []
            parts += [of.network] if several else []
            name = f"{row.arm} ({', '.join(parts)})" if parts else row.arm
            values = row.scores[SHOWN_P].model_dump_json()
            key = (of.network, of.test, row.arm, of.label if _is_made(row) else values)
            found.setdefault(key, _Compared(name, row, baseline))
    return list(found.values())


def _is_shared(row: Row, of: Arms, arms: Sequence[Arms]) -> bool:
    """Whether the arm has the same score wherever its network was trained."""
    alike = [other for other in arms if (other.network, other.test) == (of.network, of.test)]
    scores = [one.scores[SHOWN_P] for other in alike for one in other.rows if one.arm == row.arm]
    return all(score == row.scores[SHOWN_P] for score in scores)


def _is_made(row: Row) -> bool:
    arm = parse_arm(row.arm.partition(" ")[0])
    return arm.base == SYNTHETIC or (arm.base == REAL and arm.folds > 0)


def _helps(scope: Scope) -> list[str]:
    arms = _main(scope)
    if not arms:
        return ["Whether the synthetic pairs help a segmenter was not measured."]
    compared = _compared(arms)
    sentences = list(
        dict.fromkeys(_baseline(of, row) for of in arms for row in of.rows if row.arm == of.baseline)
    )
    sentences += _made([one for one in compared if one.is_made])
    sentences += [
        f"Copies of the real pairs, nothing new, ({one.name}) are at {one.numbers()}."
        for one in compared
        if not one.is_made
    ]
    sentences += _caveats(compared)
    if any(o.segmentation is not None and not o.segmentation.patient_separated for o in scope.outcomes):
        sentences.append("The splits are not patient-separated: images of one patient may lie on both sides.")
    return sentences


def _made(made: Sequence[_Compared]) -> list[str]:
    """What arms with synthetic pairs do."""
    good, bad, mixed = ([one for one in made if one.verdict == kind] for kind in ("good", "bad", "mixed"))
    sentences = []
    if good:
        ordered = sorted(good, key=lambda one: one.difference, reverse=True)
        sentences.append(f"Significantly better with synthetic pairs, image by image: {_list(ordered)}.")
    elif len(bad) < len(made):
        best = max(made, key=lambda one: one.difference)
        mixed = [one for one in mixed if one is not best]  # of which it is said here
        sentences.append(
            f"No training set with synthetic pairs does significantly better: the best, {best.name}, is at "
            f"{best.numbers()}. So a benefit is not shown on these images and seeds."
        )
    if mixed:
        sentences.append(f"Neither better nor worse, though significantly different: {_list(mixed)}.")
    if bad:
        every = "Every training set with synthetic pairs does significantly worse"
        sentences.append(f"{every if len(bad) == len(made) else 'Significantly worse'}: {_list(bad)}.")
    return sentences


def _list(several: Sequence[_Compared]) -> str:
    return "; ".join(one.told() for one in several)


def _caveats(compared: Sequence[_Compared]) -> list[str]:
    """What p does not say, of whatever is significant."""
    sentences = []
    significant = [one for one in compared if one.verdict]
    if significant and len(compared) > 1:
        limit = ALPHA / len(compared)
        safe = [one.name for one in significant if _is_below(one, limit)]
        held = f"{', '.join(safe)} {'is' if len(safe) == 1 else 'are'} below it"
        if not safe:
            held = "none is below it"
        elif len(safe) == len(significant) > _EACH:
            held = f"all {len(safe)} that are significant are below it"
        sentences.append(
            f"p is not corrected for {len(compared)} comparisons; the limit would then be {limit:.3g} (Bonferroni): "
            f"{held}."
        )
    within = [one.name for one in significant if one.spread is not None and abs(one.difference) < one.spread]
    if within:
        differ = "differs" if len(within) == 1 else "differ"
        sentences.append(
            f"p is of other test images, not of other trainings: {', '.join(within)} {differ} from real pairs "
            "alone by less than the seeds do among themselves."
        )
    if any(one.spread is None for one in compared):
        sentences.append("One seed: the spread of trainings is not known, and p says nothing of it.")
    if compared:
        sentences.append(
            "The test counts images of one patient as independent, so p is too small where patients have several."
        )
    return sentences


def _is_below(one: _Compared, limit: float) -> bool:
    p = _p(one.row)
    return p is not None and p < limit


def _best_card(made: Sequence[_Compared], count: int) -> Card:
    """Of the best arm with synthetic pairs, one of `count` that were compared: good or bad if it is so among them."""
    best = max(made, key=lambda one: one.difference)
    mark = mark_of(best.row, SHOWN_P)
    if not best.verdict:
        said = "not significant"
    elif not mark:
        said = f"significant, but {mixed_words(best.row, SHOWN_P)[0]}"
    elif count == 1:
        said = "significant"
    elif _is_below(best, ALPHA / count):
        said = f"significant, also among {count} comparisons"
    else:
        said, mark = f"significant alone, not among {count} comparisons", ""
    told = f"{DICE}, {_p_told(best.row)}: {said}"
    return Card(f"best with synthetic pairs: {best.name}", difference(best.difference), told, mark)


def _baseline(of: Arms, row: Row) -> str:
    dice = row.scores[SHOWN_P]
    seeds = "1 seed" if row.seeds == 1 else f"{row.seeds} seeds"
    images = f"{dice.images} test images, {seeds}"
    return f"Trained on real pairs alone, {of.network} reaches {DICE} {score(dice.mean, dice.deviation)} ({images})."


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
        told.append(
            f"{images} are copies of training images by the evaluation's limits, {_base_rate(result.copies.by_chance)}"
        )
    text = "; ".join(told)
    return f"{of + ': ' if of else ''}{text if of else text[:1].upper() + text[1:]}." if told else ""


def _base_rate(by_chance: float | None) -> str:
    """What a rate of copies has to be read beside."""
    if by_chance is None:
        return "which too few groups have set: it is not known"
    return f"and up to {by_chance:.1%} of new real images would be"


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
    rates = {v.label: c.rate for v in views if (c := v.result.copies) is not None and c.by_chance is not None}
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
        images = f"{copies.count:,} of {view.result.count:,} images; {_base_rate(copies.by_chance)}"
        found.append(Card(f"copies of training images{beside}", f"{copies.rate:.1%}", images))
    return found


def _first(figures: Sequence[Figure]) -> Figure | None:
    """The figure that stands for all: FID where there is one."""
    return next((figure for figure in figures if figure.name == "fid"), figures[0] if figures else None)


def _p_told(row: Row) -> str:
    p = p_value(_p(row))
    return f"p {p}" if p.startswith("<") else f"p = {p}"


def _p(row: Row) -> float | None:
    against = row.scores[SHOWN_P].against_baseline
    return against.p if against else None
