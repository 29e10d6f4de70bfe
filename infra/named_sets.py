"""The synthetic sets of an evaluation: shard sets of ours, or raw folders of another method's images.

A folder becomes a shard set of kind "synthetic" under ROOT/others, once, and is treated like any other from there on.
All mistakes that can be seen without reading an image are found in all sets before the first is ingested.
"""

import json
import logging
from collections import Counter
from dataclasses import dataclass

from pydantic import BaseModel

from infra.ingest import describe_inputs, ingest_source, private_uri
from infra.stage import LATEST, PLAN, SYNTHETIC, StageStatus
from siamdiff import storage
from siamdiff.config import Config, digest
from siamdiff.data.layouts.lines import SUFFIXES
from siamdiff.data.manifest import INDEX
from siamdiff.data.pairing import Source, scan, scan_images
from siamdiff.data.sample import Foreign
from siamdiff.data.shards import FOLDER
from siamdiff.data.shardset import ShardSet
from siamdiff.errors import SiamdiffError, UserError
from siamdiff.evaluation.extractors import find
from siamdiff.records import read_record
from siamdiff.sections import NEWEST, Data, set_file

log = logging.getLogger(__name__)

OTHERS = "others"  # folder under the root: sets made of other methods' images
UNKNOWN = "unknown"  # licence and permitted use of such images


@dataclass(frozen=True)
class NamedSet:
    """A synthetic set under the name that the user gave it."""

    name: str
    shards: ShardSet
    source: str | None = None  # the raw folder it was made from
    left_out: dict[str, int] | None = None  # of that folder: reason -> images

    @property
    def origin(self) -> Foreign | None:
        """Of another method's images; None: the set was made by us."""
        origin = self.shards.manifest.made_from.get("origin")
        return Foreign.model_validate(origin) if origin else None

    @property
    def has_masks(self) -> bool:
        """Whether its images came with masks."""
        return self.origin is None or self.origin.has_mask


@dataclass(frozen=True)
class _Folder:
    """A raw folder that can be ingested."""

    name: str
    data: Data
    source: Source
    origin: Foreign


def open_sets(config: Config, real: ShardSet, status: StageStatus) -> list[NamedSet]:
    """The sets of `evaluate.synthetic`, by name; folders are ingested on the way.

    Raises:
        UserError: a set is missing, not complete, real, of another resolution than the real one, or too small.
        SiamdiffError: a folder with too many images that cannot be read.
    """
    assert config.evaluate.synthetic, "resolve() comes first"
    found = [_find(config, real, name, uri) for name, uri in sorted(config.evaluate.synthetic.items())]
    sets = []
    for item in found:
        if isinstance(item, _Folder):
            status.write(phase=f"ingesting {item.name}")
            item = _ingested(item)
        sets.append(item)
    return sets


def check_given(config: Config) -> None:
    """Looks for the sets and extractors that are there from the beginning, hours before an experiment needs them.

    Raises:
        UserError: one is missing.
    """
    for uri in (config.evaluate.real, config.generate.masks, config.generate.training):
        if uri and uri != config.data.uri:
            ShardSet.open(uri)
    for kind, given in config.evaluate.extractors.items():
        find(kind, given)
    for name, uri in (config.evaluate.synthetic or {}).items():
        if uri not in (NEWEST, config.generate.output):
            _listed(name, uri)


def _find(config: Config, real: ShardSet, name: str, given: str) -> NamedSet | _Folder:
    """What lies at a set's URI, checked as far as listings tell."""
    uri = newest(config, "--evaluate.synthetic URI") if given == NEWEST else given
    files = _listed(name, uri)
    if any(file.startswith(f"{FOLDER}/") or file in (PLAN, INDEX) for file in files):
        return _checked(NamedSet(name, ShardSet.open(uri)), real)
    try:
        return _folder(config, real, name, uri)
    except UserError as error:
        message = str(error).removeprefix("data.source ")
        raise UserError(f"evaluate.synthetic: the set {name}: {message}") from None


