"""The summary says what the numbers say, and no more."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from siamdiff import storage
from siamdiff.report import words
from siamdiff.report.helps import fold_lines
from siamdiff.report.making import MEANING
from siamdiff.report.record import Setting, read_experiment
from siamdiff.report.scope import Scope
from siamdiff.report.stages import Comparison, Row, Score, Segmentation
from siamdiff.report.tables import p_value, scores_table, verdict
from siamdiff.segmentation.table import SHOWN_P
from tests.report.experiments import write_experiment, write_record

LITTLE = 0.001  # as p


def summary(folder: Path, gains: dict[str, float], noise: float = 0.0) -> str:
    """Of an experiment with those gains, whose two seeds are `noise` above and below."""
    uri = write_experiment(folder, gains=gains, noise=noise)
    return " ".join(words.summary(Scope.of(read_experiment(uri), share=False)))


Told = Callable[..., tuple[str, Scope]]


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of a segmentation with four arms."""
    folder = tmp_path_factory.mktemp("segmentation")
    arms: dict[str, float] = {"real": 0.0, "real+1": 0.0, "real+2": 0.0, "copy-paste": 0.0}
    write_experiment(folder, gains=arms)
    return storage.read_json(f"{folder}/segmentation/0/metrics.json")


@pytest.fixture
def told_of(metrics: dict[str, Any], tmp_path: Path) -> Told:
    """A function: the summary of an experiment whose arms have these comparisons, and what it is made from."""

    def tell(
        against: dict[str, tuple[float, float, int, int]],
        settings: int = 1,
        seeds: int = 2,
        deviation: float | None = 0.0001,
        separated: bool = False,
    ) -> tuple[str, Scope]:
        """`against`: difference, p, images better and worse of arms; those that are not named are left out."""
        rows = [row for row in metrics["results"] if row["arm"] in {"real", *against}]
        made = []
        for i in range(settings):
            results = []
            for row in rows:
                dice = {"mean": 0.7, "deviation": deviation, "per_seed": [0.7] * seeds, "images": 100}
                if values := against.get(row["arm"]):
                    fields = ("difference", "p", "better", "worse")
                    dice["against_baseline"] = dict(zip(fields, values, strict=True))
                results.append(row | {"seeds": seeds, "scores": {SHOWN_P: dice}})
            of = {"results": results, "inputs_digest": f"{i}" * 64, "patient_separated": separated}
            storage.write_json(f"{tmp_path}/{i}/metrics.json", metrics | of)
            outputs: Any = {"segment": f"{tmp_path}/{i}"}
            made.append(Setting(name=f"table5-{i}", meaning="", fields={}, outputs=outputs, seconds={}))
        scope = Scope.of(read_experiment(write_record(f"{tmp_path}/record", made)), share=False)
        return " ".join(words.summary(scope)), scope

    return tell


def row_of(difference: float, p: float, better: int, worse: int) -> Row:
    against = Comparison(difference=difference, p=p, better=better, worse=worse)
    score = Score(mean=0.7, deviation=0.01, per_seed=[0.7], images=100, against_baseline=against)
    scores = {SHOWN_P: score}
    return Row(network="unet", arm="real+1", test="test", seeds=2, training_pairs=8, scores=scores)


def segmentations(folder: Path, gains: dict[str, float]) -> dict[str, Segmentation]:
    scope = Scope.of(read_experiment(write_experiment(folder, gains=gains)), share=False)
    return {o.setting.name: o.segmentation for o in scope.outcomes if o.segmentation is not None}


def test_what_is_better_is_named_with_its_p_and_how_many_were_tried(tmp_path: Path):
    told = summary(tmp_path, {"real": 0.0, "real+1": 0.05, "real+2": 0.02})
    assert "Significantly better with synthetic pairs, image by image: real+1, +0.0" in told
    assert told.index("real+1") < told.index("real+2")
    assert (
        "not corrected for 2 comparisons; the limit would then be 0.025 (Bonferroni): real+1, real+2 are"
        in told
    )
    assert "worse" not in told


def test_no_difference_is_said_plainly(tmp_path: Path):
    told = summary(tmp_path, {"real": 0.0, "real+1": 0.0, "real+2": -0.02})
    assert "No training set with synthetic pairs does significantly better: the best, real+1, is at" in told
    assert "a benefit is not shown on these images and seeds" in told
    assert "Significantly worse: real+2, " in told


def test_copies_that_help_are_no_benefit_of_synthetic_pairs(tmp_path: Path):
    told = summary(tmp_path, {"real": 0.0, "real+1": -0.05, "copy-paste": 0.05})
    assert "Every training set with synthetic pairs does significantly worse: real+1, " in told
    assert "Copies of the real pairs, nothing new, (copy-paste) are at +0.0" in told
    assert "better" not in told


def test_a_difference_within_the_seeds_spread_is_said(tmp_path: Path):
    told = summary(tmp_path, {"real": 0.0, "real+1": 0.01, "real+2": 0.2}, noise=0.02)
    assert "not of other trainings: real+1 differs from real pairs alone by less than the seeds" in told


