"""The figures of an experiment as files of their own, for papers and slides: SVG beside the tables."""

from collections.abc import Sequence

from siamdiff.report import plots
from siamdiff.report.helps import AXIS, arm_title, arm_with_most_folds, fold_lines, main_test
from siamdiff.report.record import ExperimentRecord
from siamdiff.report.scope import Scope
from siamdiff.report.stages import Outcome, Segmentation
from siamdiff.segmentation.table import SHOWN_P

FOLDS, SETTINGS = "folds.svg", "settings.svg"


def figures_of(record: ExperimentRecord) -> dict[str, str]:
    """File name -> SVG text: Dice against folds (Fig. 7), and Dice of every setting (Tables 5 and 6), where there are
    at least two points to draw.

    Raises:
        SiamdiffError: something that a stage left is damaged.
    """
    outcomes = Scope.of(record, share=False).outcomes
    segmentations = {o.setting.name: o.segmentation for o in outcomes if o.segmentation is not None}
    found = {}
    if lines := fold_lines(segmentations):
        found[FOLDS] = plots.fold_sweep(lines, AXIS)
    if len(settings := _settings(outcomes)) > 1:
        baselines = {_baseline(of) for of in segmentations.values()}
        shared = baselines.pop() if len(baselines) == 1 else None
        found[SETTINGS] = plots.arm_scores(settings, shared, AXIS)
    return found


def _settings(outcomes: Sequence[Outcome]) -> dict[str, tuple[float, float | None, list[float]]]:
    """Setting -> mean, deviation and every seed of the arm with the most synthetic pairs."""
    found = {}
    for outcome in outcomes:
        row = arm_with_most_folds(outcome)
        if row is None:
            continue
        dice = row.scores[SHOWN_P]
        if dice.mean is not None:
            name = f"{outcome.setting.name}, {arm_title(outcome, row)}"
            found[name] = dice.mean, dice.deviation, dice.per_seed
    return found


def _baseline(of: Segmentation) -> float | None:
    """Dice of real pairs alone."""
    rows = [row for row in of.results if row.arm == of.baseline and row.test == main_test(of)]
    return rows[0].scores[SHOWN_P].mean if rows else None
