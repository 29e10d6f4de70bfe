"""What units say of themselves, read without opening a shard; what cannot be read becomes a problem, never silence."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from siamdiff import storage
from siamdiff.config import digest
from siamdiff.data.manifest import Manifest, read_index, read_manifest
from siamdiff.data.shards import read_marker
from siamdiff.errors import SiamdiffError, one_line
from siamdiff.lineage.objects import Contents, Unit, divide
from siamdiff.lineage.records import Began, Consumed, Info, MadeFrom, OfModel, Pinned, Plan, Revision
from siamdiff.records import read_record
from siamdiff.terms import Terms

TRAIN, VAL = "train", "val"
_THREADS = 16
_KEY = re.compile(rb"(?<![0-9a-f])[0-9a-f]{16}(?![0-9a-f])")

T = TypeVar("T")
Read = TypeVar("Read", bound=BaseModel)


@dataclass(frozen=True)
class Held:
    """Where a set holds a sample."""

    split: str
    group: str
    shard: str
    offset: int  # bytes in the tar
    rank: int  # among the sorted keys of its split


@dataclass
class SetFacts:
    """What a trace needs to know of a set, of the wanted keys alone."""

    uri: str
    unit: Unit
    manifest: Manifest | None  # None: not complete, or damaged
    plan: Plan  # of a synthetic set
    model: OfModel = field(default_factory=OfModel)  # of a set that one made
    digests: set[str] = field(default_factory=set)  # its own, and those of its earlier revisions
    whole: list[str] = field(default_factory=list)  # digests of sets that it is what was left of
    compared: str | None = None  # digest of the set that decided what was left of them
    held: dict[str, Held] = field(default_factory=dict)
    made_for: dict[str, list[str]] = field(
        default_factory=dict
    )  # wanted key -> samples that have it as parent
    counts: dict[str, int] = field(default_factory=dict)  # split -> samples
    parts: dict[str, str | None] = field(
        default_factory=dict
    )  # digest of a list of keys -> its split, None: all

    @property
    def terms(self) -> Terms | None:
        """Its licence and permitted use; None where it is not complete."""
        return Terms(self.manifest.license, self.manifest.permitted_use) if self.manifest else None

    def is_in(self, key: str, split: str | None) -> bool:
        """Whether it holds a key in a split, or in any."""
        return key in self.held and split in (None, self.held[key].split)


@dataclass
class Root:
    """A root, its objects, and the problems of reading them."""

    uri: str
    contents: Contents
    problems: list[tuple[str, str]] = field(default_factory=list)  # URI, what is wrong

    @classmethod
    def look(cls, uri: str) -> "Root":
        """Lists what lies under a URI."""
        return cls(uri, divide(storage.list_files(uri)))

    def uri_of(self, unit: Unit, name: str = "") -> str:
        """The URI of a unit, or of an object of it."""
        return storage.join(self.uri, unit.folder + name).rstrip("/")

    def attempt(self, uri: str, read: Callable[[], T]) -> T | None:
        """What `read` returns; None, and a problem, where the object is damaged or cannot be read."""
        try:
            return read()
        except FileNotFoundError:
            self.problems.append((uri, "it was deleted while it was read"))
        except SiamdiffError as error:
            self.problems.append((uri, one_line(error)))
        return None

    def record(self, unit: Unit, name: str, kind: type[Read]) -> Read | None:
        """What a JSON object of a unit says; None where there is none, or with a problem."""
        if not any(name in names for names in unit.objects.values()):
            return None
        uri = self.uri_of(unit, name)
        return self.attempt(uri, lambda: read_record(kind, uri, "make it again, or delete it"))

    def texts(self, uris: list[str]) -> Iterator[tuple[str, bytes]]:
        """URIs and contents, read by a few threads; those that cannot be read are problems."""
        with ThreadPoolExecutor(_THREADS) as pool:
            contents = pool.map(lambda uri: self.attempt(uri, lambda: storage.read_bytes(uri)), uris)
            yield from ((uri, data) for uri, data in zip(uris, contents, strict=True) if data is not None)

    def lines(self, uris: list[str], kind: type[Read]) -> Iterator[Read]:
        """What each line of some files of JSON lines says."""
        for uri, data in self.texts(uris):
            try:
                rows = [kind.model_validate_json(line) for line in data.splitlines()]
            except ValidationError as error:
                self.problems.append((uri, f"it is damaged: {one_line(error.errors()[0]['msg'])}"))
                continue
            yield from rows


def read_set(root: Root, unit: Unit, wanted: frozenset[str]) -> SetFacts:
    """A set, from its index, or where it has none that is whole from the markers of its shards."""
    uri = root.uri_of(unit)
    facts = SetFacts(uri, unit, None, root.record(unit, "plan.json", Plan) or Plan())
    if "dataset.json" in unit.names("manifest"):
        facts.manifest = root.attempt(f"{uri}/dataset.json", lambda: read_manifest(uri))
    for name in unit.names("earlier manifests"):
        earlier = root.record(unit, name, Revision)
        facts.digests |= {earlier.digest} if earlier else set()
    columns = None
    if (manifest := facts.manifest) is not None:
        facts.digests.add(manifest.digest)
        _made_from(root, facts, manifest)
        table = root.attempt(f"{uri}/index.parquet", lambda: read_index(uri, manifest))
        if table is not None:
            names = ("key", "split", "group", "shard", "offset", "parent")
            columns = {name: table[name].to_pylist() for name in names}
    elif not unit.names("manifest") and not unit.names("plan"):
        root.problems.append(
            (uri, "a set that is not complete and has no plan.json: what made it is not known")
        )
    _take(facts, columns or _of_markers(root, unit, uri), wanted)
    _unmarked(root, facts)
    return facts


def _made_from(root: Root, facts: SetFacts, manifest: Manifest) -> None:
    try:
        made_from = MadeFrom.model_validate(manifest.made_from)
    except ValidationError as error:
        fault = error.errors()[0]
        root.problems.append((f"{facts.uri}/dataset.json", f"made_from is damaged: {one_line(fault['msg'])}"))
        return
    facts.plan, facts.model = made_from.drawn_by or facts.plan, made_from.model
    facts.whole = made_from.whole
    facts.compared = made_from.training.digest if facts.whole else None


def _of_markers(root: Root, unit: Unit, uri: str) -> dict[str, list[Any]]:
    """The index's columns, as far as the markers tell them, sorted by key."""
    names = [name.removeprefix("shards/").removesuffix(".json") for name in unit.names("markers of shards")]
    with ThreadPoolExecutor(_THREADS) as pool:
        markers = pool.map(
            lambda name: root.attempt(f"{uri}/shards/{name}.json", lambda: read_marker(uri, name)), names
        )
        rows = sorted(
            (row for marker in markers if marker for row in marker.samples), key=lambda row: row.key
        )
    fields = ("key", "split", "group", "shard", "offset", "parent")
    return {name: [getattr(row, name) for row in rows] for name in fields}


