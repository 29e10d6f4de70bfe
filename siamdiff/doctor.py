"""Looks, before anything is spent, whether a configuration's store, machine, weights and data are as it needs them.

Nothing is left behind and nothing large is downloaded. Only this machine is looked at: of a cluster's nodes one learns
by running it there (ray job submit).
"""

import contextlib
import importlib.metadata
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from huggingface_hub import constants
from packaging.requirements import Requirement

from siamdiff import storage
from siamdiff.config import Config
from siamdiff.data.cache import cache_folder
from siamdiff.data.manifest import MANIFEST, read_manifest
from siamdiff.data.pairing import scan
from siamdiff.data.raw import most_frequent_reason, too_little
from siamdiff.data.shardset import ShardSet
from siamdiff.errors import SiamdiffError, UserError
from siamdiff.estimate.architecture import architecture, count
from siamdiff.estimate.devices import memory_to_reckon_with, smallest_gpu
from siamdiff.estimate.memory import CONTEXT, Memory, processes
from siamdiff.estimate.report import settled, training_need
from siamdiff.model import sources
from siamdiff.model.base import load_base
from siamdiff.model.licences import base_terms
from siamdiff.sections import PHANTOM
from siamdiff.terms import NAMES, NO_DERIVATIVES, Terms, Use, combine
from siamdiff.training import bases
from siamdiff.training.precision import check_precision

GB = 1e9
STATE_BYTES = 16  # of a checkpoint per trained parameter: weights, both moments, and ZeRO's own copy


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    level: Literal["ok", "warn", "FAIL"]
    check: str
    message: str  # where it is not ok, with what to do
    exit_code: int = 0  # of a FAIL: 2 for what the user can mend in the configuration, else 1

    def __str__(self) -> str:
        return f"{self.level:<5}{self.check:<10}{self.message}"


@dataclass(frozen=True)
class Needs:
    """What a configuration takes, as --dry-run reckons it."""

    memory: Memory  # of one training process on its device
    parameters: int  # of all networks
    own: int  # of those, the ones that each process makes for itself: the control network's
    trained: int


def examine(config: Config) -> Iterator[Finding]:
    """Findings one by one, as they come; each check has at least one."""
    found = list(_failing("store", lambda: _store(config)))
    yield from found
    store_fails = any(finding.level == "FAIL" for finding in found)
    yield from _failing("versions", lambda: _versions(config))
    needs: list[Needs] = []
    yield from _failing("estimate", lambda: _estimate(config, needs))
    if needs:
        yield from _failing("memory", lambda: _memory(config, needs[0]))
        yield from _failing("disk", lambda: _disk(config, needs[0]))
        yield from _failing("gpu", lambda: _gpu(config, needs[0]))
    for check, uri, look in (
        ("weights", config.model.base, _weights),
        ("data", config.data.uri or "", _data),
        ("terms", config.data.uri or "", _terms),
    ):
        if store_fails and uri.startswith("s3://"):
            yield Finding("warn", check, f"{uri} was not looked at; mend the store first")
        else:
            yield from _failing(check, lambda look=look: look(config))


def exit_code(findings: list[Finding]) -> int:
    """0 without a FAIL; 1 where one is not the user's mistake; else 2."""
    return min((finding.exit_code for finding in findings if finding.level == "FAIL"), default=0)


