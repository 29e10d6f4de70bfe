"""The plots as text, and as parts of a page."""

from xml.etree import ElementTree

import numpy as np
import pytest

from siamdiff.report import plots
from siamdiff.report.svg import inline

LINES = {"ours": [(0, 0.7, 0.01), (1, 0.72, None)], "baseline": [(0, 0.7, 0.01), (2, 0.71, 0.02)]}
POINTS = np.random.default_rng(0).normal(size=(20, 2))
ALL = {
    "loss_curves": lambda: plots.loss_curves({"L": [(1, 0.5), (2, 0.0), (3, 0.1)], "never": [(1, 0.0)]}),
    "fold_sweep": lambda: plots.fold_sweep(LINES, "Dice"),
    "arm_scores": lambda: plots.arm_scores(
        {"real": (0.7, None, [0.7]), "more": (0.8, 0.1, [0.7, 0.9])}, 0.7, "Dice"
    ),
    "settings_plot": lambda: plots.settings_plot({"a": (1.0, (0.9, 1.1)), "b": (2.0, None)}, "FID", 0.5),
    "rated": lambda: plots.rated(
        {
            "MOS": {
                "real": {"all": (4.0, (3.5, 4.5)), "small": (4.0, None)},
                "ours": {"all": (3.0, (1.0, 5.0))},
            }
        },
        "real",
    ),
    "shares": lambda: plots.shares({"real": np.array([1.0, 2.0]), "none": np.array([0.0])}, "size"),
    "numbers": lambda: plots.numbers({"real": {"1": 0.9, "2": 0.1}, "made": {"1": 1.0, "2": 0.0}}, "lesions"),
    "centres": lambda: plots.centres("real", np.abs(POINTS) % 1),
    "growth": lambda: plots.growth(
        {"one": [(1, 10), (64, 300)], "two": [(1, 9), (48, 100)]}, "GPUs", "samples/s"
    ),
    "tsne": lambda: plots.tsne({"real": POINTS, "made": POINTS + 1, "another": POINTS + 2}),
}


@pytest.mark.parametrize("name", list(ALL))
def test_a_plot_is_the_same_every_time_and_fits_a_page(name: str):
    svg = ALL[name]()
    assert svg == ALL[name]()
    assert "<dc:date>" not in svg
    part = inline(svg, 'a "title" & more', "p")
    root = ElementTree.fromstring(part)
    assert root.attrib["aria-label"] == 'a "title" & more'
    assert "style" not in {key for of in root.iter() for key in of.attrib}
    assert "http" not in part
    ids = {of.attrib["id"] for of in root.iter() if "id" in of.attrib}
    assert all(found.startswith("p-") for found in ids)
    assert plots.INK not in part  # it is the page's own colour
    if "class" not in part:
        assert "currentColor" in part


def test_the_sweep_begins_with_real_pairs_alone():
    svg = plots.fold_sweep(LINES, "Dice")
    for text in ("real alone", "+1", "+2", "ours", "baseline", "Dice"):
        assert f">{text}</text>" in svg


def test_points_of_sets_differ_in_colour_and_shape():
    root = ElementTree.fromstring(plots.tsne({"real": POINTS, "made": POINTS}))
    paths = {}
    for of in root.iter():
        if of.tag.endswith("path") and of.get("id", "").startswith("m"):
            paths[of.get("id")] = " ".join(of.get("d", "").split())
    assert len(set(paths.values())) >= 2
    colours = {of.get("style", "") for of in root.iter() if of.tag.endswith("use")}
    assert any(plots.SERIES[0] in of for of in colours) and any(plots.SERIES[1] in of for of in colours)


def test_a_plot_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        plots.fold_sweep({}, "Dice")


def test_many_long_names_leave_room_for_the_lines():
    lines = {f"table5-{i}, attention-unet, ArSDM": [(0, 0.7, 0.01), (3, 0.71, 0.02)] for i in range(16)}
    svg = ElementTree.fromstring(plots.fold_sweep(lines, "Dice"))
    assert float(svg.attrib["height"].removesuffix("pt")) > 1.5 * 72 * plots.HIGH