def _take(facts: SetFacts, columns: Mapping[str, list[Any]], wanted: frozenset[str]) -> None:
    """Takes what is said of the wanted keys, and what tells the set's parts from each other."""
    by_split: dict[str, list[str]] = {}
    rows = zip(
        *(columns[name] for name in ("key", "split", "group", "shard", "offset", "parent")), strict=True
    )
    for key, split, group, shard, offset, parent in rows:
        of_split = by_split.setdefault(split, [])
        if key in wanted:
            facts.held[key] = Held(split, group, shard, offset, len(of_split))
        if parent in wanted:
            facts.made_for.setdefault(parent, []).append(key)
        of_split.append(key)
    facts.counts = {split: len(keys) for split, keys in by_split.items()}
    facts.parts = {digest(columns["key"]): None} | {digest(keys): split for split, keys in by_split.items()}


def _unmarked(root: Root, facts: SetFacts) -> None:
    """Names tars of which nobody can tell what they hold."""
    unit, uri = facts.unit, facts.uri
    marked = {name.removesuffix(".json") for name in unit.names("markers of shards")}
    for name in unit.names("shards"):
        if name.removesuffix(".tar") not in marked:
            root.problems.append((f"{uri}/{name}", "it has no marker; python -m siamdiff gc removes it"))
    for name in unit.names("shards put aside"):
        if f"shards/{storage.name_of(name).removesuffix('.tar')}" not in marked:
            root.problems.append((f"{uri}/{name}", "a damaged shard; python -m siamdiff gc removes it"))


