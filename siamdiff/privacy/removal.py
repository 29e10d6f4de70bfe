"""A synthetic set without the samples that are over the threshold: a new set, whole or not there; the old one stays."""

from collections.abc import Collection
from typing import Any

from siamdiff import storage
from siamdiff.data.manifest import MANIFEST, finish_set
from siamdiff.data.shards import index_tar, read_marker, unpack, write_shard
from siamdiff.data.shardset import ShardSet
from siamdiff.errors import SiamdiffError, UserError
from siamdiff.export.card import Described, card
from siamdiff.export.common import shard_bytes, writing
from siamdiff.privacy.record import Report

CARD = "README.md"
OPTION = "--without"
_KEPT = ("masks", "model", "origin", "terms")  # of what the old set was made from: what readers ask of any


def write_without(of: ShardSet, report: Report, target: str) -> int:
    """Writes the samples that are not over the threshold as a set of their own, shard by shard under the same names.

    Its made_from has no plan, since it is not what a plan says; that of the old set is kept in `filtered_from`.

    Args:
        of: the set.
        report: of that set, the internal edition.
        target: URI of a folder that does not exist yet.

    Returns:
        how many samples were left out.

    Raises:
        UserError: the comparison was not made, nothing would be left, or something lies at the target.
        SiamdiffError: the set is damaged.
    """
    assert report.synthetic.digest == of.digest and report.edition == "internal"
    target = storage.normalize(target)
    if report.nearness.over is None:
        raise UserError(
            f"no image of {of.uri} was compared with training images ({report.nearness.said}); nothing is written "
            f"to {target}: name the training set with --training"
        )
    dropped = frozenset(report.nearness.over_keys)
    if len(dropped) == len(of):
        raise UserError(
            f"all {len(of)} images of {of.uri} are over the threshold, so nothing would be left; draw another set"
        )
    with writing(target, OPTION, MANIFEST) as uri:
        names = [name for shard in of.manifest.shards if (name := _copy(of, shard.name, uri, dropped))]
        manifest = of.manifest
        finished = finish_set(
            uri,
            names,
            kind="synthetic",
            resolution=manifest.resolution,
            demo=manifest.demo,
            license=manifest.license,
            permitted_use=manifest.permitted_use,
            made_from=_made_from(of, report, sorted(dropped)),
        )
        versions = read_marker(uri, names[0]).made_by.get("versions", {})
        storage.write_bytes(storage.join(uri, CARD), card([Described(finished, versions)]).encode())
    return len(dropped)


def refuse_target(of: ShardSet, target: str) -> None:
    """Tells before an hour's work that a new set cannot be written.

    Raises:
        UserError: something lies at the target, or it is in the set.
    """
    target = storage.normalize(target)
    if f"{target}/".startswith(f"{of.uri}/"):
        raise UserError(f"{target} lies in {of.uri}, which would no longer be whole; name a folder beside it")
    if storage.list_files(target):
        raise UserError(f"{target} is there already and not an empty folder; name another with {OPTION}")


def _copy(of: ShardSet, name: str, uri: str, dropped: Collection[str]) -> str | None:
    """Writes what stays of a shard; None where nothing does."""
    entry = next(shard for shard in of.manifest.shards if shard.name == name)
    data = shard_bytes(of.uri, entry)
    kept = [unpack(data, row) for row in index_tar(data, name) if row.key not in dropped]
    if not kept:
        return None
    try:
        made_by = read_marker(of.uri, name).made_by
    except FileNotFoundError as error:
        raise SiamdiffError(f"{of.uri}: shard {name} has no marker; python -m siamdiff verify") from error
    write_shard(uri, name, kept, made_by)
    return name


def _made_from(of: ShardSet, report: Report, dropped: list[str]) -> dict[str, Any]:
    """What the new set says of itself."""
    found, training = report.nearness, report.training
    old = of.manifest.made_from
    return {name: old[name] for name in _KEPT if name in old} | {
        "filtered_from": {"uri": of.uri, "digest": of.digest, "made_from": old},
        "dropped": dropped,
        "why": {
            "said": "nearer to a training image than real images of different groups are to each other",
            "inputs": report.inputs_digest,
            "quantile": found.quantile,
            "limits": {"features": found.limit_features, "pixels": found.limit_pixels},
        },
        "training": {"uri": training.uri, "digest": training.digest} if training else {},
    }
