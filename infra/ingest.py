"""Raw images and masks become a shard set, in two passes of Ray Data.

First every pair is examined, which leaves a small record of each; the driver rejects, finds copies, deals splits and
plans the shards. Then one row is one shard: read again, resized, encoded, put if absent. Shards that are there are
skipped, so the same command goes on where another attempt ended.
"""

import json
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from infra import cluster
from infra.stage import DATA, PLAN, StageStatus, reported
from siamdiff import storage
from siamdiff.config import Config, digest
from siamdiff.data.manifest import MANIFEST, Manifest, finish_set, iter_markers, read_manifest
from siamdiff.data.pairing import Pair, Rejected, Source, scan
from siamdiff.data.raw import RECIPE, Plan, Planned, Record, encode, examine, make_plan, too_little
from siamdiff.data.sample import Foreign
from siamdiff.data.shards import FOLDER, finished_shards, write_shard
from siamdiff.errors import SiamdiffError, UserError, printable
from siamdiff.run import lease
from siamdiff.sections import Data

SOURCE = "source.json"  # beside a set: what the store told of the source's files when they were examined
_PAIRS_PER_ROW = 32
_MAX_BLOCKS = 1000
_READERS = 4  # threads of a task: one decodes while others wait for the store
_LOG_SECONDS = 10.0

log = logging.getLogger(__name__)


def ingest(config: Config, demo: bool) -> str:
    """Makes the shard set `data.uri` from `data.source`, or says that it is there; returns its URI.

    Args:
        config: resolved.
        demo: whether the set says that it belongs to the demo.

    Raises:
        UserError: no such source, no usable pair, or a set of other inputs under the same URI.
        SiamdiffError: more bad pairs than data.max_rejected, or shards that could not be written.
    """
    with reported(config, DATA) as status:
        assert config.data.uri, "the configuration is resolved"
        private_uri(config.data.uri)  # a place for a set is the first thing to be refused
        ingest_source(config.data, scan(config.data), demo, status)
    return config.data.uri


def ingest_source(
    data: Data, source: Source, demo: bool, status: StageStatus, origin: Foreign | None = None
) -> None:
    """Makes the shard set `data.uri` of a source, or says that it is there.

    Args:
        data: resolved.
        source: what `data.source` holds.
        demo: whether the set says that it belongs to the demo.
        status: where progress is written.
        origin: of another method's images: makes a synthetic set. None: a real one.

    Raises:
        UserError: no usable pair, or a set of other inputs under the same URI.
        SiamdiffError: more bad pairs than data.max_rejected, or shards that could not be written.
    """
    assert data.uri, "the configuration is resolved"
    private = private_uri(data.uri)
    inputs = describe_inputs(data, source, origin)
    done = _complete(data.uri, inputs)
    if done and _untouched(private, source):
        status.done = status.total = len(done.shards)
        log.info("already done: %s holds %d samples", data.uri, done.count)
        return
    if done:
        log.info("%s may have changed since %s was made: looking at every pair again", data.source, data.uri)
    log.info("ingest %d pairs of %s, laid out as %s", len(source.pairs), data.source, source.layout)
    cluster.connect()
    plan = make_plan(source.pairs, _examine_all(source, data, status), data)
    rejected = source.rejected + plan.rejected
    _refuse_other(data.uri, inputs, plan, done)
    total = len(source.pairs) + len(source.rejected)
    listed = f"{private}/rejected.jsonl lists them"
    refusal = too_little(data, total, bool(plan.shards), rejected, listed)
    if not refusal:
        _claim(data.uri, inputs)
    _write_private(private, plan, rejected)
    _report(plan, rejected, private)
    if refusal:
        raise refusal
    manifest = done or _make_set(data, source, plan, inputs, demo, status, origin)
    storage.write_json(storage.join(private, SOURCE), {"versions_sha256": digest(source.versions)})
    status.done = status.total = len(manifest.shards)
    split = ", ".join(f"{name} {count}" for name, count in manifest.splits.items())
    log.info(
        "done: %s holds %d samples (%s) in %d shards", data.uri, manifest.count, split, len(manifest.shards)
    )


def _make_set(
    data: Data,
    source: Source,
    plan: Plan,
    inputs: dict[str, Any],
    demo: bool,
    status: StageStatus,
    origin: Foreign | None,
) -> Manifest:
    """Writes the shards that are not there, and declares the set complete; one job at a time."""
    assert data.uri, "the configuration is resolved"
    with lease(data.uri):
        _write_shards(data, source.folder, plan, status, origin)
        return finish_set(
            data.uri,
            plan.shards,
            kind="synthetic" if origin else "real",
            resolution=data.resolution,
            demo=demo,
            license=data.license,
            permitted_use=data.permitted_use,
            made_from=inputs,
        )


def describe_inputs(data: Data, source: Source, origin: Foreign | None = None) -> dict[str, Any]:
    """Everything that a set's content depends on, by field name; the source by the hash of its names and sizes."""
    fields = ("resolution", "prompt", "split", "seed", "allow_empty", "shard_size", "image_format")
    fields += ("crop", "fit", "license", "permitted_use")
    values = data.model_dump(mode="json", include=set(fields))
    return {f"data.{name}": values[name] for name in fields} | {
        "data.layout": source.layout,
        "source_sha256": digest(source.fingerprint),
        "recipe": RECIPE,
        **({"origin": origin.model_dump()} if origin else {}),
    }