@dataclass
class RunFacts:
    """What a run's folder says."""

    uri: str
    unit: Unit
    data: str | None  # digest of its set
    base: str  # what it is pinned to
    given: str  # the base by which it was asked for
    parts: str  # likewise what supplied whole parts of it; ""
    said: dict[str, Info]  # what these said of themselves, by their URIs; {}: it is older than that
    first: dict[str, int]  # wanted key -> the first step, from 0, that consumed it
    uses: dict[str, int]  # wanted key -> how often it was consumed
    gap: str  # steps whose log is missing; ""
    checkpoints: dict[str, int | None]  # URI -> steps finished; None: it is not whole


def read_run(root: Root, unit: Unit, wanted: frozenset[str]) -> RunFacts:
    """A run, from what it is pinned to, its log of keys and the names of its checkpoints."""
    pinned, uri = root.record(unit, "pinned.json", Pinned) or Pinned(), root.uri_of(unit)
    first: dict[str, int] = {}
    uses: dict[str, int] = {}
    logs = unit.names("log of keys")
    for row in root.lines([root.uri_of(unit, name) for name in logs], Consumed):
        for key in wanted.intersection(row.keys):
            first[key] = min(row.step, first.get(key, row.step))
            uses[key] = uses.get(key, 0) + row.keys.count(key)
    whole = {name.split("/")[1] for name in unit.names("checkpoints") if name.endswith("/complete.json")}
    folders = {name.split("/")[1] for name in unit.names("checkpoints")}
    steps = {
        f"{uri}/checkpoints/{name}": _number(name.partition(".")[0]) if name in whole else None
        for name in sorted(folders)
    }
    last = max((step for step in steps.values() if step), default=0)
    if any(other.folder == f"{unit.folder}model/" for other in root.contents.units):  # it took every step
        last = max(last, pinned.steps)
    began = root.record(unit, "base.json", Began) or Began()
    return RunFacts(
        uri,
        unit,
        data=pinned.data,
        base=pinned.base,
        given=pinned.given,
        parts=pinned.parts or "",
        said={of.uri: of for of in began.bases},
        first=first,
        uses=uses,
        gap=_gap(logs, last),
        checkpoints=steps,
    )


def _number(name: str) -> int:
    """5 of "step-00000005"; 0 of what is none."""
    digits = name.rpartition("-")[2]
    return int(digits) if digits.isdigit() else 0


def _gap(logs: list[str], last: int) -> str:
    """The steps, of the first `last`, that no log tells of: "7 to 12"; "" where all are told."""
    at = 0
    for name in logs:  # sorted: their names begin with their first step
        start, _, end = storage.name_of(name).removesuffix(".jsonl").partition("-")
        if not (start.isdigit() and end.isdigit()):
            continue
        if int(start) > at:
            return f"{at} to {start}"
        at = max(at, int(end))
    return f"{at} to {last}" if at < last else ""


class Names:
    """Finds images in texts: by their keys, and by the names of their files, neither as a part of a longer one.

    Args:
        files: key -> names.
    """

    def __init__(self, files: Mapping[str, Iterable[str]]) -> None:
        self._keys = frozenset(key.encode() for key in files)
        self._files = {json.dumps(name)[1:-1].encode(): key for key, names in files.items() for name in names}
        longest_first = sorted(self._files, key=len, reverse=True)
        names = b"|".join(re.escape(name) for name in longest_first)
        self._pattern = re.compile(rb"(?<![\w.-])(?:" + names + rb")(?![\w-]|\.\w)") if names else None

    def found_in(self, data: bytes) -> set[str]:
        """Keys of the images that a text names."""
        keys = {key.decode() for key in self._keys.intersection(_KEY.findall(data))}
        if self._pattern is None:
            return keys
        return keys | {self._files[name] for name in self._pattern.findall(data)}
