"""What each arm is trained on, and what is refused: no test image, nor what was made from one, is ever trained on."""

from pathlib import Path

import pytest

from siamdiff.data.shards import shard_name
from siamdiff.errors import UserError
from siamdiff.segmentation.arms import (
    TestSet,
    check_origin,
    check_overlap,
    check_real,
    check_synthetic,
    default_tests,
    expand,
    has_groups,
    named_test,
    takes_synthetic,
)
from tests.segmentation.sets import SIDE, finish, foreign_set, pair, real_set, synthetic_set


def refused(call, *arguments, **options) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_arms_hold_what_their_names_say(tmp_path: Path) -> None:
    real = real_set(f"{tmp_path}/real")
    sets = {"synthetic": synthetic_set(f"{tmp_path}/a", real, folds=3)}
    train = real.keys("train")
    counts = {}
    for arm in expand(["real", "copy-paste", "copy-paste+2", "real+1", "real+2", "synthetic"], ["synthetic"]):
        parts = arm.parts(real, sets)
        counts[arm.name] = [len(keys) for _, keys in parts]
        assert all(of is real or of is sets["synthetic"] for of, _ in parts)
        assert set(parts[0][1]) <= set(train) or parts[0][0] is not real
    assert counts == {
        "real": [8], "copy-paste": [16], "copy-paste+2": [24], "real+1": [8, 8], "real+2": [8, 16], "synthetic": [24],
    }  # fmt: skip
    (arm,) = expand(["real+2"], ["synthetic"])
    folds = {sets["synthetic"].row(key).fold for key in arm.parts(real, sets)[1][1]}
    assert folds == {0, 1}
    (more,) = expand(["real+4"], ["synthetic"])
    assert "takes 4 folds" in refused(more.parts, real, sets)


def test_several_synthetic_sets_have_arms_of_their_own() -> None:
    names = [arm.name for arm in expand(["real", "real+1", "copy-paste", "synthetic"], ["ours", "b"])]
    assert names == ["real", "real+1 ours", "real+1 b", "copy-paste", "synthetic ours", "synthetic b"]
    assert not takes_synthetic(["real", "copy-paste+3"]) and takes_synthetic(["real", "real+1"])


def test_a_set_of_another_method_is_one_fold(tmp_path: Path) -> None:
    real, other = real_set(f"{tmp_path}/real"), foreign_set(f"{tmp_path}/other")
    one, two = expand(["real+1", "real+2"], ["synthetic"])
    assert [len(keys) for _, keys in one.parts(real, {"synthetic": other})] == [8, 5]
    assert "has 1;" in refused(two.parts, real, {"synthetic": other})
    (warning,) = check_origin("other", other, real, default_tests(real))
    assert "5 of 5 samples have no parent" in warning
    bare = foreign_set(f"{tmp_path}/bare", has_mask=False)
    assert "came without masks" in refused(check_synthetic, bare)


def test_what_was_made_from_val_or_test_is_refused(tmp_path: Path) -> None:
    real = real_set(f"{tmp_path}/real")
    tests = default_tests(real)
    good = synthetic_set(f"{tmp_path}/good", real)
    assert check_origin("good", good, real, tests) == []
    for split in ("val", "test"):
        parents = [*real.keys("train")[:3], real.keys(split)[0]]
        of = synthetic_set(f"{tmp_path}/{split}", real, 1, parents=parents)  # marked train all the same
        message = refused(check_origin, split, of, real, tests)
        assert "1 of 4 samples" in message and real.keys(split)[0] in message
    marked = synthetic_set(f"{tmp_path}/marked", real, 1, split="test")
    assert "8 of 8 samples" in refused(check_origin, "marked", marked, real, tests)
    assert "is a real set" in refused(check_synthetic, real)


def test_what_was_made_from_another_test_set_is_refused(tmp_path: Path) -> None:
    real, other = real_set(f"{tmp_path}/real"), real_set(f"{tmp_path}/other", {"test": 4}, seed=5)
    of = synthetic_set(f"{tmp_path}/of", real, 1, parents=[*real.keys("train")[:2], other.keys()[0]])
    tests = {"other": named_test(other, real)}
    assert other.keys()[0] in refused(check_origin, "of", of, real, tests)
    (warning,) = check_origin("of", of, real, default_tests(real))
    assert "1 of 3 samples have no parent" in warning


