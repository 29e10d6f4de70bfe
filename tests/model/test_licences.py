"""The terms of data and base reach the model; what may not be used is not trained on."""

import logging
from pathlib import Path

import pytest

from infra.inputs import training_set
from siamdiff import storage
from siamdiff.config import Config
from siamdiff.data.manifest import finish_set
from siamdiff.data.shards import finished_shards
from siamdiff.doctor import _terms
from siamdiff.errors import UserError
from siamdiff.model.about import read_info
from siamdiff.model.base import load_base
from siamdiff.model.build import build_model
from siamdiff.model.folder import save_model
from siamdiff.model.licences import base_terms
from siamdiff.terms import Terms
from tests.sets import small_config
from tests.tiny_model import HINT_CHANNELS, write_base, write_masks

SD = "stable-diffusion-v1-5/stable-diffusion-v1-5"


def configure(base: str, **model: object) -> Config:
    return small_config("/nowhere", model={"base": base, **model})


def with_terms(uri: str, license: str, permitted_use: str) -> Config:
    """A configuration whose set is under these terms."""
    write_masks(uri, 2)
    terms = {"license": license, "permitted_use": permitted_use}
    finish_set(uri, finished_shards(uri), kind="real", resolution=32, demo=False, made_from={}, **terms)
    return small_config(str(Path(uri).parent), data={"uri": uri})


def test_a_base_tells_its_terms_itself_or_is_known(tmp_path: Path) -> None:
    assert base_terms(configure("tiny")) is None
    assert base_terms(configure(SD)) == Terms("creativeml-openrail-m", "any")
    assert base_terms(configure(str(tmp_path))) == Terms()
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# A base\n")
    assert base_terms(configure(str(tmp_path))) == Terms("cc-by-nc-4.0", "non-commercial")
    storage.write_json(f"{tmp_path}/siamdiff.json", {"license": "MIT", "permitted_use": "research"})
    assert base_terms(configure(str(tmp_path))) == Terms("MIT", "research")
    both = base_terms(configure(str(tmp_path), parts=SD))
    assert both == Terms("MIT; creativeml-openrail-m", "research")


@pytest.mark.parametrize("content", ["---\n[\n---\n", "no front matter", "---\nlicense: [a]\n---\n"])
def test_a_card_that_tells_nothing_leaves_the_terms_unknown(tmp_path: Path, content: str) -> None:
    (tmp_path / "README.md").write_text(content)
    (tmp_path / "siamdiff.json").write_text("{")
    assert base_terms(configure(str(tmp_path))) == Terms()


def test_a_model_is_under_the_terms_of_its_data_and_its_base(tmp_path: Path) -> None:
    masks = write_masks(f"{tmp_path}/data", 2)  # CC-BY-4.0, for research
    write_base(tmp_path / "base")
    storage.write_json(f"{tmp_path}/base/siamdiff.json", {"license": "creativeml-openrail-m"})
    chosen = {"base": f"{tmp_path}/base", "hint_channels": HINT_CHANNELS}
    config = small_config(str(tmp_path), model=chosen)
    model = build_model(config, load_base(f"{tmp_path}/base"))
    save_model(f"{tmp_path}/model", tmp_path / "base", model, config, masks)
    info = read_info(f"{tmp_path}/model")
    assert (info["license"], info["permitted_use"]) == ("CC-BY-4.0; creativeml-openrail-m", "research")
    assert info["terms"] == {
        "data": {"license": "CC-BY-4.0", "permitted_use": "research"},
        "base": {"license": "creativeml-openrail-m", "permitted_use": "any"},
    }


def test_data_without_any_permitted_use_is_refused(tmp_path: Path) -> None:
    config = with_terms(f"{tmp_path}/data", "CC-BY-4.0", "no use")
    with pytest.raises(UserError, match="may not be used: its permitted_use is 'no use'"):
        training_set(config)
    with pytest.raises(UserError, match="may not be used"):
        list(_terms(config))


def test_data_under_a_licence_without_derivatives_is_trained_on_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = with_terms(f"{tmp_path}/data", "CC-BY-ND-4.0", "any")
    with caplog.at_level(logging.WARNING):
        training_set(config)
    assert "share no derivatives" in caplog.text
    (warning, last) = _terms(config)
    assert warning.level == "warn" and "share no derivatives" in warning.message
    assert last.level == "ok" and "CC-BY-ND-4.0; permitted: any" in last.message


def test_doctor_names_terms_that_a_person_must_find_out(tmp_path: Path) -> None:
    config = with_terms(f"{tmp_path}/data", "CC-BY-4.0", "with vote 12")
    (warning, last) = _terms(config)
    assert "permitted use with vote 12" in warning.message and "as its own words say" in last.message
