"""The section `segment`: which arms, networks, seeds and sets may be given."""

from pathlib import Path

import pytest

from siamdiff.commandline import load
from siamdiff.config import Config
from siamdiff.errors import UserError
from siamdiff.sections import Segment
from siamdiff.sections.segment import ParsedArm, parse_arm

DEMO = Path(__file__).parents[1] / "jobs" / "configs" / "demo.yaml"


def loaded(*argv: str) -> Segment:
    return load(list(argv), DEMO, "a test")[0].segment


def test_sets_that_are_left_out_are_the_experiments() -> None:
    segment = loaded("--root", "s3://bucket/polyps")
    assert (segment.real, segment.synthetic, segment.tests) == (
        "s3://bucket/polyps/data",
        {"synthetic": "latest"},
        None,
    )


def test_lists_and_named_sets_are_given_on_the_command_line(tmp_path: Path) -> None:
    segment = loaded(
        "--segment.arms", "real,real+2,copy-paste", "--segment.networks", "unet,segformer-b2", "--segment.seeds", "4",
        "--segment.tests", "ETIS=/a,b", "--segment.tests", "C VC=s3://b/c/", "--segment.synthetic", "/one",
    )  # fmt: skip
    assert (segment.arms, segment.networks, segment.seeds) == (
        ["real", "real+2", "copy-paste"],
        ["unet", "segformer-b2"],
        [4],
    )
    assert segment.tests == {"ETIS": "/a,b", "C VC": "s3://b/c"}
    assert segment.synthetic == {"synthetic": "/one"}
    file = tmp_path / "written.yaml"
    config = Config(root=str(tmp_path), segment=segment).resolve()
    file.write_text(config.to_yaml())
    assert load(["--config", str(file)], DEMO, "a test")[0] == config


def test_an_arms_name_says_what_is_in_it() -> None:
    assert parse_arm("real") == ParsedArm("real", 0)
    assert parse_arm("real+12") == ParsedArm("real", 12)
    assert parse_arm("copy-paste") == parse_arm("copy-paste+1") == ParsedArm("copy-paste", 1)
    assert parse_arm("synthetic") == ParsedArm("synthetic", 0)


@pytest.mark.parametrize(
    ("given", "part"),
    [
        (["--segment.arms", "real+0"], "'real+0' is no arm; give real, real+K"),
        (["--segment.arms", "synthetic+1"], "is no arm"),
        (["--segment.arms", "copy-paste,copy-paste+1"], "an arm is named twice"),
        (["--segment.networks", "segformer-b7"], "'segformer-b7' is no network; did you mean 'segformer-b"),
        (["--segment.networks", "unet,unet"], "a network is named twice"),
        (["--segment.seeds", "1,1"], "each once"),
        (["--segment.seeds", "-1"], "whole numbers from 0 on"),
        (["--segment.steps", "0"], "greater than or equal to 1"),
        (["--segment.epochs", "0"], "greater than 0"),
        (["--segment.size", "60"], "multiple of 8"),
        (["--segment.tests", "Overall=/a"], "'overall' names all test sets together"),
        (["--segment.tests", "/a", "--segment.tests", "/b"], "has no name; give each of several sets as NAME=URI"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(given: list[str], part: str) -> None:
    with pytest.raises(UserError) as caught:
        loaded(*given)
    assert part in str(caught.value) and "\n" not in str(caught.value)
