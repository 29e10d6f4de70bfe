"""The table of several sets: what is in which form, and what stands where a set has nothing."""

import csv
import io
from typing import Any

from siamdiff.evaluation.table import as_latex, as_text, make_rows
from siamdiff.tables import as_csv


def result(value: float, dice: float | None, count: int = 6) -> dict[str, Any]:
    figures = [{"name": "frechet_toy", "value": value, "floor": 0.5}]
    return {
        "count": count,
        "figures": figures,
        "mask_agreement": {"synthetic": dice, "real": 0.97} if dice else None,
    }


ROWS = make_rows({"ours": result(1.25, 0.96), "Ar_SDM 2": result(1 / 3, None, 12)})


def test_sets_stand_in_the_order_of_their_names() -> None:
    assert [row["set"] for row in ROWS] == ["Ar_SDM 2", "ours"]
    assert make_rows({"Ar_SDM 2": result(1 / 3, None, 12), "ours": result(1.25, 0.96)}) == ROWS


def test_csv_holds_every_digit_and_empty_cells() -> None:
    first, second = csv.DictReader(io.StringIO(as_csv(ROWS)))
    assert float(first["frechet_toy"]) == 1 / 3
    assert (first["images"], first["mask_agreement_dice"]) == ("12", "")
    assert (second["frechet_toy_floor"], second["mask_agreement_dice"]) == ("0.5", "0.96")


def test_the_text_has_a_column_for_every_set() -> None:
    assert as_text(ROWS).splitlines() == [
        "                              Ar_SDM 2       ours",
        "  images                            12          6",
        "  frechet_toy                    0.333      1.250",
        "    real against real            0.500      0.500",
        "  mask agreement (Dice)              -       0.96",
        "    on held-out real images          -       0.97",
    ]


def test_an_interval_stands_below_its_figure_and_small_numbers_keep_their_digits() -> None:
    kernel = {
        "name": "kid",
        "value": 0.03951,
        "floor": None,
        "interval": (0.0371, 0.0402),
        "deviation": 0.00123,
    }
    whole = result(1.25, 0.96)
    rows = make_rows({"a": whole | {"figures": [kernel, *whole["figures"]]}, "b": result(12.5, None)})
    assert as_text(rows).splitlines() == [
        "                                          a          b",
        "  images                                  6          6",
        "  kid                                0.0395          -",
        "    deviation of subsets            0.00123          -",
        "    95% interval             0.0371..0.0402          -",
        "  frechet_toy                         1.250     12.500",
        "    real against real                 0.500      0.500",
        "  mask agreement (Dice)                0.96          -",
        "    on held-out real images            0.97          -",
    ]
    first, second = csv.DictReader(io.StringIO(as_csv(rows)))
    assert (first["kid_low"], first["kid_high"], first["kid_deviation"]) == ("0.0371", "0.0402", "0.00123")
    assert (second["kid"], second["kid_low"]) == ("", "")
    assert r"set & images & kid & frechet\_toy & mask agreement (Dice) \\" in as_latex(rows, [])


def test_what_no_set_has_takes_no_line() -> None:
    assert "mask agreement" not in as_text(make_rows({"a": result(1.0, None)}))


def test_what_a_set_lacks_stays_in_its_place() -> None:
    names = ("frechet_toy", "precision_toy", "frechet_other")
    figures = [{"name": name, "value": 1.0, "floor": None} for name in names]
    few = result(1.0, None) | {"figures": [figures[0], figures[2]]}
    rows = make_rows({"a": few, "b": result(1.0, None) | {"figures": figures}})
    assert [column for column in rows[0] if column in names] == list(names)
    assert rows[0]["precision_toy"] is None


def test_the_share_of_copies_stands_before_the_agreement() -> None:
    rows = make_rows({"a": result(1.25, 0.96) | {"copies": {"rate": 0.015}}, "b": result(1.0, 0.9)})
    assert list(rows[0])[-3:] == ["copies", "mask_agreement_dice", "mask_agreement_dice_real"]
    assert "copies of training images" in as_text(rows) and "0.015          -" in as_text(rows)
    assert " & copies of training images & mask" in as_latex(rows, [])


def test_latex_is_escaped_and_has_one_line_per_set() -> None:
    text = as_latex(ROWS, ["reference: real"])
    assert text.startswith("% reference: real\n\\begin{tabular}{lrrr}\n")
    assert r"set & images & frechet\_toy & mask agreement (Dice) \\" in text
    assert r"Ar\_SDM 2 & 12 & 0.333 & - \\" in text
    assert text.endswith("\\end{tabular}\n")