def _complete(set_uri: str, inputs: dict[str, Any]) -> Manifest | None:
    """The manifest, where a set of these inputs is there with all its shards.

    Raises:
        UserError: a set of other inputs is there.
    """
    if not storage.exists(storage.join(set_uri, MANIFEST)):
        return None
    manifest = read_manifest(set_uri)
    _same_inputs(set_uri, manifest.made_from, inputs)
    missing = {shard.name for shard in manifest.shards} - finished_shards(set_uri)
    if missing:
        log.warning("%d shards of %s are missing: they are made again", len(missing), set_uri)
    return None if missing else manifest


def _untouched(private: str, source: Source) -> bool:
    """Whether the source's files are those that were examined, as far as the store's tags tell: not a byte is read."""
    try:
        seen = storage.read_json(storage.join(private, SOURCE))
    except FileNotFoundError:
        return not source.versions
    return seen["versions_sha256"] == digest(source.versions)


def _same_inputs(set_uri: str, there: dict[str, Any], inputs: dict[str, Any]) -> None:
    names = sorted(name for name in there.keys() | inputs.keys() if there.get(name) != inputs.get(name))
    if not names:
        return
    differences = [
        "the source (its files, sizes or groups)"
        if name == "source_sha256"
        else f"{name} ({there.get(name)!r} there, {inputs.get(name)!r} now)"
        for name in names
    ]
    raise UserError(
        f"{set_uri} was made of other inputs: {', '.join(differences)} differs; "
        "give another data.uri or root, or delete that folder"
    )


def _examine_all(source: Source, data: Data, status: StageStatus) -> list[Record]:
    """The record of every pair, in order."""
    batches = [source.pairs[i : i + _PAIRS_PER_ROW] for i in range(0, len(source.pairs), _PAIRS_PER_ROW)]
    folder = source.folder

    def examine_batch(work: list[dict[str, Any]]) -> list[dict[str, Any]]:
        with ThreadPoolExecutor(_READERS) as pool:
            return [asdict(r) for r in pool.map(lambda pair: examine(folder, Pair(**pair), data), work)]

    status.write(phase="examining")
    results: dict[int, list[Record]] = {}
    rows = [[asdict(pair) for pair in batch] for batch in batches]
    for index, result in _spread(rows, examine_batch, "examined", "batches", status):
        if isinstance(result, SiamdiffError):
            raise result
        results[index] = [Record(**record) for record in result]
    return [record for index in range(len(batches)) for record in results[index]]


def _write_shards(data: Data, folder: str, plan: Plan, status: StageStatus, origin: Foreign | None) -> None:
    """Writes the shards of the plan that are not there yet.

    Raises:
        SiamdiffError: some could not be written; the others are.
    """
    set_uri = str(data.uri)
    todo = sorted(plan.shards.keys() - finished_shards(set_uri))
    if len(todo) < len(plan.shards):
        log.info("%d of %d shards are there already", len(plan.shards) - len(todo), len(plan.shards))
    made_by = {"siamdiff": version("siamdiff"), "pillow": version("pillow")}

    def write(work: list[Any]) -> str:
        name, samples = work
        planned = [Planned.from_dict(sample) for sample in samples]
        with ThreadPoolExecutor(_READERS) as pool:
            encoded = list(pool.map(lambda sample: encode(folder, sample, data, origin), planned))
        return write_shard(set_uri, name, encoded, made_by).sha256

    rows = [[name, [sample.as_dict() for sample in plan.shards[name]]] for name in todo]
    status.write(phase="writing", output=set_uri, done=0, total=len(todo))
    failed = [
        (todo[index], result)
        for index, result in _spread(rows, write, "written", "shards", status)
        if isinstance(result, SiamdiffError)
    ]
    if failed:
        name, error = min(failed, key=lambda fault: fault[0])
        raise type(error)(f"{len(failed)} of {len(todo)} shards are not written; {name}: {error}")


def _spread(
    rows: Sequence[Any], function: Callable[[Any], Any], verb: str, noun: str, status: StageStatus
) -> Iterator[tuple[int, Any]]:
    """Runs `function` on every row in a Ray Data task of its own; yields (position, result) as they come.

    Rows and results travel as JSON. A SiamdiffError is a result too: Ray would wrap it and give up the others.
    """

    def task(row: dict[str, Any]) -> dict[str, Any]:
        import ray

        try:
            attempt: Any = ray.get(attempts.begin.remote(str(row["index"])))
            if attempt > cluster.MAX_ATTEMPTS:
                raise SiamdiffError(
                    f"one of the {noun} killed its worker {cluster.MAX_ATTEMPTS} times; the log above tells how"
                )
            result, code = function(json.loads(row["work"])), 0
        except SiamdiffError as error:
            result, code = str(error), error.exit_code
        return {"index": row["index"], "result": json.dumps(result), "code": code}

    if not rows:
        return
    import ray.data

    cluster.configure_data()
    attempts = cluster.Attempts.start()
    items = [{"index": index, "work": json.dumps(row)} for index, row in enumerate(rows)]
    blocks = min(len(items), _MAX_BLOCKS)
    dataset = ray.data.from_items(items, override_num_blocks=blocks).map(task)
    told = time.monotonic()
    with cluster.explained():
        for count, row in enumerate(dataset.iter_rows(), 1):
            result = json.loads(row["result"])
            if row["code"]:
                result = UserError(result) if row["code"] == UserError.exit_code else SiamdiffError(result)
            yield row["index"], result
            if time.monotonic() - told > _LOG_SECONDS or count == len(rows):
                told = time.monotonic()
                log.info("%s %d of %d %s", verb, count, len(rows), noun)
                status.write(done=count, total=len(rows))