def _failing(check: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of a check; what it raises is its last one."""
    try:
        yield from look()
    except SiamdiffError as error:
        yield Finding("FAIL", check, " ".join(str(error).split()), error.exit_code)


def _store(config: Config) -> Iterator[Finding]:
    """Writes, reads, lists, puts if absent and deletes two small objects."""
    root = config.root or ""
    with _folder_for_a_moment(root):
        storage.probe(root)
        name = f"doctor-{uuid.uuid4().hex}"
        plain, once = storage.join(root, name, "probe"), storage.join(root, name, "once")
        try:
            storage.write_bytes(plain, b"first")
            if storage.read_bytes(plain) != b"first":
                raise SiamdiffError(f"{root} gives back other bytes than were written; check the store")
            first, second = (storage.put_if_absent(once, content) for content in (b"1", b"2"))
            listed = set(storage.list_files(storage.join(root, name)))
        finally:
            storage.delete_folder(storage.join(root, name))
        if listed != {"probe", "once"}:
            raise SiamdiffError(
                f"{root} does not list what was written to it; check the store's rights to list"
            )
        if not first or second:
            raise SiamdiffError(
                f"the store of {root} does not honour conditional puts (If-None-Match): two jobs could overwrite each "
                "other; use a store that does"
            )
        if storage.list_files(storage.join(root, name)):
            raise UserError(f"{root} keeps what was deleted; give the credentials the right to delete")
    yield Finding("ok", "store", f"{root}: write, read, list, put if absent, delete")


@contextlib.contextmanager
def _folder_for_a_moment(root: str) -> Iterator[None]:
    """Takes away again, if they are empty, the folders that had to be made for a local root."""
    path = storage.local_path(root)
    made = [] if path is None else [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        yield
    finally:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _versions(config: Config) -> Iterator[Finding]:
    """The libraries, against the ranges that the project is released for."""
    try:
        required = importlib.metadata.requires("siamdiff") or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding(
            "warn", "versions", "siamdiff is not installed, so that its ranges are not known; pip install ."
        )
        return
    wanted = {"torch", "diffusers", "transformers", "ray", "deepspeed"}
    good = []
    for requirement in map(Requirement, required):
        if requirement.name not in wanted:
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            plain = requirement.name == "deepspeed" and config.train.engine == "torch"
            fix = f"pip install 'siamdiff[cluster]' ({requirement.name}{requirement.specifier})"
            level = "warn" if plain else "FAIL"
            yield Finding(level, "versions", f"{requirement.name} is not installed; {fix}", 2)
            continue
        if requirement.specifier.contains(version, prereleases=True):
            good.append(f"{requirement.name} {version}")
        else:
            fix = f"pip install '{requirement.name}{requirement.specifier}'"
            yield Finding(
                "warn",
                "versions",
                f"{requirement.name} {version} is not what is tested ({requirement.specifier}); {fix}",
            )
    yield Finding("ok", "versions", ", ".join(good))


def _estimate(config: Config, needs: list[Needs]) -> Iterator[Finding]:
    networks = architecture(config)
    trained, everything = count(networks.model, trainable=True), count(networks.model)
    encoders = count(networks.base.vae) + count(networks.base.text_encoder)
    memory = training_need(settled(config, networks, memory_to_reckon_with(config.cluster)), networks)
    needs.append(Needs(memory, everything + encoders, count(networks.model.control), trained))
    yield Finding(
        "ok",
        "estimate",
        f"{memory.peak / GB:.1f} GB per training process on its device, {trained:,} parameters learn",
    )


def _memory(config: Config, needs: Needs) -> Iterator[Finding]:
    """Main memory: on CPUs all that training takes; else what is there before the GPUs have it.

    The base's files are mapped, so that the processes of a node share its pages.
    """
    number = processes(config.train)
    before_gpus = 4 * (needs.parameters - needs.own) + number * 4 * needs.own
    need = before_gpus if config.cluster.gpus else number * (needs.memory.peak - CONTEXT)
    total, free = _main_memory()
    what = (
        f"{number} training processes take {need / GB:.1f} GB of main memory, "
        f"{free / GB:.1f} of {total / GB:.1f} are free"
    )
    if need <= free:
        yield Finding("ok", "memory", what)
    elif need <= total or _elsewhere():
        yield Finding("warn", "memory", f"{what}; free some, or lower train.workers or train.micro_batch")
    else:
        yield Finding("FAIL", "memory", f"{what}; lower train.workers or train.micro_batch", 2)


def _main_memory() -> tuple[int, int]:
    """Bytes of this machine, or of this container: all, and free."""
    page = os.sysconf("SC_PAGE_SIZE")
    total, free = os.sysconf("SC_PHYS_PAGES") * page, os.sysconf("SC_AVPHYS_PAGES") * page
    meminfo = Path("/proc/meminfo")  # counts what the system would give back at once, where it exists
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        total = min(total, int(text))
        free = min(free, total - int(used.read_text()))
    return total, free


def _disk(config: Config, needs: Needs) -> Iterator[Finding]:
    """Room for checkpoints: one at a time in the temporary folder, all that are kept under a local root."""
    checkpoint, model = STATE_BYTES * needs.trained, 4 * needs.parameters
    places = {tempfile.gettempdir(): checkpoint}
    if (path := storage.local_path(config.root or "")) is not None:
        places[str(path)] = (config.train.checkpoints_kept + 1) * checkpoint + model
    base = config.model.base
    if base.startswith("s3://") or sources.is_single_file(base):
        places[str(cache_folder())] = model
    elif base != sources.TINY and not Path(base).is_absolute():
        places[constants.HF_HUB_CACHE] = model
    for place, need in places.items():
        there = next(folder for folder in (Path(place), *Path(place).parents) if folder.exists())
        free = shutil.disk_usage(there).free
        what = f"{place}: about {need / GB:.1f} GB are needed, {free / GB:.1f} are free"
        if need <= free:
            yield Finding("ok", "disk", what)
        else:
            fix = "free some, lower train.checkpoints_kept, or set --root, TMPDIR, SIAMDIFF_CACHE or HF_HOME elsewhere"
            yield Finding("FAIL", "disk", f"{what}; {fix}", 2)


def _gpu(config: Config, needs: Needs) -> Iterator[Finding]:
    visible = torch.cuda.device_count() if torch.cuda.is_available() else 0
    wanted = config.cluster.gpus * processes(config.train)
    if not wanted:
        if visible:
            yield Finding(
                "warn", "gpu", f"{visible} are visible and none is asked for; give --cluster.gpus 1"
            )
        else:
            check_precision(config.train.precision, torch.device("cpu"))
            yield Finding("ok", "gpu", "none asked for")
        return
    if visible < wanted:
        message = f"{wanted:g} are asked for, {visible} are visible here"
        if _elsewhere():
            yield Finding("warn", "gpu", f"{message}; the cluster of RAY_ADDRESS must have them")
        else:
            fix = "lower train.workers or cluster.gpus, or join a cluster (RAY_ADDRESS)"
            yield Finding("FAIL", "gpu", f"{message}; {fix}", 2)
        return
    check_precision(config.train.precision, torch.device("cuda"))
    smallest = smallest_gpu()
    assert smallest is not None, "one is visible"
    message = f"{visible} visible, {smallest / GB:.1f} GB each, {needs.memory.peak / GB:.1f} GB reckoned"
    if needs.memory.peak <= smallest:
        yield Finding("ok", "gpu", message)
    else:
        fix = "lower train.micro_batch or set train.activation_checkpointing true (--dry-run has the details)"
        yield Finding("FAIL", "gpu", f"{message}; {fix}", 2)


def _elsewhere() -> bool:
    """Whether the work will be done by a cluster that is not this machine alone."""
    return bool(os.environ.get("RAY_ADDRESS"))


def _weights(config: Config) -> Iterator[Finding]:
    base = config.model.base
    if base == sources.TINY:
        yield Finding("ok", "weights", "tiny base, made from the data")
    elif Path(base).is_absolute():
        bases.prepare_base(config)
        yield Finding("ok", "weights", f"{base} is whole and fits the method")
    elif base.startswith("s3://"):
        content = sources.identity(base)
        yield Finding(
            "ok", "weights", f"{base} is there ({content[:24]}...); its content is checked when it is fetched"
        )
    else:
        commit = sources.resolved(base)
        folder = _in_cache(commit)
        if folder is None:
            yield Finding(
                "warn", "weights", f"{commit} is not in this machine's cache; the first job downloads it"
            )
            return
        try:
            load_base(str(folder), commit)
        except UserError as error:
            repository = commit.partition("@")[0]
            raise UserError(
                f"{error}; where it is half downloaded, complete it: hf download {repository}"
            ) from error
        yield Finding("ok", "weights", f"{commit} is whole in this machine's cache and fits the method")


def _in_cache(commit: str) -> Path | None:
    """The hub's snapshot of a model, where some of it is in this machine's cache."""
    from huggingface_hub import try_to_load_from_cache

    repository, _, revision = commit.partition("@")
    for part in ("vae", "unet", "text_encoder"):
        found = try_to_load_from_cache(
            repository, f"{part}/config.json", cache_dir=constants.HF_HUB_CACHE, revision=revision
        )
        if isinstance(found, str):
            return Path(found).parents[1]
    return None


def _data(config: Config) -> Iterator[Finding]:
    uri = config.data.uri
    assert uri, "resolve() comes first"
    if storage.exists(storage.join(uri, MANIFEST)):
        shard_set = ShardSet.open(uri)
        manifest = shard_set.manifest
        if manifest.resolution != config.data.resolution:
            raise UserError(
                f"{uri} holds images of {manifest.resolution} pixels, data.resolution is {config.data.resolution}; "
                f"give --data.resolution {manifest.resolution} or another root"
            )
        if not manifest.splits.get("train"):
            raise UserError(f"{uri} has no sample in its train split; ingest it with a share of train")
        yield Finding("ok", "data", f"{uri} is complete: {manifest.count} samples, {manifest.splits}")
    elif config.data.source == PHANTOM:
        yield Finding("ok", "data", f"{config.data.count} phantoms, drawn when they are needed")
    else:
        source = scan(config.data)
        rejected = source.rejected
        total = len(source.pairs) + len(rejected)
        refusal = too_little(config.data, total, bool(source.pairs), rejected, "ingest lists them")
        if refusal:
            raise refusal
        message = (
            f"{config.data.source}: {len(source.pairs)} pairs, laid out as {source.layout}, to be ingested"
        )
        if rejected:
            why = most_frequent_reason(rejected)
            yield Finding("warn", "data", f"{message}; {len(rejected)} are left out, most because: {why}")
        else:
            yield Finding("ok", "data", message)


def _terms(config: Config) -> Iterator[Finding]:
    """What the terms of data and base let one do with the model and what it makes."""
    of_data = Terms(config.data.license, config.data.permitted_use)
    uri = str(config.data.uri)
    with contextlib.suppress(SiamdiffError):  # which the check of the data tells
        manifest = read_manifest(uri)
        of_data = Terms(manifest.license, manifest.permitted_use)
    if of_data.use is Use.NONE:
        raise UserError(
            f"{uri} may not be used: its permitted_use is {of_data.permitted_use!r}; give other data"
        )
    of_base = base_terms(config)
    terms = combine([of_data] + ([of_base] if of_base else []))
    if terms.forbids_derivatives:
        yield Finding(
            "warn", "terms", f"{terms.license}: {NO_DERIVATIVES}; train on other data to give the model away"
        )
    if terms.unread:
        told = f"a person must find out and read: {', '.join(terms.unread)}"
        fix = "data.license, data.permitted_use, and license and permitted_use in the base's siamdiff.json say it"
        yield Finding("warn", "terms", f"{told}; {fix}")
    yield Finding(
        "ok", "terms", f"of the model and what it makes: {terms.license}; permitted: {NAMES[terms.use]}"
    )
