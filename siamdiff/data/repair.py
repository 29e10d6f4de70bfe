"""What is damaged is made to be made again, and what nothing names is removed.

Neither makes a sample: the command that made a set finds the shards without a marker and makes just those.
"""

from collections.abc import Callable
from dataclasses import dataclass

from siamdiff import storage
from siamdiff.data.manifest import MANIFEST, Manifest, ShardEntry, read_manifest, withdraw
from siamdiff.data.shards import FOLDER, finished_shards, marker_uri, read_marker, tar_uri
from siamdiff.data.verify import Judge, Problem, check_shard, problems_of
from siamdiff.errors import SiamdiffError, UserError
from siamdiff.run import lease

DAMAGED = "damaged"  # folder of a set for tars that were put aside


@dataclass(frozen=True)
class Repair:
    """What was wrong with a set, and the shards whose markers were dropped for it."""

    problems: list[str]
    dropped: list[str]


def repair(uri: str, judge_of: Callable[[Manifest], Judge | None]) -> Repair:
    """Drops the markers of damaged shards and puts damaged tars aside; the set is incomplete from then on.

    A tar that is sound stays: the command that made the set finds it and marks it again. One that is not goes to
    DAMAGED, since most of its samples may be whole and their source lost. An incomplete set is checked too, every shard
    by its own marker. A set without problems is left as it is.

    Args:
        uri: of the set.
        judge_of: gives what else looks at the samples of a set, as in `problems_of`.

    Raises:
        UserError: nothing is there, or a set of an unknown schema.
        InUseError: a job is at work there.
    """
    uri = _existing(uri)
    with lease(uri):
        if not storage.exists(storage.join(uri, MANIFEST)):
            return _of_incomplete(uri)
        try:
            manifest = read_manifest(uri)
        except UserError:  # not to be judged by a schema that is not its own
            raise
        except SiamdiffError as error:  # a damaged dataset.json tells nothing of the shards
            withdraw(uri)
            found = _of_incomplete(uri)
            return Repair([str(error), *found.problems], found.dropped)
        problems = problems_of(uri, manifest, judge_of(manifest))
        if problems:
            withdraw(uri)  # first of all: no reader shall open it between two deletions
        return _dropped(uri, problems)


def _of_incomplete(uri: str) -> Repair:
    """Checks every marked shard of a set without a manifest by its own marker."""
    problems: list[Problem] = []
    for name in sorted(finished_shards(uri)):
        try:
            marker = read_marker(uri, name)
        except SiamdiffError as error:
            problems.append(Problem(str(error), name))
            continue
        entry = ShardEntry(name=name, count=marker.count, size=marker.size, sha256=marker.sha256)
        problems += check_shard(uri, entry).problems(name)
    return _dropped(uri, problems)


def _dropped(uri: str, problems: list[Problem]) -> Repair:
    """Removes the markers of shards with problems, then puts the tars aside that are themselves wrong."""
    shards = sorted({problem.shard for problem in problems if problem.shard})
    wrong = {problem.shard for problem in problems if problem.is_of_tar}
    for name in shards:
        storage.delete(marker_uri(uri, name))
        if name in wrong:  # else the next attempt would find it in its place
            aside = storage.join(uri, DAMAGED, f"{name}.tar")
            storage.write_bytes(aside, storage.read_bytes(tar_uri(uri, name)))
            storage.delete(tar_uri(uri, name))
    return Repair([problem.text for problem in problems], shards)


def collect(uri: str, *, dry_run: bool = False) -> list[str]:
    """Removes what no marker names: tars of lost attempts, tars that `repair` put aside, files never finished.

    Returns their names below the set. With `dry_run` nothing is removed.

    Raises:
        UserError: no set is there.
        InUseError: a job is at work there.
    """
    uri = _existing(uri)
    with lease(uri):
        files, marked = storage.list_files(storage.join(uri, FOLDER)), finished_shards(uri)
        strays = [name for name in files if name.endswith(".tar") and name.removesuffix(".tar") not in marked]
        names = [storage.join(FOLDER, name) for name in strays]
        names += [storage.join(DAMAGED, name) for name in storage.list_files(storage.join(uri, DAMAGED))]
        for name in [] if dry_run else names:
            storage.delete(storage.join(uri, name))
        return names + storage.sweep_partials(uri, dry_run=dry_run)


def _existing(uri: str) -> str:
    """The URI of a folder with shards: a lease in a mistyped one would make it.

    Raises:
        UserError: there are none.
    """
    uri = storage.normalize(uri)
    if not storage.list_files(storage.join(uri, FOLDER)):
        raise UserError(f"{uri} holds no shards; name the folder of a set")
    return uri
