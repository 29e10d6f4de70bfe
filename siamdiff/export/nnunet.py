"""nnU-Net v2's raw data set: imagesTr, labelsTr, imagesTs, labelsTs, dataset.json and splits_final.json.

nnU-Net's NaturalImage2DIO reads a colour image as one PNG, CASE_0000.png, with three channels; labels are 0 and 1. JPEG
is not accepted and is written as PNG, pixel by pixel the same. A case is called KIND_KEY.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import siamdiff
from siamdiff import storage
from siamdiff.data.sample import EncodedSample, decode_image, decode_mask, encode_image, encode_mask
from siamdiff.data.shardset import ShardSet
from siamdiff.data.splits import assign_splits
from siamdiff.errors import UserError
from siamdiff.export.card import joined
from siamdiff.export.common import (
    METADATA,
    fields,
    finish,
    has_mask,
    metadata,
    open_sets,
    put_all,
    read_shards,
    writing,
)

DEFAULT_FOLDS = 5  # nnU-Net's own number
SPLITS_FILE = "splits_final.json"
TRAINING, TEST = "imagesTr", "imagesTs"
LABELS = {TRAINING: "labelsTr", TEST: "labelsTs"}
LEFT_OUT = "left out (synthetic, without a mask or with one of val or test)"
_NAME = re.compile(r"Dataset\d{3}_[A-Za-z0-9_-]+")
_SEED = 0  # of the order in which groups of one size are dealt to folds


@dataclass
class _Cases:
    """Names of cases that can be trained on, with their groups."""

    folds: list[dict[str, str]]  # of each fold the real cases to validate on: case -> group
    real: dict[str, str]
    synthetic: dict[str, str] = field(default_factory=dict)


def export_nnunet(uris: Sequence[str], target: str, folds: int | None = None) -> dict[str, int]:
    """Writes complete sets, real and synthetic, as one raw data set of nnU-Net v2.

    Real samples of train and val become training cases, those of test go to imagesTs and labelsTs. Synthetic ones
    become training cases if their mask is of train; others would show the network what it is measured on.
    In splits_final.json a synthetic case stands in `train` alone, and not in a fold that validates on its mask's group.

    Args:
        uris: of the sets, at least one of them real.
        target: URI of a folder DatasetNNN_NAME that does not exist yet or is empty.
        folds: cross-validation over the real train and val samples, groups undivided, in this many folds; None: one
            fold that is the sets' own split or, where nothing is in val, 5 folds.

    Returns:
        Cases by where they went.

    Raises:
        UserError: another name, no real sample to validate on, more folds than groups, not complete sets, a key in two
            of them, or a target that is taken.
        SiamdiffError: a set is damaged, or the store fails.
    """
    name = storage.name_of(storage.normalize(target))
    if not _NAME.fullmatch(name):
        raise UserError(
            f"nnU-Net would not find {name!r}; call the folder DatasetNNN_NAME, such as Dataset501_Polyps"
        )
    sets = open_sets(uris)
    cases = _real_cases(sets, folds)
    counts: Counter[str] = Counter()
    with writing(target) as uri:
        with metadata(uri) as add:
            for shard_set in sets:
                for samples in read_shards(shard_set):
                    placed = [(sample, _place(sample, shard_set)) for sample in samples]
                    counts.update(place or LEFT_OUT for _, place in placed)
                    kept = [(sample, place) for sample, place in placed if place]
                    put_all(uri, (file for one in kept for file in _files(shard_set, *one)))
                    for sample, place in kept:
                        add(fields(sample, shard_set, *_paths(shard_set, sample, place)))
                        if shard_set.manifest.kind == "synthetic":
                            cases.synthetic[_case(sample.meta.key, shard_set)] = sample.meta.group
        storage.write_json(storage.join(uri, SPLITS_FILE), _splits(cases))
        storage.write_json(storage.join(uri, "dataset.json"), _dataset_json(name, sets, counts[TRAINING]))
        finish(uri, sets, "nnunet", counts)
    return dict(sorted(counts.items()))


def _case(key: str, shard_set: ShardSet) -> str:
    return f"{shard_set.manifest.kind}_{key}"


def _place(sample: EncodedSample, shard_set: ShardSet) -> str | None:
    """The folder of its image, or None: left out."""
    split = sample.meta.split
    if shard_set.manifest.kind == "real":
        return TEST if split == "test" else TRAINING
    return TRAINING if split == "train" and has_mask(sample) else None


def _paths(shard_set: ShardSet, sample: EncodedSample, place: str) -> tuple[str, str]:
    case = _case(sample.meta.key, shard_set)
    return f"{place}/{case}_0000.png", f"{LABELS[place]}/{case}.png"


def _files(shard_set: ShardSet, sample: EncodedSample, place: str) -> list[tuple[str, bytes]]:
    image_path, label_path = _paths(shard_set, sample, place)
    image = sample.image
    if sample.image_format != "png":
        image = encode_image(decode_image(image), "png")
    return [(image_path, image), (label_path, encode_mask(decode_mask(sample.mask) // 255))]


def _real_cases(sets: Sequence[ShardSet], folds: int | None) -> _Cases:
    """The real training cases, dealt to folds."""
    real: dict[str, str] = {}
    val: dict[str, str] = {}
    for shard_set in sets:
        if shard_set.manifest.kind == "real":
            columns = shard_set.index.select(["key", "split", "group"]).to_pydict()
            for key, split, group in zip(*columns.values(), strict=True):
                if split != "test":
                    real[_case(key, shard_set)] = group
                if split == "val":
                    val[_case(key, shard_set)] = group
    if not real:
        raise UserError(
            f"{', '.join(shard_set.uri for shard_set in sets)}: no real samples of train or val, and nnU-Net may "
            "validate on no others; name the real set too"
        )
    if folds is None and val:
        if len(val) == len(real):
            raise UserError("no real samples of train, only of val; give --folds to divide them anew")
        return _Cases([val], real)
    return _Cases(_deal(real, DEFAULT_FOLDS if folds is None else folds), real)


def _deal(real: dict[str, str], folds: int) -> list[dict[str, str]]:
    """The cases that each fold validates on; a group is never divided."""
    names = [str(number) for number in range(folds)]
    groups = list(real.values())
    validated: list[dict[str, str]] = []
    if folds >= 2:
        dealt = assign_splits(groups, [None] * len(real), dict.fromkeys(names, 1 / folds), _SEED, list(real))
        items = list(zip(real.items(), dealt, strict=True))
        validated = [dict(item for item, fold in items if fold == name) for name in names]
    if not validated or not all(validated):
        raise UserError(
            f"{len(real)} real samples in {len(set(groups))} groups cannot be dealt to {folds} folds; give another "
            "number with --folds, at least 2"
        )
    return validated


def _splits(cases: _Cases) -> list[dict[str, list[str]]]:
    """The content of splits_final.json: of each fold the cases to train and to validate on."""
    splits = []
    for val in cases.folds:
        seen = set(val.values())
        train = [case for case, group in (cases.real | cases.synthetic).items() if group not in seen]
        splits.append({"train": sorted(train), "val": sorted(val)})
    return splits


def _dataset_json(name: str, sets: Sequence[ShardSet], training: int) -> dict[str, Any]:
    manifests = [shard_set.manifest for shard_set in sets]
    about = ["Images and lesion masks. Not for diagnosis."]
    if any(manifest.kind == "synthetic" for manifest in manifests):
        about.append("Holds synthetic images, for training alone.")
    if any(manifest.demo for manifest in manifests):
        about.append("Made by the demo, for looking at.")
    about.append(f"What each case is: {METADATA}.")
    terms = joined(manifests)
    return {
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": {"background": 0, "lesion": 1},
        "numTraining": training,
        "file_ending": ".png",
        "overwrite_image_reader_writer": "NaturalImage2DIO",
        "name": name.partition("_")[2],
        "description": " ".join(about),
        "licence": terms.license,
        "permitted_use": terms.permitted_use,
        "converted_by": f"siamdiff {siamdiff.__version__}",
    }
