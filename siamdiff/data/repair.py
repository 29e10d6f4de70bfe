"""What is damaged is made to be made again, and what nothing names is removed.

Neither makes a sample: the command that made a set finds the shards without a marker and makes just those.
"""

from collections.abc import Callable
from dataclasses import dataclass

from siamdiff import storage
from siamdiff.data.manifest import Manifest, ShardEntry, read_manifest, withdraw
from siamdiff.data.shards import FOLDER, finished_shards, marker_uri, read_marker, tar_uri
from siamdiff.data.verify import Judge, Problem, check_shard, problems_of
from siamdiff.errors import SiamdiffError, UserError
from siamdiff.run import lease


@dataclass(frozen=True)
class Repair:
    """What was wrong with a set, and the shards whose markers were dropped for it."""

    problems: list[str]
    dropped: list[str]


def repair(uri: str, judge_of: Callable[[Manifest], Judge | None]) -> Repair:
    """Drops the markers of damaged shards, and tars that are damaged themselves; the set is incomplete from then on.

    A tar that is sound stays: the command that made the set finds it and marks it again. An incomplete set is checked
    too, every shard by its own marker. A set without problems is left as it is.

    Args:
        uri: of the set.
        judge_of: gives what else looks at the samples of a set, as in `problems_of`.

    Raises:
        UserError: nothing is there.
        InUseError: a job is at work there.
    """
    uri = storage.normalize(uri)
    with lease(uri):
        try:
            manifest = read_manifest(uri)
        except UserError:
            return _of_incomplete(uri)
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
    names = finished_shards(uri)
    if not names:
        raise UserError(f"{uri} holds no finished shard; name the folder of a set")
    problems: list[Problem] = []
    for name in sorted(names):
        try:
            marker = read_marker(uri, name)
        except SiamdiffError as error:
            problems.append(Problem(str(error), name))
            continue
        entry = ShardEntry(name=name, count=marker.count, size=marker.size, sha256=marker.sha256)
        problems += check_shard(uri, entry).problems(name)
    return _dropped(uri, problems)


def _dropped(uri: str, problems: list[Problem]) -> Repair:
    """Removes the markers of shards with problems, then the tars that are themselves wrong."""
    shards = sorted({problem.shard for problem in problems if problem.shard})
    wrong = {problem.shard for problem in problems if problem.is_of_tar}
    for name in shards:
        storage.delete(marker_uri(uri, name))
        if name in wrong:  # else the next attempt would find it in its place
            storage.delete(tar_uri(uri, name))
    return Repair([problem.text for problem in problems], shards)


def collect(uri: str, *, dry_run: bool = False) -> list[str]:
    """Removes what no marker names: tars of attempts that were lost before they marked them, files never finished.

    Returns their names below the set. With `dry_run` nothing is removed.

    Raises:
        UserError: no set is there.
        InUseError: a job is at work there.
    """
    uri = storage.normalize(uri)
    folder = storage.join(uri, FOLDER)
    with lease(uri):
        files = storage.list_files(folder)
        if not files:
            raise UserError(f"{uri} holds no shards; name the folder of a set")
        marked = finished_shards(uri)
        strays = [name for name in files if name.endswith(".tar") and name.removesuffix(".tar") not in marked]
        if not dry_run:
            for name in strays:
                storage.delete(storage.join(folder, name))
        return [storage.join(FOLDER, name) for name in strays] + storage.sweep_partials(uri, dry_run=dry_run)