def private_uri(set_uri: str) -> str:
    """The folder beside a set for what must not travel with it: file names, and what was left out.

    Raises:
        UserError: the set is a whole bucket or disk, beside which nothing can lie.
    """
    parent, _, name = set_uri.rstrip("/").rpartition("/")
    if not name or parent.endswith(":/"):
        raise UserError(
            f"data.uri {set_uri} is the top of its store: lists of the sources' file names lie beside a set, never in "
            f"it; give a folder, such as {storage.join(set_uri, DATA)}"
        )
    return storage.join(parent, "private", name)


def _write_private(folder: str, plan: Plan, rejected: Sequence[Rejected]) -> None:
    kept = [
        {
            "key": sample.key,
            "image": sample.pair.image,
            "mask": sample.pair.mask,
            "group": sample.pair.group,
            "subset": sample.pair.subset,
        }
        for samples in plan.shards.values()
        for sample in samples
    ]
    left_out = [bad.as_dict() for bad in [*rejected, *plan.duplicates]]
    for name, lines in (
        ("keys.jsonl", kept),
        ("rejected.jsonl", left_out),
        ("near_duplicates.jsonl", plan.near_duplicates),
    ):
        content = b"".join(storage.canonical_json(line) + b"\n" for line in lines)
        storage.write_bytes(storage.join(folder, name), content)


def _report(plan: Plan, rejected: Sequence[Rejected], private: str) -> None:
    """Says what was found: codings of the masks, a table of what is left out, copies."""
    log.info(
        "mask coding: %s", ", ".join(f"{name} {count}" for name, count in plan.codings.items()) or "none"
    )
    subsets = Counter(sample.pair.subset for samples in plan.shards.values() for sample in samples)
    if len(subsets) > 1:
        log.info("subsets: %s", ", ".join(f"{name or 'unnamed'} {n}" for name, n in subsets.most_common()))
    examples: dict[str, list[Rejected]] = defaultdict(list)
    for bad in [*rejected, *plan.duplicates]:
        examples[bad.reason].append(bad)
    if examples:
        log.warning("left out (all in %s/rejected.jsonl):", private)
        log.warning("  %6s  %-32s %s", "pairs", "reason", "first example")
    for reason, found in sorted(examples.items(), key=lambda item: -len(item[1])):
        detail = f" ({printable(found[0].detail)})" if found[0].detail else ""
        log.warning("  %6d  %-32s %s%s", len(found), reason, printable(found[0].files[0]), detail)
    if plan.near_duplicates:
        log.warning(
            "%d pairs of images in different splits look the same: %s/near_duplicates.jsonl lists them, "
            "data.groups keeps such images together",
            len(plan.near_duplicates),
            private,
        )


def _refuse_other(set_uri: str, inputs: dict[str, Any], plan: Plan, done: Manifest | None) -> None:
    """Makes sure that what lies under the URI belongs to this plan, before anything is written in it or beside it.

    Of a complete set (`done`) every planned shard must be there already.

    Raises:
        UserError: leftovers of another ingest lie there, or the source's files changed since.
    """
    uri = storage.join(set_uri, PLAN)
    if storage.exists(uri):
        _same_inputs(set_uri, storage.read_json(uri), inputs)
    planned = {f"{name}.{kind}" for name in plan.shards for kind in ("tar", "json")}
    strange = sorted(set(storage.list_files(storage.join(set_uri, FOLDER))) - planned)
    for marker in iter_markers(set_uri, finished_shards(set_uri) & plan.shards.keys()):
        if [row.key for row in marker.samples] != [sample.key for sample in plan.shards[marker.name]]:
            strange.append(f"{marker.name}.tar")
    if done:
        strange += sorted(plan.shards.keys() - {shard.name for shard in done.shards})
    if strange:
        raise UserError(
            f"{set_uri} holds shards of another ingest, or the source's files changed since ({strange[0]}, "
            f"{len(strange)} in all); delete that folder, or give another data.uri or root"
        )


def _claim(set_uri: str, inputs: dict[str, Any]) -> None:
    """Writes plan.json first of all: of two jobs of different inputs at once one is refused."""
    uri = storage.join(set_uri, PLAN)
    if not storage.put_if_absent(uri, storage.canonical_json(inputs)):
        _same_inputs(set_uri, storage.read_json(uri), inputs)
