"""Re-reads a whole shard set and says what is wrong with it, problem by problem."""

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import pyarrow as pa

from siamdiff import storage
from siamdiff.data.manifest import INDEX, INDEX_SCHEMA, Manifest, ShardEntry, read_index, read_manifest
from siamdiff.data.sample import Sample
from siamdiff.data.shards import FOLDER, IndexRow, Marker, index_tar, read_marker, tar_uri, unpack
from siamdiff.errors import SiamdiffError, UserError

_THREADS = 4


Look = Callable[[str, Sequence[Sample]], Iterable[str]]
"""Further problems of a shard, of whose samples these decode."""


class Judge(Protocol):
    """What else looks at a set, such as siamdiff.sampling.audit.Audit."""

    def __call__(self, shard: str, samples: Sequence[Sample]) -> Iterable[str]:
        """See `Look`."""
        ...

    def missing(self, listed: Collection[str]) -> Iterable[str]:
        """Shards that the set should list and does not."""
        ...


@dataclass(frozen=True)
class Problem:
    """One line of what is wrong, and whose."""

    text: str
    shard: str = ""  # whose files are wrong; "": the set's own
    is_of_tar: bool = False  # its tar's content is wrong, not the marker's

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class CheckedShard:
    """What was found in a shard: its rows as the tar has them (None: unreadable), and what is wrong."""

    rows: list[IndexRow] | None
    tar_problems: list[str]
    marker_problems: list[str]

    def problems(self, shard: str) -> list[Problem]:
        """All of them, told of the shard with this name."""
        of_marker = [Problem(text, shard) for text in self.marker_problems]
        return of_marker + [Problem(text, shard, is_of_tar=True) for text in self.tar_problems]


def verify(uri: str, judge_of: Callable[[Manifest], Judge | None] | None = None) -> list[str]:
    """Problems of a complete set, one line each; [] when it is whole.

    Every byte is read: hashes, sizes and counts of shards, markers and totals; members, their JSON and hashes; every
    image decodes as RGB of the size declared, every mask as 0 and 255; keys are unique; index.parquet agrees.

    Args:
        uri: of the set.
        judge_of: gives what else looks at the samples of a set, such as `siamdiff.sampling.audit.audit_of`.

    Raises:
        UserError: not a complete set (no dataset.json), or of an unknown schema.
    """
    uri = storage.normalize(uri)
    try:
        manifest = read_manifest(uri)
    except UserError:
        raise
    except SiamdiffError as error:
        return [str(error)]
    judge = judge_of(manifest) if judge_of else None
    return [problem.text for problem in problems_of(uri, manifest, judge)]


def problems_of(uri: str, manifest: Manifest, judge: Judge | None = None) -> list[Problem]:
    """The problems of a set with a sound manifest, see `verify`; `judge` looks at the samples too."""
    problems = list(_listing_problems(uri, manifest, judge))
    index = _Index(uri, manifest)
    problems += map(Problem, index.problems)
    tally = _Tally(manifest)

    def check(shard: ShardEntry) -> CheckedShard:
        return check_shard(uri, shard, manifest.kind, manifest.resolution, judge)

    with ThreadPoolExecutor(_THREADS) as pool:
        for shard, found in zip(manifest.shards, pool.map(check, manifest.shards), strict=True):
            problems += found.problems(shard.name)
            if found.rows is not None:
                index.compare(shard.name, found.rows)
                tally.add(found.rows)
            else:
                index.skip(shard.name)
    problems += map(Problem, [*tally.problems(), *index.disagreements()])
    return problems


def _listing_problems(uri: str, manifest: Manifest, judge: Judge | None) -> Iterator[Problem]:
    names = [shard.name for shard in manifest.shards]
    for name in judge.missing(names) if judge else []:
        yield Problem(f"shard {name} is planned: dataset.json does not list it", name)
    for name, count in Counter(names).items():
        if count > 1:
            yield Problem(f"dataset.json lists shard {name} {count} times")
    expected = {f"{name}.{kind}" for name in names for kind in ("tar", "json")}
    files = set(storage.list_files(storage.join(uri, FOLDER)))
    for name in sorted(expected - files):
        yield Problem(f"{FOLDER}/{name} is missing", name.rpartition(".")[0])
    for name in sorted(files - expected):
        yield Problem(
            f"{FOLDER}/{name} is not of this set: dataset.json does not list it", name.rpartition(".")[0]
        )


def check_shard(
    uri: str,
    shard: ShardEntry,
    kind: Literal["real", "synthetic"] | None = None,
    resolution: int | None = None,
    judge: Look | None = None,
) -> CheckedShard:
    """Reads one shard and its marker. A missing file is no problem here: the listing tells of it.

    Args:
        uri: of the set.
        shard: what it should be.
        kind: of the set, where known.
        resolution: side of its images, pixels, where known.
        judge: looks at the samples that decode.
    """
    marker, of_marker = None, []
    try:
        marker = read_marker(uri, shard.name)
        of_marker += _marker_problems(marker, shard)
    except FileNotFoundError:
        pass
    except SiamdiffError as error:
        of_marker.append(str(error))
    try:
        data = storage.read_bytes(tar_uri(uri, shard.name))
    except FileNotFoundError:
        return CheckedShard(None, [], of_marker)
    problems = list(_byte_problems(data, shard))
    try:
        rows = index_tar(data, shard.name)
    except SiamdiffError as error:
        return CheckedShard(None, [*problems, str(error)], of_marker)
    if len(rows) != shard.count:
        problems.append(f"shard {shard.name} holds {len(rows)} samples: dataset.json says {shard.count}")
    if marker is not None and marker.samples != rows:
        of_marker.append(f"shard {shard.name}: the samples of its marker are not those of its tar")
    samples = []
    for row in rows:
        sample, faults = _decoded(data, row, kind, resolution)
        problems += faults
        if sample:
            samples.append(sample)
    if judge:
        problems += judge(shard.name, samples)
    return CheckedShard(rows, problems, of_marker)


