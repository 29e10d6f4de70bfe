"""Finds the pairs of image and mask in a raw source, by names and listings alone: no file of pixels is opened.

How sources are laid out is the layouts' business (siamdiff.data.layouts); what holds for all of them is here.
"""

import csv
import io
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from typing import Any

from siamdiff import storage
from siamdiff.data.layouts import LAYOUTS, lines, read_layout
from siamdiff.data.layouts.pairs import Files, Found, Pair, Rejected, is_image
from siamdiff.errors import UserError, nearest
from siamdiff.sections import PHANTOM, Data

MAX_FILE_BYTES = 512 * 2**20
_ALONE = ({""}, {"image"}, {"images"})  # folders of images without masks


@dataclass(frozen=True)
class Source:
    """What a raw source holds."""

    folder: str  # URI that the pairs' paths are relative to; "phantom"
    layout: str  # that it follows; "phantom"
    pairs: list[Pair]  # sorted by image
    rejected: list[Rejected]
    fingerprint: list[list[Any]]  # what the content is recognised by: names and sizes
    versions: list[
        list[str]
    ]  # [name, ETag or time of change] of the pairs' files: equal means untouched since


def scan(data: Data) -> Source:
    """The pairs of `data.source`, with the groups of `data.groups`.

    Raises:
        UserError: no such folder or file, one in no known layout or another than named, or groups that do not fit it.
    """
    if data.source == PHANTOM:
        return _phantoms(data)
    uri = storage.normalize(data.source)
    folder = uri.rpartition("/")[0] if uri.endswith(lines.SUFFIXES) else uri
    files = _list(folder)
    if not files:
        if links := storage.list_links(folder):
            raise UserError(
                f"data.source {data.source} holds nothing but links ({links[0]}), and links are not followed; put what "
                "they point to there itself"
            )
        raise UserError(
            f"data.source {data.source} does not exist or is empty; give a folder with images/ and masks/, "
            "a .jsonl file, or 'phantom'"
        )
    layout, found = read_layout(uri, files, data)
    if not found.pairs and not found.rejected:
        raise UserError(
            f"data.source {data.source} holds no pair; docs/ingest.md shows what a source laid out as {layout} holds"
        )
    source = _source(folder, layout, found, files)
    return _with_groups(source, data.groups) if data.groups else source


def scan_images(folder: str) -> Source | None:
    """The images of a folder that holds no masks, as pairs whose mask is ""; None where any layout may be meant.

    Such a folder is in no known layout, and all its images lie in itself or in image(s)/, not in both.
    """
    files = _list(folder)
    images = [path for path in files if is_image(path)]
    if {path.rpartition("/")[0].lower() for path in images} not in _ALONE:
        return None
    if any(layout.fits(files) for layout in LAYOUTS.values()):
        return None
    return _source(folder, "images", Found([Pair(path, "") for path in images], []), files)


def _source(folder: str, layout: str, found: Found, files: Files) -> Source:
    rejected = found.rejected + _links(folder)
    pairs = sorted(found.pairs, key=lambda pair: (pair.image, pair.mask))
    used = {path for pair in pairs for path in pair.files()}
    used |= {path for bad in rejected for path in bad.files if path in files}
    fingerprint = [*found.read, *([path, files[path]] for path in sorted(used))]
    source = _without_large(Source(folder, layout, pairs, rejected, fingerprint, []), files)
    return replace(source, versions=_versions(source))


def _links(folder: str) -> list[Rejected]:
    """Links of a local source, which are not followed: where a source was unpacked, they may lead anywhere."""
    return [
        Rejected([path], "is a link", "links are not followed; put what it points to there itself")
        for path in storage.list_links(folder)
        if is_image(path) or "." not in path.rpartition("/")[2]  # of a folder
    ]


