"""What a sweep comes to: which configurations, and what they share."""

import pytest
from pydantic import ValidationError

from siamdiff.config import Config
from siamdiff.errors import UserError
from siamdiff.presets import PRESETS
from siamdiff.sweep import ALONE, planned


def configure(sweep: list[str], **sections) -> Config:
    return Config.model_validate(
        {"root": "/r", "data": {"source": "p"}, "experiment": {"sweep": sweep}, **sections}
    )


def resolved(sweep: list[str], **sections) -> Config:
    return configure(sweep, **sections).resolve()


def test_without_a_sweep_there_is_the_configuration_alone():
    config = resolved([])
    (only,) = planned(config)
    assert (only.name, only.config, only.fields) == (ALONE, config, {})


def test_a_setting_is_the_preset_over_the_configuration_in_a_run_of_its_own():
    config = resolved(["table5"], train={"steps": 7})
    settings = {one.name: one for one in planned(config)}
    assert list(settings) == [*(f"table5-{row}" for row in range(1, 8)), "ours"]
    for name, one in settings.items():
        alone = Config.model_validate(
            {"root": "/r", "data": {"source": "p"}, "train": {"steps": 7}, "preset": name}
        ).resolve()
        assert one.config.train == alone.train and one.config.model == alone.model
        assert one.config.generate.model == f"/r/runs/{alone.train.run}/model"
        assert one.fields == PRESETS[name][1]
    assert len({one.config.train.run for one in settings.values()}) == 8
    assert len({one.config.data.uri for one in settings.values()}) == 1


def test_what_two_tables_share_is_one_run():
    five, six = ({one.name: one.config for one in planned(resolved([name]))} for name in ("table5", "table6"))
    assert five["table5-1"].train.run == six["table6-0"].train.run
    assert five["ours"].train.run == six["table6-1"].train.run


def test_the_fold_sweep_trains_once_and_compares_masks_fold_after_fold():
    config = resolved(["folds"], generate={"folds": 4})
    real, transformed = planned(config)
    assert (real.config.generate.fold_masks, transformed.config.generate.fold_masks) == (["real"], ["random"])
    assert real.config.run_uri() == transformed.config.run_uri() == config.run_uri()
    arms = ["real", "real+1", "real+2", "real+3", "real+4"]
    assert real.config.segment.arms == transformed.config.segment.arms == arms


def test_a_run_that_was_named_names_each_settings_run():
    runs = [one.config.train.run for one in planned(resolved(["ours", "table5-1"], train={"run": "a"}))]
    derived = [one.config.train.run for one in planned(resolved(["ours", "table5-1"]))]
    assert runs == [f"a-{run.removeprefix('run-')}" for run in derived] and len(set(runs)) == 2
    (named,) = {one.config.train.run for one in planned(resolved(["folds"], train={"run": "a"}))}
    assert named.startswith("a-"), "what is the same training is one run"


@pytest.mark.parametrize("section", ["generate", "evaluate", "segment"])
def test_one_place_for_several_results_is_refused(section):
    with pytest.raises(UserError, match=rf"{section}\.output is one place: leave it out"):
        planned(resolved(["table6"], **{section: {"output": "/x"}}))


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"generate": {"model": "/m"}}, r"generate\.model /m would make the images of every setting"),
        ({"generate": {"method": "copy-paste", "fold_masks": ["real"]}}, r"copy-paste needs no model"),
        ({"evaluate": {"synthetic": "/s"}}, r"evaluate\.synthetic names no set of a setting's own"),
        ({"segment": {"synthetic": "/s"}}, r"segment\.synthetic names no set of a setting's own"),
    ],
)
def test_settings_that_would_differ_in_nothing_are_refused(fields, why):
    with pytest.raises(UserError, match=why):
        planned(resolved(["table5"], **fields))


def test_one_model_may_make_all_folds_of_a_fold_sweep():
    models = {one.config.generate.model for one in planned(resolved(["folds"], generate={"model": "/m"}))}
    assert models == {"/m"}


def test_a_setting_that_does_not_go_with_the_configuration_is_named():
    config = resolved(["ours", "table5-1"], model={"hint_channels": [8, 8]})
    with pytest.raises(UserError, match=r"setting 'table5-1': .*model\.hint_channels"):
        planned(config)


@pytest.mark.parametrize(
    ("sweep", "why"),
    [
        (["table7"], "neither a sweep nor a preset; did you mean 'table5-7'"),
        (["ours", "ours"], "named twice"),
    ],
)
def test_sweeps_are_known_and_named_once(sweep, why):
    with pytest.raises(ValidationError, match=why):
        configure(sweep)