def _byte_problems(data: bytes, shard: ShardEntry) -> Iterator[str]:
    if len(data) != shard.size:
        yield f"shard {shard.name} has {len(data)} bytes: dataset.json says {shard.size}"
    if hashlib.sha256(data).hexdigest() != shard.sha256:
        yield f"shard {shard.name} has another sha256 than dataset.json says: its bytes were changed"


def _marker_problems(marker: Marker, shard: ShardEntry) -> Iterator[str]:
    for field in ("count", "size", "sha256"):
        says, listed = getattr(marker, field), getattr(shard, field)
        if says != listed:
            yield f"marker of shard {shard.name} says {field} {says}: dataset.json says {listed}"


def _decoded(
    data: bytes, row: IndexRow, kind: str | None, side: int | None
) -> tuple[Sample | None, list[str]]:
    """The sample of a row, None where it does not decode, and what is wrong with it."""
    encoded, where = unpack(data, row), f"shard {row.shard}, sample {row.key}"
    meta, sample, problems = encoded.meta, None, []
    try:
        sample = encoded.decode()
    except SiamdiffError as error:
        problems.append(f"{where}: {error}")
    if side and (meta.width, meta.height) != (side, side):
        problems.append(f"{where}: {meta.width} x {meta.height}, the set's resolution is {side}")
    if kind and (meta.synthetic is not None) != (kind == "synthetic"):
        problems.append(f"{where}: its JSON does not fit a {kind} set")
    return sample, problems


class _Tally:
    """Keys, splits and groups over all shards; a few bytes a sample."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest, self.shards = manifest, 0
        self._keys: list[np.ndarray] = []
        self._splits: Counter[str] = Counter()
        self._of_group: dict[str, set[str]] = {}

    def add(self, rows: list[IndexRow]) -> None:
        """Takes a shard that can be read."""
        self.shards += 1
        self._keys.append(np.array([int(row.key, 16) for row in rows], dtype=np.uint64))
        self._splits.update(row.split for row in rows)
        if self.manifest.kind == "real":
            for row in rows:
                self._of_group.setdefault(row.group, set()).add(row.split)

    def problems(self) -> Iterator[str]:
        """Keys that occur twice, groups that are divided, totals that are not those of the manifest."""
        keys, counts = np.unique(np.concatenate([np.empty(0, np.uint64), *self._keys]), return_counts=True)
        for key, count in zip(keys[counts > 1].tolist(), counts[counts > 1].tolist(), strict=True):
            yield f"key {key:016x} occurs {count} times"
        for group, names in self._of_group.items():
            if len(names) > 1:
                yield f"group {group} is divided between the splits {', '.join(sorted(names))}"
        if self.shards == len(self.manifest.shards):  # else this would only repeat what was said of a shard
            yield from self._total_problems(int(counts.sum()))

    def _total_problems(self, count: int) -> Iterator[str]:
        manifest = self.manifest
        if count != manifest.count:
            yield f"{count} samples are there: dataset.json says {manifest.count}"
        counted = dict(sorted(self._splits.items()))
        if counted != manifest.splits:
            yield f"the splits hold {counted}: dataset.json says {manifest.splits}"
        size = sum(shard.size for shard in manifest.shards)
        if size != manifest.size:
            yield f"dataset.json says {manifest.size} bytes: its shards add up to {size}"


class _Index:
    """index.parquet, compared with one shard after the other."""

    def __init__(self, uri: str, manifest: Manifest) -> None:
        self.problems: list[str] = []
        table: pa.Table = INDEX_SCHEMA.empty_table()
        try:
            table = read_index(uri, manifest)
        except SiamdiffError as error:
            self.problems.append(str(error))
        self._readable = not self.problems
        self._table = table
        self._positions: dict[str, list[int]] = {}
        for position, shard in enumerate(table["shard"].to_pylist()):
            self._positions.setdefault(shard, []).append(position)
        self._wrong: list[str] = []
        self._lost: list[str] = []

    def compare(self, shard: str, rows: list[IndexRow]) -> None:
        """Takes a shard's rows as its tar has them."""
        positions = pa.array(self._positions.pop(shard, []), pa.int64())
        listed = self._table.take(positions).to_pylist()
        indexed = {row["key"]: row for row in listed}
        if len(indexed) != len(listed):
            self._wrong += [row["key"] for row in listed[:1]]
        there = {row.key: row.model_dump() for row in rows}
        self._wrong += [key for key in there if indexed.get(key) != there[key]]
        self._lost += sorted(indexed.keys() - there.keys())

    def skip(self, shard: str) -> None:
        """Leaves a shard out that cannot be read."""
        self._positions.pop(shard, None)

    def disagreements(self) -> Iterator[str]:
        """What it says that the shards do not, after all of them."""
        if not self._readable:
            return
        strange = [position for positions in self._positions.values() for position in positions]
        lost = self._lost + self._table["key"].take(pa.array(strange, pa.int64())).to_pylist()
        if self._wrong:
            yield f"{INDEX} does not agree with the shards about {len(self._wrong)} samples, {self._wrong[0]} first"
        if lost:
            yield f"{INDEX} lists {len(lost)} samples that no shard holds, {lost[0]} first"
