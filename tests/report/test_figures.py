"""The figures of an experiment as files of their own."""

from pathlib import Path
from xml.etree import ElementTree

from siamdiff import storage
from siamdiff.report import helps, words
from siamdiff.report.blocks import Plots, Section, Tabular
from siamdiff.report.figures import FOLDS, SETTINGS, figures_of
from siamdiff.report.record import read_experiment
from siamdiff.report.scope import Scope
from siamdiff.report.tables import Table
from tests.report.experiments import write_experiment


def test_one_setting_has_its_folds_and_several_are_compared_too(tmp_path: Path):
    alone = figures_of(read_experiment(write_experiment(tmp_path / "alone")))
    assert list(alone) == [FOLDS] and "real alone" in alone[FOLDS] and "+2" in alone[FOLDS]
    several = figures_of(read_experiment(write_experiment(tmp_path / "several", settings=2)))
    assert list(several) == [FOLDS, SETTINGS]
    for svg in several.values():
        assert ElementTree.fromstring(svg).tag.endswith("svg")
        assert "table5-1" in svg and "table5-2" in svg


def test_without_synthetic_arms_there_is_nothing_to_draw(tmp_path: Path):
    uri = write_experiment(tmp_path, gains={"real": 0.0, "copy-paste": 0.0})
    assert figures_of(read_experiment(uri)) == {}


def scope_of(uri: str) -> Scope:
    return Scope.of(read_experiment(uri), share=False)


def table_of(section: Section | None) -> Table:
    assert section is not None
    return next(block.table for block in section.blocks if isinstance(block, Tabular))


def write_others_first(folder: Path) -> str:
    """Two settings, each compared with another method's set, which comes first and is better; two networks, and figures
    of two extractors."""
    uri = write_experiment(folder, settings=2, gains={"real": 0.0, "real+1": 0.01, "real+2": 0.02})
    for i in range(2):
        place = f"{folder}/evaluation/{i}/metrics.json"
        metrics = storage.read_json(place)
        own = metrics["results"]["synthetic"]
        own["figures"].append(own["figures"][0] | {"name": "frechet_inception_0a1b2c3d"})
        other = own | {"figures": [figure | {"value": 777.0} for figure in own["figures"]]}
        metrics["results"] = {"ArSDM": other, "synthetic": own}
        sets = metrics["sets"]["synthetic"]
        metrics["sets"]["synthetic"] = {"ArSDM": sets["synthetic"] | {"uri": "/another"}} | sets
        storage.write_json(place, metrics)
        place = f"{folder}/segmentation/{i}/metrics.json"
        metrics = storage.read_json(place)
        metrics["sets"]["synthetic"] = {"ArSDM": sets["synthetic"] | {"uri": "/another"}} | sets
        rows = []
        for row in metrics["results"]:
            is_fed = row["arm"] != "real"
            rows += [row | {"arm": f"{row['arm']} ArSDM"}] if is_fed else []
            rows += [row | {"arm": f"{row['arm']} synthetic"} if is_fed else row]
        metrics["results"] = rows + [row | {"network": "unet"} for row in rows]
        storage.write_json(place, metrics)
    return uri


def test_a_setting_has_the_numbers_of_its_own_set(tmp_path: Path):
    uri = write_others_first(tmp_path)
    scope = scope_of(uri)
    table = table_of(helps.settings_section(scope))
    texts = [text for line in table.lines for cell in line.cells for text in (cell.text, *cell.below)]
    assert "real+2 synthetic, unet-small" in texts  # of which arm and network
    assert not any("777" in text or "ArSDM" in text for text in texts)
    assert any("777" in card.value for card in words.cards(scope)) is False
    assert len(set(table.titles)) == len(table.titles)
    assert any("frechet_inception_0a1b2c3d" in title for title in table.titles)
    svg = figures_of(read_experiment(uri))[SETTINGS]
    assert "real+2 synthetic, unet-small" in svg and "ArSDM" not in svg


def test_the_kinds_of_mask_of_the_folds_are_named(tmp_path: Path):
    uri = write_experiment(tmp_path)
    place = f"{tmp_path}/segmentation/0/metrics.json"
    metrics = storage.read_json(place)
    settings = {"folds": 3, "fold_masks": ["real", "random"]}
    metrics["sets"]["synthetic"]["synthetic"]["made_from"]["plan"] = {"settings": settings}
    storage.write_json(place, metrics)
    section = helps.folds_section(scope_of(uri))
    caption = captions(section)
    assert "Masks of the folds, in order: real, transformed." in caption
    assert "kind of mask changes with the number of folds" in caption


def test_masks_of_one_kind_are_named_without_a_caveat(tmp_path: Path):
    uri = write_experiment(tmp_path)
    assert "Masks of the folds" not in captions(helps.folds_section(scope_of(uri)))  # not known
    place = f"{tmp_path}/segmentation/0/metrics.json"
    metrics = storage.read_json(place)
    settings = {"folds": 2, "fold_masks": ["random"]}
    metrics["sets"]["synthetic"]["synthetic"]["made_from"]["plan"] = {"settings": settings}
    storage.write_json(place, metrics)
    caption = captions(helps.folds_section(scope_of(uri)))
    assert "Masks of the folds, in order: transformed, transformed." in caption and "changes" not in caption


def captions(section: Section | None) -> str:
    assert section is not None
    return " ".join(
        plot.caption for block in section.blocks if isinstance(block, Plots) for plot in block.plots
    )