@pytest.mark.parametrize(
    ("difference", "p", "better", "worse", "expected"),
    [
        (0.0094, LITTLE, 88, 12, "good"),
        (-0.0094, LITTLE, 12, 88, "bad"),
        (0.0094, LITTLE, 12, 88, "mixed"),
        (-0.0094, LITTLE, 88, 12, "mixed"),
        (0.0094, LITTLE, 50, 50, "mixed"),
        (0.0094, 0.05, 88, 12, ""),
    ],
)
def test_better_is_better_on_average_and_on_most_images(
    difference: float, p: float, better: int, worse: int, expected: str
):
    row = row_of(difference, p, better, worse)
    assert verdict(row, SHOWN_P) == expected
    cell = scores_table([row], "real").lines[0].cells[1]
    assert cell.mark == (expected if expected != "mixed" else "")
    assert any(" images gain " in line for line in cell.below) == (expected == "mixed")


def test_what_most_images_contradict_is_neither_better_nor_worse(told_of: Told):
    told, scope = told_of({"real+1": (0.0094, LITTLE, 12, 88), "real+2": (0.02, LITTLE, 90, 10)})
    assert "Significantly better with synthetic pairs, image by image: real+2, +0.020 (p = 0.001). " in told
    mixed = "real+1, +0.009 (p = 0.001; 12 images gain, 88 lose: fewer images gain than lose, but by more)"
    assert f"Neither better nor worse, though significantly different: {mixed}." in told
    alone, scope = told_of({"real+1": (0.0094, LITTLE, 12, 88)})
    assert "No training set with synthetic pairs does significantly better: the best, real+1, is at" in alone
    best = next(card for card in words.cards(scope) if card.label.startswith("best"))
    assert best.mark == "" and "fewer images gain than lose" in best.below


def test_arms_without_synthetic_pairs_are_compared_once_for_all_settings(told_of: Told):
    against = {"copy-paste": (0.02, 0.009, 60, 30), "real+1": (-0.1, LITTLE, 5, 90)}
    told, _ = told_of(against, settings=3)
    assert told.count("Copies of the real pairs") == 1
    assert "nothing new, (copy-paste) are at" in told
    assert "not corrected for 4 comparisons; the limit would then be 0.0125 (Bonferroni)" in told


def test_worse_has_the_same_caveats_as_better(told_of: Told):
    against = {"real+1": (-0.01, 0.03, 30, 70), "real+2": (-0.2, LITTLE, 5, 95)}
    told, _ = told_of(against, deviation=0.02)
    assert "for 2 comparisons; the limit would then be 0.025 (Bonferroni): real+2 is below it" in told
    assert "not of other trainings: real+1 differs from real pairs alone by less than the seeds" in told


def test_one_seed_says_nothing_of_trainings(told_of: Told):
    told, _ = told_of({"real+1": (0.02, LITTLE, 90, 10)}, seeds=1, deviation=None)
    assert "One seed: the spread of trainings is not known" in told
    assert "less than the seeds" not in told


@pytest.mark.parametrize("separated", [True, False])
def test_images_of_one_patient_count_as_independent(told_of: Told, separated: bool):
    told, _ = told_of({"real+1": (0.02, LITTLE, 90, 10)}, separated=separated)
    assert "counts images of one patient as independent" in told
    assert ("not patient-separated" in told) != separated


def test_the_best_of_many_is_not_called_significant_by_its_p_alone(told_of: Told):
    against = {"real+1": (0.02, 0.03, 70, 30), "real+2": (0.01, 0.6, 50, 40)}
    _, scope = told_of(against)
    card = next(card for card in words.cards(scope) if card.label.startswith("best"))
    assert card.below.endswith("p = 0.030: significant alone, not among 2 comparisons") and card.mark == ""
    _, scope = told_of(against | {"real+1": (0.02, 0.02, 70, 30)})
    card = next(card for card in words.cards(scope) if card.label.startswith("best"))
    assert card.below.endswith("p = 0.020: significant, also among 2 comparisons") and card.mark == "good"


@pytest.mark.parametrize(
    ("p", "told"),
    [(0.0496, "0.0496"), (0.04999, "0.04999"), (0.0504, "0.0504"), (0.05, "0.050"), (0.012, "0.012")],
)
def test_a_p_beside_the_limit_shows_on_which_side_it_is(p: float, told: str):
    assert p_value(p) == told


def test_losses_are_named_after_their_equations():
    assert "L_m': Online-Augmentation (Eq. 12)" in MEANING and "L: their sum (Eq. 6)" in MEANING
    assert "Eq. 13" not in MEANING


def test_without_another_arm_nothing_is_claimed(tmp_path: Path):
    told = summary(tmp_path, {"real": 0.0})
    assert "better" not in told and "worse" not in told


def test_folds_begin_at_real_alone(tmp_path: Path):
    gains = {"real": 0.0, "real+1 a": 0.1, "real+2 a": 0.2, "real+1 b": 0.3, "copy-paste+1": 0.1}
    lines = fold_lines(segmentations(tmp_path, gains))
    assert {name: [k for k, *_ in points] for name, points in lines.items()} == {"a": [0, 1, 2], "b": [0, 1]}


@pytest.mark.parametrize("gains", [{"real": 0.0, "copy-paste": 0.1}, {"synthetic": 0.0}])
def test_a_single_point_is_no_sweep(tmp_path: Path, gains: dict[str, float]):
    assert fold_lines(segmentations(tmp_path, gains)) == {}
