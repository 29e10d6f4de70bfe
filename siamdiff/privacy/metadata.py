"""What the files of a set carry beside pixels and the fields that a set has: looked for, counted, never repeated.

A finding says its kind and its place. Its content stays out of the report, which may be what it should not be.
"""

import io
import json
import re
import tarfile
from collections import Counter, defaultdict
from collections.abc import Collection
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from siamdiff import storage
from siamdiff.data.manifest import INDEX, MANIFEST
from siamdiff.data.sample import KEY_PATTERN
from siamdiff.data.shards import IndexRow, tar_members
from siamdiff.data.shardset import ShardSet
from siamdiff.errors import UserError
from siamdiff.lineage.records import Named
from siamdiff.privacy.containers import extras
from siamdiff.privacy.record import Found, Metadata, Verdict, worst
from siamdiff.privacy.wording import (
    EVERYWHERE,
    OF_SAMPLES,
    SourceNames,
    group_name,
    is_telling,
    kinds_in,
    names_of,
    strings,
)

PLACES = 12  # of each kind that are named
NAMED = 5  # kinds in the sentence that tells of them
MAX_TEXT = 64 * 2**20  # bytes of a file of the set that is searched
OWNER, TIME, BETWEEN = "owner in the archive", "time in the archive", "bytes between the archive's members"
HEADER, FOREIGN_JSON = "unusual archive header", "JSON in another form than Siamdiff writes"
STRANGE_FILE, LINK, LARGE, TABLE = (
    "file that is not of a set",
    "link",
    "file too large to search",
    "table metadata",
)
# What is no more than a reason to look; all else fails.
_LOOK = {
    "colour profile", "time of change", "unknown chunk", "unknown segment", "date", "long number", "file name",
    "person's folder", TIME, HEADER, FOREIGN_JSON, STRANGE_FILE, LINK, LARGE, TABLE,
}  # fmt: skip
_FILES = re.compile(
    r"(?:dataset\.json|index\.parquet|plan\.json|gates\.json|config\.yaml|status\.json|lease\.json|README\.md"
    r"|revisions/\d{6}\.json|cache/[0-9a-f]{16}/.*|shards/[\w.-]+\.(?:tar|json))"
)
_SEARCHED = (".json", ".yaml", ".md", ".txt", ".csv", ".jsonl")
_LINKS_TO_SAMPLES = {"key", "group", "parent"}  # fields whose values are keys