def test_what_was_made_from_a_member_of_a_held_out_group_is_refused(tmp_path: Path) -> None:
    groups = {0: "p", 1: "p", 200: "q"}
    real = real_set(f"{tmp_path}/real", groups=groups)
    samples = [pair(1000, "train", seed=1, group="q"), pair(1001, "train", seed=1, group="p")]
    of = finish(f"{tmp_path}/of", {shard_name("fold0", 0): samples}, "synthetic")
    message = refused(check_origin, "of", of, real, default_tests(real))
    assert "1 of 2 samples" in message and samples[0].meta.key in message


def test_a_real_set_whose_groups_are_divided_or_that_is_too_small_is_refused(tmp_path: Path) -> None:
    whole = real_set(f"{tmp_path}/whole", groups={0: "p", 1: "p"})
    check_real(whole)
    assert has_groups(whole)
    single = real_set(f"{tmp_path}/single")
    check_real(single)
    assert not has_groups(single)
    divided = real_set(f"{tmp_path}/divided", groups={0: "p", 200: "p"})
    assert "1 groups in more than one split (p)" in refused(check_real, divided)
    assert "has 1 samples in its train split" in refused(
        check_real, real_set(f"{tmp_path}/one", {"train": 1})
    )
    made = synthetic_set(f"{tmp_path}/made", single)
    assert "segment.real takes a real one" in refused(check_real, made)


def test_a_test_set_with_a_trained_image_is_refused_and_the_images_are_named(tmp_path: Path) -> None:
    real = real_set(f"{tmp_path}/real")
    synthetic = {"s": synthetic_set(f"{tmp_path}/s", real)}
    check_overlap(default_tests(real), real, synthetic, side=SIDE)
    for name, index, seed in (("train", 0, 0), ("val", 100, 0), ("synthetic", 1000, 1)):
        common = pair(index, "test", seed=seed, key="0123456789abcdef")  # known by its pixels, not by its key
        samples = [common, pair(300, "test", seed=7), pair(301, "test", seed=7)]
        other = finish(f"{tmp_path}/{name}", {shard_name("test", 0): samples}, "real")
        message = refused(check_overlap, {"o": named_test(other, real)}, real, synthetic, side=SIDE)
        assert "1 of 3 samples of the test set o" in message and "0123456789abcdef" in message
    # the same pixels in another format: another file, the same pair
    samples = [pair(i, "test", image_format="jpg") for i in range(7)]
    other = finish(f"{tmp_path}/jpg", {shard_name("test", 0): samples}, "real")
    message = refused(check_overlap, {"o": named_test(other, real)}, real, {}, side=SIDE)
    assert "7 of 7 samples" in message and message.count(", ") >= 5 and ", ...)" in message


def test_test_sets_are_real_of_the_same_size_and_not_too_small(tmp_path: Path) -> None:
    real = real_set(f"{tmp_path}/real")
    made = synthetic_set(f"{tmp_path}/made", real)
    assert "is synthetic; tests are on real" in refused(
        check_overlap, {"m": named_test(made, real)}, real, {}, side=SIDE
    )
    larger = real_set(f"{tmp_path}/larger", seed=4, side=48)
    assert "48 pixels, segment.real of 32" in refused(
        check_overlap, {"l": named_test(larger, real)}, real, {}, side=SIDE
    )
    none = real_set(f"{tmp_path}/none", {"train": 4, "val": 2})
    assert "test has 0 samples" in refused(check_overlap, default_tests(none), none, {}, side=SIDE).replace(
        f" at {none.uri}", ""
    ).replace("set test", "test")


def test_named_test_sets_of_the_source_are_scored_each_by_itself(tmp_path: Path) -> None:
    real = real_set(f"{tmp_path}/real", subsets=("ETIS", "CVC-300"))
    tests = default_tests(real)
    assert {name: len(of.keys) for name, of in tests.items()} == {"CVC-300": 2, "ETIS": 2}
    plain = real_set(f"{tmp_path}/plain")
    assert default_tests(plain)["test"].keys == plain.keys("test")
    assert named_test(plain, plain).keys == plain.keys("test")
    assert named_test(plain, real).keys == plain.keys()
    assert isinstance(named_test(plain, real), TestSet)
