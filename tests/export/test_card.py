"""The card: terms, counts, origin, warnings, and front matter that the hub understands."""

from huggingface_hub import DatasetCard

from siamdiff.data.shardset import ShardSet
from siamdiff.export.card import Described, card
from tests.export.conftest import Sets
from tests.sets import write_phantoms


def test_a_synthetic_set_tells_its_terms_counts_and_origin(sets: Sets) -> None:
    manifest = ShardSet.open(sets.synthetic).manifest
    text = card([Described(manifest, {"siamdiff": "0.1.0", "torch": "2.13.0"})])
    for expected in (
        "Not for diagnosis", "synthetic images: a model painted them", "CreativeML Open RAIL-M",
        "research and education", "0: 10, 1: 10", "test: 4, train: 12, val: 4", "64 x 64", manifest.digest,
        "| model.digest | " + "d" * 64, "| masks.digest | ", "| plan.digest | 0123456789abcdef |",
        "| plan.settings.steps | 50 |", "| version of siamdiff | 0.1.0 |", "webdataset", "load_dataset",
    ):  # fmt: skip
        assert expected in text
    assert text == card([Described(manifest, {"siamdiff": "0.1.0", "torch": "2.13.0"})])
    data = DatasetCard(text).data
    assert (data.license, data.get("license_name")) == ("other", manifest.license)
    assert "synthetic" in data.tags and data.size_categories == "n<1K"


def test_places_are_nobodys_business(sets: Sets) -> None:
    text = card([Described(ShardSet.open(sets.synthetic).manifest)])
    assert sets.real not in text and "s3://" not in text


def test_a_real_demo_set_is_marked_and_carries_the_hubs_name_of_its_licence(tmp_path) -> None:
    manifest = write_phantoms(str(tmp_path)).manifest
    text = card([Described(manifest)])
    assert "**Demo.**" in text and "Not for diagnosis" in text and "painted" not in text
    assert DatasetCard(text).data.license == "apache-2.0"


def test_what_a_person_wrote_cannot_break_the_table(sets: Sets) -> None:
    manifest = ShardSet.open(sets.real).manifest.model_copy(
        update={"license": "a | b\n---\n# c: [", "permitted_use": ""}
    )
    text = card([Described(manifest)])
    assert "| a \\| b --- # c: [ | unknown |" in text
    assert DatasetCard(text).data.get("license_name") == manifest.license


def test_terms_are_told_with_where_they_come_from_and_what_they_ask_for(sets: Sets) -> None:
    of_model = {"license": "creativeml-openrail-m", "permitted_use": "any"}
    terms = {
        "masks": {"license": "CC-BY-NC-4.0", "permitted_use": "any"},
        "model": of_model,
        "odd": {"license": 1},
    }
    manifest = ShardSet.open(sets.synthetic).manifest
    given = {"license": "CC-BY-NC-4.0; creativeml-openrail-m", "permitted_use": "non-commercial"}
    text = card([Described(manifest.model_copy(update=given | {"made_from": {"terms": terms}}))])
    for expected in (
        "|  | from its masks | CC-BY-NC-4.0 | any |", "|  | from its model | creativeml-openrail-m | any |",
        "| permitted | non-commercial |", "| obligation | name the authors |", "| obligation | no commercial use |",
        "| obligation | pass the licence's list of forbidden uses on, and keep to it |",
    ):  # fmt: skip
        assert expected in text
    assert "from its odd" not in text
