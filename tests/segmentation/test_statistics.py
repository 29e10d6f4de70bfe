"""Means, deviations, the paired test, and the table of them."""

import csv
import io

import numpy as np
import pytest
from scipy.stats import wilcoxon

from siamdiff.sections.segment import OVERALL
from siamdiff.segmentation.metrics import DEFINITIONS
from siamdiff.segmentation.statistics import compare, summarize, tabulate, with_overall
from siamdiff.segmentation.table import as_latex, as_text, make_rows
from siamdiff.tables import as_csv


def some(seed: int, seeds: int = 3, images: int = 12, gain: float = 0.0) -> np.ndarray:
    """Scores (seeds, images); the fourth image has none."""
    rng = np.random.default_rng(seed)
    scores = np.clip(rng.uniform(0.3, 0.8, (seeds, images)) + gain, 0, 1)
    scores[:, 3] = np.nan
    return scores


def test_a_summary_is_over_seeds_of_means_over_images() -> None:
    scores = some(0)
    means = [np.mean([value for value in row if not np.isnan(value)]) for row in scores]
    summary = summarize(scores)
    assert summary.per_seed == pytest.approx(means)
    assert summary.mean == pytest.approx(sum(means) / 3)
    assert summary.deviation == pytest.approx((sum((m - sum(means) / 3) ** 2 for m in means) / 2) ** 0.5)
    assert summary.images == 11
    assert summarize(scores[:1]).deviation is None
    nothing = summarize(np.full((2, 3), np.nan))
    assert (nothing.mean, nothing.deviation, nothing.images) == (None, None, 0)


def test_the_paired_test_is_over_images_of_means_over_seeds() -> None:
    baseline, better = some(0), some(1, gain=0.2)
    comparison = compare(better, baseline)
    kept = [i for i in range(12) if i != 3]
    first = [np.mean(better[:, i]) for i in kept]
    second = [np.mean(baseline[:, i]) for i in kept]
    assert comparison.p == pytest.approx(wilcoxon(first, second).pvalue)
    assert comparison.difference == pytest.approx(np.mean(first) - np.mean(second))
    assert (comparison.better, comparison.worse) == (
        sum(np.greater(first, second)),
        sum(np.less(first, second)),
    )
    assert compare(baseline, better).difference == pytest.approx(-float(np.mean(first) - np.mean(second)))
    same = compare(baseline, baseline)
    assert (same.p, same.difference, same.better, same.worse) == (None, 0, 0, 0)
    assert compare(np.full((2, 3), np.nan), np.full((2, 3), np.nan)).difference is None


def test_the_overall_score_is_weighted_by_images() -> None:
    sets = {"a": some(0, images=12), "b": some(1, images=30)}
    overall = summarize(with_overall(sets)[OVERALL])
    parts = {name: summarize(scores) for name, scores in sets.items()}
    weighted = sum(part.images * (part.mean or 0) for part in parts.values()) / (11 + 29)
    assert overall.images == 40
    assert overall.mean == pytest.approx(weighted)
    assert list(with_overall({"a": sets["a"]})) == ["a"]


def results() -> list[dict]:
    scores = {
        arm: {
            test: [{name: some(seed + i, images=8)[seed] for name in DEFINITIONS} for seed in range(3)]
            for test in ("one", "two_b")
        }
        for i, arm in enumerate(("real", "real+1"))
    }
    about = {"network": "unet-small", "seeds": 3, "training_pairs": 7}
    return [about | row for row in tabulate(scores, "real")]


def test_results_are_by_arm_and_test_set_each_against_the_baseline() -> None:
    found = results()
    assert [(row["arm"], row["test"]) for row in found] == [
        (arm, test) for arm in ("real", "real+1") for test in ("one", "two_b", OVERALL)
    ]
    for row in found:
        assert list(row["scores"]) == list(DEFINITIONS)
        assert all(
            ("against_baseline" in score) == (row["arm"] != "real") for score in row["scores"].values()
        )


def test_a_table_has_every_number_in_full_and_short_ones_for_people() -> None:
    rows = make_rows(results())
    assert [(row["test"], row["arm"]) for row in rows] == [
        (test, arm) for test in ("one", "two_b", OVERALL) for arm in ("real", "real+1")
    ]
    read = list(csv.DictReader(io.StringIO(as_csv(rows))))
    assert float(read[1]["dice_at_0.5"]) == rows[1]["dice_at_0.5"]
    assert read[0]["dice_at_0.5_p"] == "" and 0 < float(read[1]["dice_at_0.5_p"]) <= 1
    text = as_text(rows, "real")
    assert "unet-small, two_b: 7 images, 3 seeds" in text and "p: each against real" in text
    assert f"{rows[0]['dice_at_0.5']:.3f} +- {rows[0]['dice_at_0.5_sd']:.3f}" in text
    assert "p of" not in as_text(rows, None)
    latex = as_latex(rows, ["a note"])
    assert latex.startswith("% a note\n\\begin{tabular}") and r"two\_b" in latex and r"$\pm$" in latex
    assert latex.count(r"\\") == 1 + len(rows)
