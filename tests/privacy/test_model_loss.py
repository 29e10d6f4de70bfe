"""Whether the model gives its training pairs away."""

from pathlib import Path

import numpy as np
import pytest

from siamdiff.data.shardset import ShardSet
from siamdiff.privacy.model_loss import model_membership
from siamdiff.privacy.neighbours import Real
from siamdiff.privacy.spaces import Views
from tests.privacy.sets import phantoms, real_set
from tests.tiny_model import write_model

MEMBERS, HELD_OUT = 10, 8


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ShardSet]:
    """A model of random weights that says it was trained on a set."""
    folder = tmp_path_factory.mktemp("model")
    real = real_set(f"{folder}/data", phantoms(MEMBERS + HELD_OUT, side=32), HELD_OUT)
    write_model(f"{folder}/model", folder / "base", real)
    return f"{folder}/model", real


def listed(real: ShardSet) -> Real:
    """Its images without what other checks need."""
    keys = [*real.keys("train"), *real.keys("val")]
    views = Views(np.empty((len(keys), 0)), np.empty((0, len(keys), 0)))
    return Real(keys, [key[:3] for key in keys], len(real.keys("train")), views, frozenset(), 0)


def test_a_model_that_saw_nothing_gives_nothing_away(made: tuple[str, ShardSet]):
    uri, real = made
    found = model_membership(uri, real, listed(real), 200, 0, "cpu")
    (attack,) = found.attacks
    assert (attack.members, attack.others) == (MEMBERS, HELD_OUT)
    assert attack.low <= 0.5 and found.verdict == "look" and "fewer than 30 images" in found.said
    assert model_membership(uri, real, listed(real), 200, 0, "cpu") == found


def test_no_more_pairs_are_asked_about_than_may_be(made: tuple[str, ShardSet]):
    uri, real = made
    (attack,) = model_membership(uri, real, listed(real), 3, 0, "cpu").attacks
    assert (attack.members, attack.others) == (3, 3)


def test_another_set_than_the_models_is_not_asked_about(made: tuple[str, ShardSet], tmp_path: Path):
    uri, _ = made
    other = real_set(f"{tmp_path}/data", phantoms(6, seed=4, side=32), 2)
    found = model_membership(uri, other, listed(other), 200, 0, "cpu")
    assert found.verdict == "not done" and "another set" in found.said
