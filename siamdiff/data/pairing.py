"""Finds the pairs of image and mask in a raw source, by names and listings alone: no file of pixels is opened.

Two layouts are known. A folder with `images` and `masks`: two files are a pair when their paths are the same once the
folder's name and the extension are taken off, so `images/train/a.jpg` belongs to `masks/train/a.png`, and
`train/images/a.jpg` to `train/masks/a.png`. Or the authors' JSON lines: one object a line, `source` (the mask),
`target` (the image) and `prompt`, with paths relative to the file's own folder.
"""

import csv
import io
import json
import re
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, replace
from typing import Any

from siamdiff import storage
from siamdiff.errors import UserError, nearest
from siamdiff.sections import PHANTOM, Data

IMAGES, MASKS = "images", "masks"
EXTENSIONS = ("png", "jpg", "jpeg", "tif", "tiff", "bmp")
LINES = (".json", ".jsonl")
MAX_FILE_BYTES = 512 * 2**20

_SPLITS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
_PREFIX = re.compile(rf"({'|'.join(sorted(_SPLITS, key=len, reverse=True))})[_-]", re.IGNORECASE)


@dataclass(frozen=True)
class Pair:
    """An image and its mask, by their paths relative to the source's folder; a phantom is an index instead."""

    image: str
    mask: str  # "": none, of another method's image
    prompt: str | None = None  # None: `data.prompt`
    split: str | None = None  # that the layout names
    group: str | None = None  # of `data.groups`
    phantom: int | None = None

    def files(self) -> list[str]:
        """The files it is made from."""
        return [] if self.phantom is not None else [path for path in (self.image, self.mask) if path]


@dataclass(frozen=True)
class Rejected:
    """What is left out, and why: `reason` is one of a few, `detail` says more about this one."""

    files: list[str]
    reason: str
    detail: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The line of private/rejected.jsonl."""
        return asdict(self)


@dataclass(frozen=True)
class Source:
    """What a raw source holds."""

    folder: str  # URI that the pairs' paths are relative to; "phantom"
    pairs: list[Pair]  # sorted by image
    rejected: list[Rejected]
    fingerprint: list[list[Any]]  # what the content is recognised by: names and sizes
    versions: list[
        list[str]
    ]  # [name, ETag or time of change] of the pairs' files: equal means untouched since


def scan(data: Data) -> Source:
    """The pairs of `data.source`, with the groups of `data.groups`.

    Raises:
        UserError: no such folder or file, one that holds no images and masks, or groups that do not fit it.
    """
    if data.source == PHANTOM:
        if data.groups:
            raise UserError(
                "data.groups is given with data.source phantom: phantoms have no groups; leave it out"
            )
        pairs = [Pair(f"phantom-{i:06d}", f"phantom-{i:06d}", phantom=i) for i in range(data.count)]
        return Source(PHANTOM, pairs, [], [[PHANTOM, data.seed, data.count, data.resolution]], [])
    source = _scan_lines(data.source) if data.source.endswith(LINES) else _scan_folder(data.source)
    if not source.pairs and not source.rejected:
        raise UserError(
            f"data.source {data.source} holds no pair; give a folder with images/ and masks/ "
            f"({', '.join(EXTENSIONS)}), or a .jsonl file of source, target, prompt"
        )
    source = replace(source, versions=_versions(source))
    return _with_groups(source, data.groups) if data.groups else source


def split_of(path: str) -> str | None:
    """The split that a path names: a folder train, val, validation, test ..., or such a prefix before _ or -."""
    *folders, name = path.split("/")
    for folder in reversed(folders):
        if folder.lower() in _SPLITS:
            return _SPLITS[folder.lower()]
    match = _PREFIX.match(name)
    return _SPLITS[match[1].lower()] if match else None


def _scan_folder(folder: str) -> Source:
    files = _list(folder)
    if not files:
        raise UserError(
            f"data.source {folder} does not exist or is empty; give a folder with images/ and masks/, "
            "a .jsonl file, or 'phantom'"
        )
    found: dict[str, dict[str, list[str]]] = {IMAGES: defaultdict(list), MASKS: defaultdict(list)}
    for path in files:
        *folders, name = path.split("/")
        kinds = [part for part in folders if part in found]
        if len(kinds) != 1 or name.startswith(".") or _extension(name) not in EXTENSIONS:
            continue
        folders.remove(kinds[0])
        found[kinds[0]]["/".join([*folders, name.rpartition(".")[0]])].append(path)
    if not found[IMAGES] or not found[MASKS]:
        raise UserError(
            f"data.source {folder} has {len(found[IMAGES])} files in images/ and {len(found[MASKS])} in masks/ "
            f"({', '.join(EXTENSIONS)}); both must hold some, with the same names"
        )
    pairs, rejected = [], []
    for stem in sorted(found[IMAGES].keys() | found[MASKS].keys()):
        images, masks = found[IMAGES].get(stem, []), found[MASKS].get(stem, [])
        if len(images) == len(masks) == 1:
            pairs.append(Pair(images[0], masks[0], split=split_of(stem)))
        elif len(images) > 1 or len(masks) > 1:
            rejected.append(Rejected(images + masks, "several files of one name", f"all are {stem}"))
        else:
            missing = "image without mask" if images else "mask without image"
            rejected.append(Rejected(images + masks, missing))
    used = [path for pair in pairs for path in pair.files()]
    used += [path for bad in rejected for path in bad.files]
    fingerprint = [[path, files[path]] for path in sorted(used)]
    return _without_large(Source(folder, pairs, rejected, fingerprint, []), files)


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


def _without_large(source: Source, files: dict[str, int]) -> Source:
    """Files are read whole: one that would fill a worker's memory is left out before."""
    large = [pair for pair in source.pairs if max(files[path] for path in pair.files()) > MAX_FILE_BYTES]
    rejected = [Rejected(pair.files(), "file is too large", f"over {MAX_FILE_BYTES} bytes") for pair in large]
    pairs = [pair for pair in source.pairs if pair not in large]
    return replace(source, pairs=pairs, rejected=source.rejected + rejected)