def _phantoms(data: Data) -> Source:
    given = [name for name in ("groups", "foreground") if getattr(data, name) is not None]
    given += ["layout"] if data.layout != "auto" else []
    if given:
        raise UserError(
            f"data.{given[0]} is given with data.source phantom: phantoms have no {given[0]}; leave it out"
        )
    pairs = [Pair(f"phantom-{i:06d}", f"phantom-{i:06d}", phantom=i) for i in range(data.count)]
    fingerprint = [[PHANTOM, data.seed, data.count, data.resolution]]
    return Source(PHANTOM, PHANTOM, pairs, [], fingerprint, [])


def _versions(source: Source) -> list[list[str]]:
    """What the store says of the age of every pair's files, sorted: the ETag of an object, the time of a local file."""
    fs, path = storage.filesystem(source.folder)
    found: Any = fs.find(path, detail=True)
    tags = {
        name.removeprefix(path).lstrip("/"): str(info.get("ETag") or info.get("mtime"))
        for name, info in found.items()
    }
    return sorted([file, tags.get(file, "")] for pair in source.pairs for file in pair.files())


def _list(folder: str) -> dict[str, int]:
    try:
        return storage.list_files(folder)
    except FileNotFoundError:  # a bucket that does not exist
        return {}


def _without_large(source: Source, files: Files) -> Source:
    """Files are read whole: one that would fill a worker's memory is left out before."""
    large = [pair for pair in source.pairs if max(files[path] for path in pair.files()) > MAX_FILE_BYTES]
    rejected = [Rejected(pair.files(), "file is too large", f"over {MAX_FILE_BYTES} bytes") for pair in large]
    pairs = [pair for pair in source.pairs if pair not in large]
    return replace(source, pairs=pairs, rejected=source.rejected + rejected)


def _with_groups(source: Source, uri: str) -> Source:
    """The source with the groups of a CSV of the columns file,group: file is a path, a file name or a stem."""
    pairs, names = source.pairs, _names(source)
    known: dict[int, str] = {}
    for file, group in _read_groups(uri):
        if file not in names:
            raise UserError(
                f"data.groups {uri}: no file {file!r} in the source{nearest(file, list(names)[:2000])}"
            )
        if len(names[file]) > 1:
            images = sorted(pairs[i].image for i in names[file])
            raise UserError(f"data.groups {uri}: {file!r} may be {images[0]} or {images[1]}; give the path")
        for position in names[file]:
            if known.setdefault(position, group) != group:
                raise UserError(
                    f"data.groups {uri}: {file!r} is in the groups {known[position]!r} and {group!r}"
                )
    grouped = [replace(pair, group=known.get(i)) for i, pair in enumerate(pairs)]
    content = [["groups", pair.image, pair.group] for pair in grouped if pair.group is not None]
    return replace(source, pairs=grouped, fingerprint=[*source.fingerprint, *content])


def _names(source: Source) -> dict[str, set[int]]:
    """What a line of the groups may call a file: {path, file name or stem: positions of pairs, none if left out}."""
    names: dict[str, set[int]] = defaultdict(set)
    paths = [(i, pair.image) for i, pair in enumerate(source.pairs)]
    paths += [(-1, path) for bad in source.rejected for path in bad.files]
    for position, path in paths:
        name = path.rpartition("/")[2]
        for called in {path, name, path.rpartition(".")[0], name.rpartition(".")[0]}:
            names[called].update({position} - {-1})
    return names


def _read_groups(uri: str) -> list[tuple[str, str]]:
    try:
        text = storage.read_bytes(storage.normalize(uri)).decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"data.groups {uri} does not exist; give a CSV with the columns file,group") from None
    except UnicodeDecodeError:
        raise UserError(
            f"data.groups {uri} is not UTF-8 text; give a CSV with the columns file,group"
        ) from None
    reader = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    columns = list(reader.fieldnames or [])
    if not {"file", "group"} <= set(columns):
        raise UserError(f"data.groups {uri} has the columns {','.join(columns)}; it needs file,group")
    rows = [((row["file"] or "").strip(), (row["group"] or "").strip()) for row in reader]
    unfilled = Counter(not file or not group for file, group in rows)[True]
    if unfilled:
        raise UserError(f"data.groups {uri}: {unfilled} lines lack the file or the group; fill them in")
    return rows
