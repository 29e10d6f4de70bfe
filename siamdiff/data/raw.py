"""From a raw pair to a sample: examine it (first pass), plan the shards, make the sample (second pass).

Both passes read the raw pair anew: what lies between them is a small record per pair, never pixels.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from siamdiff import storage
from siamdiff.data.checking import (
    Fault,
    RawPair,
    check_pair,
    decode_raw,
    resize_image,
    resize_mask,
    to_rgb,
)
from siamdiff.data.duplicates import near_pairs, perceptual_hash
from siamdiff.data.fitting import frame_pair
from siamdiff.data.layouts.pairs import Pair, Rejected
from siamdiff.data.phantom import render_phantom
from siamdiff.data.sample import EncodedSample, Foreign, make_sample, pixel_key
from siamdiff.data.shards import shard_name
from siamdiff.data.splits import assign_splits
from siamdiff.errors import SiamdiffError, UserError
from siamdiff.sections import Data

RECIPE = (
    2  # changes whenever the same source would give other bytes: leftovers of another recipe never mix in
)
DUPLICATE = "exact duplicate"
_SPLIT_ORDER = {"test": 0, "val": 1, "train": 2, None: 3}


@dataclass(frozen=True)
class Record:
    """What the first pass found about a pair: its key and coding, or the reason why it cannot be used."""

    key: str = ""
    perceptual: str = ""  # hash
    coding: str = ""
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Planned:
    """A usable pair with everything that the whole set decides about it."""

    pair: Pair
    key: str
    split: str
    group: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values, from which `from_dict` makes the same again."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Planned":
        """The inverse of `as_dict`."""
        return cls(Pair(**values["pair"]), values["key"], values["split"], values["group"])


@dataclass(frozen=True)
class Plan:
    """What ingest will write, and what it leaves out."""

    shards: dict[str, list[Planned]]  # name -> samples, sorted by key
    rejected: list[Rejected]  # bad pairs
    duplicates: list[Rejected]  # good pairs that are there already
    near_duplicates: list[dict[str, Any]]  # across splits: files, splits, distance in bits
    codings: dict[str, int]  # how many masks of each coding


def load_pair(folder: str, pair: Pair, data: Data) -> RawPair:
    """A raw pair, decoded and checked.

    Raises:
        Fault: it cannot be used.
        SiamdiffError: the store does not answer.
    """
    if pair.phantom is not None:
        image, mask = render_phantom(data.seed, pair.phantom, data.resolution)
        return RawPair(image, mask, "phantom")
    if not pair.mask:
        image = to_rgb(decode_raw(_read(folder, pair.image, "image"), "image"))
        return RawPair(image, np.zeros(image.shape[:2], np.uint8), "none")
    return check_pair(
        _read(folder, pair.image, "image"),
        _read(folder, pair.mask, "mask"),
        [_read(folder, plane, "image") for plane in pair.planes],
        pair.labels,
    )


def _read(folder: str, path: str, kind: str) -> bytes:
    try:
        return storage.read_bytes(storage.join(folder, path))
    except FileNotFoundError:
        raise Fault(f"{kind} cannot be read", "it is not there any more") from None
    except UserError as error:  # no permission for this one file; the listing of the folder went well
        raise Fault(f"{kind} cannot be read", str(error)) from None


def examine(folder: str, pair: Pair, data: Data) -> Record:
    """The record of a pair; a pair that cannot be used gets a reason, never an exception.

    Raises:
        SiamdiffError: the store does not answer.
    """
    try:
        raw = load_pair(folder, pair, data)
        frame = frame_pair(raw.image, raw.mask, data)
        if not data.allow_empty and not resize_mask(frame.cut(raw.mask), data.resolution).any():
            detail = "no lesion" if not raw.mask.any() else f"its lesion vanishes at {data.resolution} pixels"
            raise Fault("mask is empty", f"{detail}; data.allow_empty true accepts it")
    except Fault as fault:
        return Record(reason=fault.reason, detail=fault.detail)
    # the key is that of the whole picture, whatever is stored of it; looks are compared without frames and text
    left, top, right, bottom = frame.crop
    seen = raw.image[top:bottom, left:right]
    return Record(pixel_key(raw.image, raw.mask), perceptual_hash(seen), raw.coding)


def encode(folder: str, planned: Planned, data: Data, origin: Foreign | None = None) -> EncodedSample:
    """The sample of a planned pair, cropped, fitted and resized; `origin` is that of another method's image.

    Raises:
        SiamdiffError: the pair is not the one that was examined any more, or the store does not answer.
    """
    try:
        raw = load_pair(folder, planned.pair, data)
    except Fault as fault:
        raise SiamdiffError(
            f"{planned.pair.image} changed while it was ingested: {fault.reason}; run again"
        ) from None
    if pixel_key(raw.image, raw.mask) != planned.key:
        raise SiamdiffError(f"{planned.pair.image} changed while it was ingested; run the same command again")
    height, width = raw.mask.shape
    frame = frame_pair(raw.image, raw.mask, data)
    return make_sample(
        resize_image(frame.cut(raw.image), data.resolution),
        resize_mask(frame.cut(raw.mask), data.resolution),
        key=planned.key,
        prompt=data.prompt if planned.pair.prompt is None else planned.pair.prompt,
        split=planned.split,
        group=planned.group,
        source_size=(width, height),
        image_format=data.image_format,
        subset=planned.pair.subset,
        crop=frame.crop,
        padding=frame.padding,
        synthetic=origin,
    )


def make_plan(pairs: Sequence[Pair], records: Sequence[Record], data: Data) -> Plan:
    """Leaves out bad pairs and copies, deals the rest to splits and shards.

    Of exact copies one is kept: the test set's before the validation set's before the training set's, so that a test
    set which others publish results on stays whole; then the first by name.

    Raises:
        UserError: the source's layout divides a group.
    """
    usable: dict[str, tuple[Pair, Record]] = {}
    rejected: list[Rejected] = []
    duplicates: list[Rejected] = []
    examined = list(zip(pairs, records, strict=True))
    for pair, record in sorted(examined, key=lambda found: (_SPLIT_ORDER[found[0].split], found[0].image)):
        if record.reason:
            rejected.append(Rejected(_files(pair), record.reason, record.detail))
        elif record.key in usable:
            duplicates.append(Rejected(_files(pair), DUPLICATE, f"of {usable[record.key][0].image}"))
        else:
            usable[record.key] = pair, record
    planned = _planned(usable, data)
    return Plan(
        shards=_shards(planned, data.shard_size),
        rejected=sorted(rejected, key=lambda bad: bad.files),
        duplicates=sorted(duplicates, key=lambda bad: bad.files),
        near_duplicates=_near(planned, usable),
        codings=dict(Counter(record.coding for _, record in usable.values()).most_common()),
    )


def too_little(
    data: Data, total: int, any_usable: bool, rejected: Sequence[Rejected], listed: str
) -> SiamdiffError | None:
    """The error to end with where too little of a source is left.

    Args:
        data: `source` and `max_rejected`.
        total: pairs of the source, bad ones included.
        any_usable: whether one is left.
        rejected: the bad ones. Copies are not: leaving them out loses nothing.
        listed: where they are listed, as a clause.
    """
    worst = most_frequent_reason(rejected)
    if not any_usable:
        return UserError(
            f"no usable pair in {data.source}: {len(rejected)} of {total} are bad, most because: {worst}; {listed}"
        )
    if len(rejected) > data.max_rejected * total:
        return SiamdiffError(
            f"{len(rejected)} of {total} pairs are bad, data.max_rejected allows {data.max_rejected:.0%}; "
            f"most because: {worst}; {listed}: repair them or raise data.max_rejected"
        )
    return None


def most_frequent_reason(rejected: Sequence[Rejected]) -> str:
    """Why most of them are left out; "none" of none."""
    commonest = Counter(bad.reason for bad in rejected).most_common(1)
    return commonest[0][0] if commonest else "none"


def _files(pair: Pair) -> list[str]:
    return pair.files() or [pair.image]


def _planned(usable: dict[str, tuple[Pair, Record]], data: Data) -> list[Planned]:
    """The usable pairs with split and group, sorted by key.

    A group is called by the smallest key in it: names of patients stay out of the set.
    """
    smallest: dict[tuple[str | None, str], str] = {}
    for key in sorted(usable):
        smallest.setdefault(_group(key, usable[key][0]), key)
    pairs = {key: usable[key][0] for key in sorted(usable)}
    groups = [smallest[_group(key, pair)] for key, pair in pairs.items()]
    splits = assign_splits(
        groups,
        [pair.split for pair in pairs.values()],
        {str(name): share for name, share in data.split.items()},
        data.seed,
        [pair.image for pair in pairs.values()],
    )
    return [
        Planned(pair, key, split, group)
        for (key, pair), split, group in zip(pairs.items(), splits, groups, strict=True)
    ]


def _group(key: str, pair: Pair) -> tuple[str | None, str]:
    """What holds samples together: the group that the user names, else nothing but the sample itself."""
    return (pair.group, "") if pair.group else (None, key)


def _shards(planned: Iterable[Planned], shard_size: int) -> dict[str, list[Planned]]:
    by_split: dict[str, list[Planned]] = {}
    for sample in planned:
        by_split.setdefault(sample.split, []).append(sample)
    return {
        shard_name(split, number): samples[start : start + shard_size]
        for split, samples in sorted(by_split.items())
        for number, start in enumerate(range(0, len(samples), shard_size))
    }


def _near(planned: Sequence[Planned], usable: dict[str, tuple[Pair, Record]]) -> list[dict[str, Any]]:
    hashes = [usable[sample.key][1].perceptual for sample in planned]
    found = near_pairs(hashes, [sample.split for sample in planned])
    return [
        {
            "keys": [planned[i].key, planned[j].key],
            "files": [planned[i].pair.image, planned[j].pair.image],
            "splits": [planned[i].split, planned[j].split],
            "distance": distance,
        }
        for i, j, distance in sorted(found, key=lambda near: near[2])
    ]