def _extension(name: str) -> str:
    return name.rpartition(".")[2].lower()


def _scan_lines(uri: str) -> Source:
    folder = uri.rpartition("/")[0]
    try:
        text = storage.read_bytes(uri).decode()
    except FileNotFoundError:
        raise UserError(f"data.source {uri} does not exist; give a JSON lines file or a folder") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"data.source {uri} is not UTF-8 text ({error.reason}); give a JSON lines file"
        ) from None
    files = _list(folder)
    pairs: list[Pair] = []
    rejected: list[Rejected] = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            found = _read_line(line, f"line {number}", files)
            if isinstance(found, Pair):
                pairs.append(found)
            else:
                rejected.append(found)
    used = {path for pair in pairs for path in pair.files()}
    fingerprint = [[path, files[path]] for path in sorted(used)]
    pairs.sort(key=lambda pair: (pair.image, pair.mask))
    return _without_large(Source(folder, pairs, rejected, [[text], *fingerprint], []), files)


def _read_line(line: str, where: str, files: dict[str, int]) -> Pair | Rejected:
    try:
        entry = json.loads(line)
    except ValueError:
        return Rejected([where], "line is not JSON")
    if not isinstance(entry, dict):
        return Rejected([where], "line is not a JSON object")
    for name in ("source", "target", "prompt"):
        if not isinstance(entry.get(name), str):
            return Rejected([where], "line without source, target and prompt", f"{name} must be text")
    mask, image = (_relative(entry[name]) for name in ("source", "target"))
    if mask is None or image is None:
        return Rejected(
            [entry["target"], entry["source"]], "path leaves the file's folder", "give relative paths"
        )
    if image not in files or mask not in files:
        missing = "image without mask" if image in files else "missing image"
        return Rejected([image, mask], missing)
    return Pair(image, mask, prompt=entry["prompt"], split=split_of(image))


def _relative(path: str) -> str | None:
    """`path` without "." parts; None when it is absolute or leaves its folder."""
    parts = [part for part in path.replace("\\", "/").split("/") if part != "."]
    if "" in parts or ".." in parts or path.startswith("/"):
        return None
    return "/".join(parts)


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
