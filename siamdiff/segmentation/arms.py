"""What the arms of a segmentation are trained on, and what must never be trained on."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from siamdiff.data.sample import Foreign
from siamdiff.data.shardset import ShardSet
from siamdiff.errors import UserError
from siamdiff.sections import SYNTHETIC
from siamdiff.sections.segment import COPY_PASTE, REAL, parse_arm

TRAIN, VAL, TEST_SPLIT = "train", "val", "test"
MIN_SAMPLES = 2
_SHOWN = 5  # keys in a message


@dataclass(frozen=True)
class Arm:
    """One of the training sets that are compared."""

    name: str
    copies: int  # how often the real training pairs are in it; 0: nothing real
    synthetic: str | None = None  # name of a synthetic set
    folds: int | None = None  # how many of its folds, from fold 0 on; None: all

    def parts(self, real: ShardSet, synthetic: Mapping[str, ShardSet]) -> list[tuple[ShardSet, list[str]]]:
        """The sets and keys that it is trained on, in a fixed order.

        Raises:
            UserError: the synthetic set has fewer folds.
        """
        parts = [(real, real.keys(TRAIN) * self.copies)] if self.copies else []
        if self.synthetic is not None:
            of = synthetic[self.synthetic]
            parts.append((of, folds_of(of, self.folds, self.name)))
        return parts


def expand(arms: Sequence[str], sets: Sequence[str]) -> list[Arm]:
    """The arms by their names; one that takes synthetic pairs is made once for each of several sets."""
    found: list[Arm] = []
    for name in arms:
        base, folds = parse_arm(name)
        if base == REAL and not folds:
            found.append(Arm(REAL, 1))
        elif base == COPY_PASTE:
            found.append(Arm(name, 1 + folds))
        else:
            for of in sets:
                label = name if len(sets) == 1 else f"{name} {of}"
                is_mixed = base != SYNTHETIC
                found.append(Arm(label, int(is_mixed), of, folds if is_mixed else None))
    return found


def takes_synthetic(arms: Iterable[str]) -> bool:
    """Whether any of the named arms needs a synthetic set."""
    return any(arm.synthetic for arm in expand(list(arms), [SYNTHETIC]))


def folds_of(synthetic: ShardSet, count: int | None, arm: str) -> list[str]:
    """Sorted keys of the first `count` folds of a synthetic set; without folds, as other methods' sets are, it is one.

    Raises:
        UserError: it has fewer folds.
    """
    if count is None:
        return synthetic.keys()
    folds = [fold or 0 for fold in synthetic.index["fold"].to_pylist()]
    there = sorted(set(folds))
    if count > len(there):
        raise UserError(
            f"the arm {arm!r} takes {count} folds, {synthetic.uri} has {len(there)}; generate with --generate.folds "
            f"{count}, or give smaller --segment.arms"
        )
    taken = set(there[:count])
    return [key for key, fold in zip(synthetic.keys(), folds, strict=True) if fold in taken]


@dataclass(frozen=True)
class TestSet:
    """Real pairs that the networks are scored on."""

    __test__ = False  # no test of pytest's

    shards: ShardSet
    keys: list[str]


def has_groups(shard_set: ShardSet) -> bool:
    """Whether samples share groups, patients or videos; else each is its own."""
    return any(group != key for key, group in _pairs(shard_set, "key", "group"))


def check_real(real: ShardSet) -> None:
    """Looks whether a set can be trained on.

    Raises:
        UserError: it is synthetic, has too few training samples, or a group in several splits.
    """
    if real.manifest.kind != "real":
        raise UserError(f"{real.uri} is a {real.manifest.kind} set; segment.real takes a real one")
    count = len(real.keys(TRAIN))
    if count < MIN_SAMPLES:
        raise UserError(
            f"{real.uri} has {count} samples in its train split; a segmenter needs at least {MIN_SAMPLES}: give "
            "another --segment.real"
        )
    splits: dict[str, str] = {}
    divided = {g for g, s in _pairs(real, "group", "split") if splits.setdefault(g, s) != s}
    if divided:
        raise UserError(
            f"{real.uri} has {len(divided)} groups in more than one split ({_some(divided)}): test images would be of "
            "patients that were trained on; ingest it again with data.groups"
        )


def check_synthetic(synthetic: ShardSet) -> None:
    """Looks whether a set can be trained on as a synthetic one.

    Raises:
        UserError: it is real, has no masks or too few samples.
    """
    if synthetic.manifest.kind != "synthetic":
        raise UserError(f"{synthetic.uri} is a real set; segment.synthetic takes a synthetic one")
    origin = synthetic.manifest.made_from.get("origin")
    if origin and not Foreign.model_validate(origin).has_mask:
        raise UserError(
            f"the images of {synthetic.uri} came without masks; a segmenter cannot learn from them"
        )
    if len(synthetic) < MIN_SAMPLES:
        raise UserError(
            f"{synthetic.uri} has {len(synthetic)} samples; a segmenter needs at least {MIN_SAMPLES}"
        )


def check_origin(name: str, shards: ShardSet, real: ShardSet, tests: Mapping[str, TestSet]) -> list[str]:
    """Looks whether a synthetic set may be trained on beside a real one; returns what is not known, as warnings.

    Raises:
        UserError: a sample was made from a val or test sample, or from one of its group.
    """
    split_of = dict(_pairs(real, "key", "split"))
    held_out = {key for key, split in split_of.items() if split != TRAIN}
    held_out |= {key for test in tests.values() for key in test.keys}
    groups = {group for group, split in _pairs(real, "group", "split") if split != TRAIN}
    groups |= {group for test in tests.values() for group in _groups(test)}
    leaks, unknown = [], 0
    for key, split, group, parent in _pairs(shards, "key", "split", "group", "parent"):
        if split != TRAIN or parent in held_out or group in groups:
            leaks.append(f"{key} of {parent} ({split})" if parent else f"{key} ({split})")
        unknown += parent not in split_of
    if leaks:
        raise UserError(
            f"{len(leaks)} of {len(shards)} samples of {shards.uri} were made from val or test samples "
            f"({_some(leaks)}), which must not be trained on; generate with --generate.split train"
        )
    warnings = []
    if unknown:
        warnings.append(
            f"{name}: {unknown} of {len(shards)} samples have no parent in {real.uri}: whether test images went into "
            "them is not known"
        )
    model = shards.manifest.made_from.get("model") or {}
    if model and model.get("data_digest") != real.digest:
        warnings.append(
            f"{name}: its model was trained on another set than {real.uri}: whether on test images is not known"
        )
    return warnings


def check_overlap(
    tests: Mapping[str, TestSet], real: ShardSet, synthetic: Mapping[str, ShardSet], *, side: int
) -> None:
    """Looks whether the networks can be scored on the test sets.

    Raises:
        UserError: one is synthetic, of another resolution or too small; an image, a pair or a group of it is trained
            on or chosen by.
    """
    seen = {key for split in (TRAIN, VAL) for key in real.keys(split)}
    used = _pairs(real, "key", "split", "image_sha256", "group")
    images = {image for _, split, image, _ in used if split != TEST_SPLIT}
    groups = {group for _, split, _, group in used if split != TEST_SPLIT}
    for of in synthetic.values():
        images |= {image for (image,) in _pairs(of, "image_sha256")}
    for name, test in tests.items():
        if test.shards.manifest.kind != "real":
            raise UserError(
                f"the test set {name} at {test.shards.uri} is synthetic; tests are on real images"
            )
        check_side(f"the test set {name}", test.shards, side)
        if len(test.keys) < MIN_SAMPLES:
            raise UserError(
                f"the test set {name} at {test.shards.uri} has {len(test.keys)} samples; at least {MIN_SAMPLES} are "
                "needed: ingest with a share for test, or give --segment.tests NAME=URI"
            )
        wanted = set(test.keys)
        rows = _pairs(test.shards, "key", "image_sha256", "group")
        common = [
            key
            for key, image, group in rows
            if key in wanted and (key in seen or image in images or group in groups)
        ]
        if common:
            raise UserError(
                f"{len(common)} of {len(wanted)} samples of the test set {name} at {test.shards.uri} are also trained "
                f"on or chosen by, as images or by their group ({_some(common)}); give a test set without them"
            )


def check_side(what: str, shard_set: ShardSet, side: int) -> None:
    """Refuses a set of another resolution than the real one's, `side` pixels.

    Raises:
        UserError: it has another.
    """
    if shard_set.manifest.resolution != side:
        raise UserError(
            f"{what} at {shard_set.uri} holds images of {shard_set.manifest.resolution} pixels, segment.real of "
            f"{side}; give sets of one resolution"
        )


def default_tests(real: ShardSet) -> dict[str, TestSet]:
    """The test split of the real set; where the source had named test sets, each by itself."""
    keys = real.keys(TEST_SPLIT)
    subsets = {key: real.read_encoded(key).meta.subset for key in keys}
    counts = Counter(subset or TEST_SPLIT for subset in subsets.values())
    return {
        name: TestSet(real, [key for key in keys if (subsets[key] or TEST_SPLIT) == name])
        for name in sorted(counts)
    } or {TEST_SPLIT: TestSet(real, [])}


def named_test(shard_set: ShardSet, real: ShardSet) -> TestSet:
    """All samples of another set; of the set that is trained on, its test split."""
    is_same = shard_set.digest == real.digest
    return TestSet(shard_set, shard_set.keys(TEST_SPLIT if is_same else None))


def _groups(test: TestSet) -> set[str]:
    wanted = set(test.keys)
    return {group for key, group in _pairs(test.shards, "key", "group") if key in wanted}


def _pairs(shard_set: ShardSet, *columns: str) -> list[tuple]:
    table: pa.Table = shard_set.index
    return list(zip(*(table[name].to_pylist() for name in columns), strict=True))


def _some(items: Iterable[str]) -> str:
    ordered = sorted(items)
    return ", ".join(ordered[:_SHOWN]) + (", ..." if len(ordered) > _SHOWN else "")
