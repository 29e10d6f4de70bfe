"""`evaluate.synthetic` and `evaluate.extractors`: one or several, by name, in a file and on the command line."""

from pathlib import Path

import pytest
import yaml

from siamdiff.commandline import load
from siamdiff.config import Config
from siamdiff.errors import UserError

DEMO = Path(__file__).parents[1] / "jobs" / "configs" / "demo.yaml"
OPTION = "--evaluate.synthetic"


def sets(*argv: str) -> dict[str, str] | None:
    return load(list(argv), DEMO, "a test")[0].evaluate.synthetic


def test_without_names_there_is_one_set() -> None:
    assert sets() == {"synthetic": "latest"}
    assert sets(OPTION, "/a/run=3,x") == {"synthetic": "/a/run=3,x"}
    assert Config(evaluate={"synthetic": "s3://b/set/"}).resolve().evaluate.synthetic == {
        "synthetic": "s3://b/set"
    }


def test_several_sets_are_given_by_repeating_the_option() -> None:
    given = sets(OPTION, "ours=latest", OPTION, "Ar.SDM v2+=/a,b", OPTION, "c=s3://bucket/run=3/")
    assert given == {"ours": "latest", "Ar.SDM v2+": "/a,b", "c": "s3://bucket/run=3"}


def test_the_command_line_replaces_the_sets_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"evaluate": {"seed": 3, "synthetic": {"ours": "latest", "b": "/b"}}}))
    assert sets("--config", str(file)) == {"ours": "latest", "b": "/b"}
    config, _ = load(["--config", str(file), OPTION, "c=/c"], DEMO, "a test")
    assert (config.evaluate.synthetic, config.evaluate.seed) == ({"c": "/c"}, 3)
    file.write_text(config.to_yaml())
    assert load(["--config", str(file)], DEMO, "a test")[0] == config


@pytest.mark.parametrize(
    ("given", "part"),
    [
        (["/a", "/b"], "'/a' has no name; give each of several sets as NAME=URI"),
        (["a=/x", "A=/y"], "'a' is the name of several sets"),
        (["a b=/x", "a_b=/y"], "'a b' is the name of several sets"),
        (["a="], "the set 'a' has no URI"),
        (["Real=/x"], "'Real' is the name of the real set"),
        (["a=ftp://x"], "s3://"),
    ],
)
def test_names_that_cannot_be_told_apart_are_refused(given: list[str], part: str) -> None:
    with pytest.raises(UserError) as caught:
        sets(*(word for text in given for word in (OPTION, text)))
    assert part in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "-a", "a/b", "../a", "\u00e4"])
def test_names_go_into_names_of_files(tmp_path: Path, name: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"evaluate": {"synthetic": {name: "/a"}}}))
    with pytest.raises(UserError, match="cannot name a set; letters, digits"):
        sets("--config", str(file))


EXTRACTORS = "--evaluate.extractors"


def extractors(*given: str) -> dict[str, str | None]:
    words = (word for text in given for word in (EXTRACTORS, text))
    return load(list(words), DEMO, "a test")[0].evaluate.extractors


def test_extractors_are_names_with_or_without_the_place_of_their_weights(tmp_path: Path) -> None:
    assert extractors() == {"efficientnet-lite0": None}
    chosen = {"efficientnet-lite0": None, "clip": "a/b", "lpips-squeezenet": "/a.npz,/b.pth"}
    assert extractors("efficientnet-lite0", "clip=a/b", "lpips-squeezenet=/a.npz,/b.pth") == chosen
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"evaluate": {"extractors": ["inception", "clip=a/b"]}}))
    config, _ = load(["--config", str(file)], DEMO, "a test")
    assert config.evaluate.extractors == {"inception": None, "clip": "a/b"}
    file.write_text(config.to_yaml())
    assert load(["--config", str(file)], DEMO, "a test")[0] == config
    assert load(["--config", str(file), EXTRACTORS, "clip"], DEMO, "")[0].evaluate.extractors == {
        "clip": None
    }


@pytest.mark.parametrize(
    ("given", "part"),
    [
        (["inceptoin"], "no extractor 'inceptoin'; did you mean 'inception'?"),
        (["clip=/a", "clip=/b"], "the extractor 'clip' is given twice"),
        (["clip="], "the extractor 'clip' has no source; give clip=SOURCE, or clip alone"),
    ],
)
def test_extractors_that_are_none_are_refused(given: list[str], part: str) -> None:
    with pytest.raises(UserError) as caught:
        extractors(*given)
    assert part in str(caught.value) and "\n" not in str(caught.value)