class MetadataScan:
    """Takes a set file by file.

    Args:
        names: of the sources, in lower case, that must not occur; None: not known.
    """

    def __init__(self, names: Collection[str] | None) -> None:
        self._count = None if names is None else len(names)
        self._names = None if names is None else SourceNames(names)
        self._images = 0
        self._counts: Counter[str] = Counter()
        self._places: dict[str, list[str]] = defaultdict(list)

    def shard(self, name: str, data: bytes, rows: list[IndexRow]) -> None:
        """Takes the tar of a shard, of which `rows` tell where its samples lie."""
        self._archive(name, data)
        for row in rows:
            self._images += 1
            for suffix, start, size in (
                (row.image_format, row.image_offset, row.image_size),
                ("mask.png", row.mask_offset, row.mask_size),
            ):
                for kind, content in extras(data[start : start + size]):
                    place = f"{row.key}.{suffix}"
                    self._add(kind, place)
                    self._text(content.decode("latin-1"), place, EVERYWHERE)
            self._sample(row.key, data[row.meta_offset : row.meta_offset + row.meta_size])

    def set_files(self, of: ShardSet) -> None:
        """Takes what lies beside the tars."""
        shards = {f"shards/{shard.name}.{kind}" for shard in of.manifest.shards for kind in ("tar", "json")}
        for name, size in storage.list_files(of.uri).items():
            if not _FILES.fullmatch(name) or (name.startswith("shards/") and name not in shards):
                self._add(STRANGE_FILE, name)
            if not name.endswith(_SEARCHED):
                continue
            if size > MAX_TEXT:
                self._add(LARGE, name)
                continue
            text = storage.read_bytes(storage.join(of.uri, name)).decode(errors="replace")
            self._text(text, name, EVERYWHERE)
        for name in storage.list_links(of.uri):
            self._add(LINK, name)
        self._terms(of)
        if _table_metadata(storage.read_bytes(storage.join(of.uri, INDEX))):
            self._add(TABLE, INDEX)

    def outcome(self) -> Metadata:
        """What was found in all that was taken."""
        found = [
            Found(kind=kind, verdict=_verdict(kind), count=count, places=self._places[kind])
            for kind, count in sorted(
                self._counts.items(), key=lambda one: (_verdict(one[0]) != "fail", one[0])
            )
        ]
        looked: Verdict = "pass" if self._count else "not done"
        return Metadata(
            verdict=worst([looked, *(one.verdict for one in found)]),
            said=_said(found, self._count),
            images=self._images,
            source_names=self._count,
            found=found,
        )

    def _archive(self, name: str, data: bytes) -> None:
        for info in tar_members(data, name):
            plain = tarfile.TarInfo(info.name)
            plain.size = info.size
            if info.uname or info.gname or info.uid or info.gid:
                self._add(OWNER, f"shards/{name}.tar")
            if info.mtime:
                self._add(TIME, f"shards/{name}.tar")
            header = data[info.offset : info.offset_data]
            is_told = bool(info.uname or info.gname or info.uid or info.gid or info.mtime)
            if not is_told and header != plain.tobuf(tarfile.USTAR_FORMAT):
                self._add(HEADER, f"shards/{name}.tar")
            end = info.offset_data + info.size
            if data[end : end + -end % tarfile.BLOCKSIZE].strip(b"\0"):
                self._add(BETWEEN, f"shards/{name}.tar")

    def _sample(self, key: str, data: bytes) -> None:
        try:
            values = json.loads(data)
            is_ours = storage.canonical_json(values) == data
        except (ValueError, RecursionError):  # which other readers of JSON may take
            values, is_ours = {}, False
        if not is_ours:  # such as a name given twice, the first time to be hidden by the second
            self._add(FOREIGN_JSON, f"{key}.json")
            self._text(data.decode(errors="replace"), f"{key}.json", EVERYWHERE)
        for path, text in strings(values):
            if path.rpartition(".")[2] in _LINKS_TO_SAMPLES and re.fullmatch(KEY_PATTERN, text):
                continue
            self._text(text, f"{key}.json, {_field(path)}", OF_SAMPLES)

    def _terms(self, of: ShardSet) -> None:
        """What people wrote of the set."""
        for field in ("license", "permitted_use"):
            text = getattr(of.manifest, field)
            if "@" not in text:  # whose address is told as that
                self._text(text, f"{MANIFEST}, {field}", {"file name": OF_SAMPLES["file name"]})

    def _text(self, text: str, place: str, patterns: dict[str, re.Pattern[str]]) -> None:
        for kind in kinds_in(text, patterns, self._names):
            self._add(kind, place)

    def _add(self, kind: str, place: str) -> None:
        places = self._places[kind]
        if place not in places[-1:]:
            self._counts[kind] += 1
            if len(places) < PLACES:
                places.append(place)


def _field(path: str) -> str:
    """A field of KEY.json by its known names: those below them come from anywhere."""
    return (
        ".".join(path.split(".")[:2]) if re.fullmatch(r"[a-z_.]{1,60}", path) else path.partition(".")[0][:20]
    )


def _verdict(kind: str) -> Verdict:
    return "look" if kind in _LOOK else "fail"


def _said(found: list[Found], names: int | None) -> str:
    if names is None:
        looked = "names of the source files could not be read, so they were not looked for"
    elif not names:
        looked = "the map of the training set has no name of a source file or group that could be looked for"
    else:
        looked = f"{names:,} names of source files and groups were looked for"
    if not found:
        return f"Images and masks hold pixels and nothing else, their descriptions nothing out of place; {looked}."
    kinds = ", ".join(f"{one.kind} ({one.count:,})" for one in found[:NAMED])
    kinds += f" and {len(found) - NAMED} kinds more" if len(found) > NAMED else ""
    return f"Found: {kinds}; {looked}."


def _table_metadata(data: bytes) -> dict[Any, Any]:
    """What an index says of itself beside its columns."""
    schema: pa.Schema = pq.read_schema(io.BytesIO(data))
    return dict(schema.metadata or {})


def source_names(training: ShardSet | None) -> set[str] | None:
    """Names of the files and groups that a set was made from, in lower case; None where nobody may read them here.

    They lie beside the set, in private/NAME/keys.jsonl (docs/data-format.md).
    """
    if training is None:
        return None
    parent, _, name = training.uri.rpartition("/")
    if not name or parent.endswith(":/"):
        return None
    try:
        lines = storage.read_bytes(storage.join(parent, "private", name, "keys.jsonl")).splitlines()
        rows = [Named.model_validate_json(line) for line in lines]
    except (FileNotFoundError, UserError, ValidationError):  # UserError: no access
        return None
    files = {file for row in rows for file in (row.image, row.mask) if file}
    groups = {group_name(row.group) for row in rows if row.group}
    return {name for file in files for name in names_of(file)} | {name for name in groups if is_telling(name)}