def _listed(name: str, uri: str) -> dict[str, int]:
    """The files of a set; {} of a single file."""
    try:
        files = storage.list_files(uri)
    except FileNotFoundError:  # a bucket that does not exist
        files = {}
    if not files and not uri.endswith(SUFFIXES):
        raise UserError(
            f"evaluate.synthetic: the set {name} at {uri} does not exist or is empty; give a shard set, a folder of "
            "images (with masks/ beside images/), or 'latest'"
        )
    return files


class _Latest(BaseModel):
    """latest.json of the synthetic sets."""

    uri: str


def newest(config: Config, instead: str) -> str:
    """URI of the synthetic set that generation finished last.

    Args:
        config: resolved.
        instead: options to give where there is none, for the message.

    Raises:
        UserError: there is none.
    """
    assert config.root, "resolve() comes first"
    uri = storage.join(config.root, SYNTHETIC, LATEST)
    try:
        return read_record(_Latest, uri, f"generate again, or give {instead}").uri
    except FileNotFoundError:
        raise UserError(
            f"there is no synthetic set under {config.root} ({uri} is missing); generate first, or give {instead}"
        ) from None


def _checked(named: NamedSet, real: ShardSet) -> NamedSet:
    shards, side = named.shards, real.manifest.resolution
    if shards.manifest.kind != "synthetic":
        raise UserError(f"{shards.uri} is a real set; evaluate.synthetic takes a synthetic one")
    if shards.manifest.resolution != side:
        raise UserError(
            f"{real.uri} holds images of {side} pixels, {shards.uri} of {shards.manifest.resolution}; "
            "evaluate sets of one resolution"
        )
    check_count(shards.uri, len(shards))
    return named


def check_count(uri: str, count: int) -> None:
    """Refuses a set too small for any distance.

    Raises:
        UserError: fewer than 2 samples.
    """
    if count < 2:
        raise UserError(f"{uri} has {count} samples to compare; a distance needs at least 2 on each side")


def _folder(config: Config, real: ShardSet, name: str, uri: str) -> _Folder:
    """A raw folder: pairs as ingest knows them, or images alone."""
    made = real.manifest.made_from
    data = Data(
        source=uri,
        resolution=real.manifest.resolution,
        fit=made.get("data.fit", "squash"),  # images of other shapes become square as the real ones did
        split={"train": 1.0},
        allow_empty=True,
        max_rejected=config.data.max_rejected,
        license=UNKNOWN,
        permitted_use=UNKNOWN,
    )
    alone = scan_images(uri)
    source = alone or scan(data)
    check_count(uri, len(source.pairs))
    origin = Foreign(method=name, has_mask=alone is None)
    assert config.root, "resolve() comes first"
    folder = f"{set_file(name)}-{digest(describe_inputs(data, source, origin))[:12]}"
    data = data.model_copy(update={"uri": storage.join(config.root, OTHERS, folder)})
    return _Folder(name, data, source, origin)


def _ingested(folder: _Folder) -> NamedSet:
    uri = folder.data.uri
    assert uri
    log.info("set %s: %s goes to %s", folder.name, folder.data.source, uri)
    status = StageStatus(uri)
    with status.reporting():
        ingest_source(folder.data, folder.source, demo=False, status=status, origin=folder.origin)
    shards = ShardSet.open(uri)
    check_count(folder.data.source, len(shards))
    return NamedSet(folder.name, shards, folder.data.source, _left_out(uri))


def _left_out(set_uri: str) -> dict[str, int]:
    """What ingest left out, by reason."""
    uri = storage.join(private_uri(set_uri), "rejected.jsonl")
    try:
        reasons = [str(json.loads(line)["reason"]) for line in storage.read_bytes(uri).splitlines()]
    except (FileNotFoundError, ValueError, LookupError, TypeError) as error:
        raise SiamdiffError(
            f"{uri} is missing or damaged; delete {set_uri} and run the same command again"
        ) from error
    return dict(sorted(Counter(reasons).items()))
