"""Bulk generation on a cluster: Ray Data hands out planned shards, a pool of actors samples and writes them.

One row is one output shard, so no division of the data into blocks can mix or split shards. A shard counts once its
marker lies in the store; Ray's own bookkeeping decides nothing. So a killed actor, a killed driver or a second job on
the same output cost time only: the same command makes what is missing.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from infra import cluster, metrics
from infra.masks import read_masks
from infra.rows import each_row, refuse_leftovers
from infra.sampler import SamplerActor
from infra.stage import CONFIG, LATEST, PLAN, SYNTHETIC, StageStatus, reported
from siamdiff import storage
from siamdiff.config import Config
from siamdiff.data.manifest import MANIFEST
from siamdiff.data.shards import finished_shards
from siamdiff.data.shardset import ShardSet, finish_set, verify
from siamdiff.errors import SiamdiffError, UserError
from siamdiff.model.folder import INFO, read_info
from siamdiff.presets import SWITCHES
from siamdiff.run import readable_seconds
from siamdiff.sampling.plan import NO_MODEL, Plan, ShardPlan

log = logging.getLogger(__name__)

READ_CPUS = 0.25  # of a core, for each reader; as many readers as samplers run at most
LOG_SECONDS = 5.0

_NEEDED = {
    "model_digest",
    "control",
    "data_digest",
    "resolution",
    "demo",
    "license",
    "permitted_use",
}  # of a model's siamdiff.json


@dataclass(frozen=True)
class TrainedModel:
    """A trained model in the store."""

    uri: str
    info: dict[str, Any]  # its siamdiff.json


@dataclass(frozen=True)
class Job:
    """What is made, from what, and where."""

    plan: Plan
    keys: list[str]  # of the masks of every fold
    masks: ShardSet
    model: TrainedModel | None  # None: the method takes none
    output: str

    @property
    def count(self) -> int:
        """Samples planned."""
        return self.plan.settings.folds * len(self.keys)


def generate(config: Config, demo: bool) -> None:
    """Makes the synthetic set of a configuration; goes on where an attempt ended; does nothing if it is complete.

    Raises:
        UserError: no model, no mask set, masks of another size than the model's, an output that holds another plan.
        SiamdiffError: shards could not be made, or the finished set is not whole.
    """
    with reported(config, SYNTHETIC) as status:
        _generate(config, demo, status)


def _generate(config: Config, demo: bool, status: StageStatus) -> None:
    job = _prepare(config)
    names = [shard.name for shard in job.plan.shards(job.keys)]
    done = finished_shards(job.output)
    todo = [shard for shard in job.plan.shards(job.keys) if shard.name not in done]
    log.info(
        "plan %s: %d samples in %d shards, %d to make", job.plan.digest, job.count, len(names), len(todo)
    )
    status.total, status.done = len(names), len(names) - len(todo)
    if not todo and _is_latest(config, job):
        log.info("nothing to do: %s is complete", job.output)
        return
    status.write(phase="generating", output=job.output)
    if todo:
        failures = _make(config, job, todo, status)
        refuse_leftovers("shards", names, finished_shards(job.output), failures)
    status.write(phase="verifying")
    _finish(config, job, names, demo)


def _prepare(config: Config) -> Job:
    """Opens the inputs, checks that they fit, and claims the output for the plan."""
    settings = config.generate
    assert settings.masks and config.root, "resolve() comes first"
    masks = ShardSet.open(settings.masks)
    model = None if settings.method == "copy-paste" else _model_for(config, masks)
    plan = Plan.of(
        settings,
        masks=masks.digest,
        model=model.info["model_digest"] if model else NO_MODEL,
        resolution=masks.manifest.resolution,
    )
    keys = plan.choose(masks.keys(settings.split))
    if not keys:
        raise UserError(
            f"{masks.uri} has no samples in split {settings.split!r} (it has {masks.manifest.splits}); "
            "choose another with --generate.split"
        )
    output = settings.output or storage.join(config.root, SYNTHETIC, plan.digest)
    _claim(output, plan)
    storage.write_bytes(storage.join(output, CONFIG), config.to_yaml().encode())
    return Job(plan, keys, masks, model, output)


def _model_for(config: Config, masks: ShardSet) -> TrainedModel:
    """The model that is named, checked to fit the masks and the guide."""
    uri = _model_of(config)
    info = read_info(uri)
    if missing := _NEEDED - info.keys():
        raise UserError(
            f"{uri} is not a trained model: its siamdiff.json lacks {', '.join(sorted(missing))}; "
            "name the model/ folder of a finished run with --generate.model"
        )
    resolution = masks.manifest.resolution
    if resolution != info["resolution"]:
        raise UserError(
            f"the masks of {masks.uri} have {resolution} pixels a side, the model at {uri} was trained with "
            f"{info['resolution']}; both must be equal: ingest with --data.resolution {info['resolution']}, or name "
            "another --generate.model"
        )
    if config.generate.guide == "mask+image" and info["control"] == "t2i-adapter":
        raise UserError(
            f"generate.guide is mask+image, but the model at {uri} has a T2I-Adapter, which was trained on masks "
            "alone; give --generate.guide mask, or a model with a ControlNet"
        )
    return TrainedModel(uri, info)


def _model_of(config: Config) -> str:
    """The model that is named or, where neither it nor a run is and no run has these settings, the newest one."""
    own, named = storage.join(config.run_uri(), "model"), config.generate.model
    assert named, "resolve() comes first"
    if named != own or config.train.run != config.derived_run() or storage.exists(storage.join(own, INFO)):
        return named
    try:
        latest = storage.read_json(storage.join(config.runs_uri(), LATEST))["run"]
    except FileNotFoundError:
        return own
    newest = storage.join(config.runs_uri(), latest, "model")
    if other := _other_switches(config, read_info(newest)):
        raise UserError(
            f"no run under {config.root} has these settings, and the one that finished last, {latest}, is of another "
            f"method: {'; '.join(other[:3])}; train this one first, or name a model with --generate.model"
        )
    log.info("the run that finished last under %s: %s", config.root, latest)
    return newest


def _other_switches(config: Config, info: dict[str, Any]) -> list[str]:
    """What tells a model's method from the configuration's: "train.image_branch is False there, True here"."""
    there = {"model.control": info.get("control")}
    there |= {f"train.{name}": value for name, value in (info.get("train") or {}).items()}
    here = {name: getattr(getattr(config, name.split(".")[0]), name.split(".")[1]) for name in SWITCHES}
    return [
        f"{name} is {there.get(name)!r} there, {value!r} here"
        for name, value in here.items()
        if there.get(name) != value
    ]


def _claim(output: str, plan: Plan) -> None:
    """Writes plan.json first of all, or checks that the output belongs to this plan already."""
    uri = storage.join(output, PLAN)
    content = plan.model_dump(mode="json")
    if not storage.exists(uri):
        foreign = next(iter(storage.list_files(output)), None)
        if foreign not in (None, PLAN):
            raise UserError(
                f"{output} holds files that are not of a synthetic set ({foreign}); give an empty folder with "
                "--generate.output, or leave it out"
            )
        if storage.put_if_absent(uri, storage.canonical_json(content)):
            return
    earlier = storage.read_json(uri)
    differences = plan.differences(earlier)
    if differences:
        raise UserError(
            f"{output} holds another plan: {'; '.join(differences[:4])}; give the same values, or another "
            "--generate.output"
        )


def _make(config: Config, job: Job, todo: list[ShardPlan], status: StageStatus) -> dict[str, str]:
    """Makes shards on the cluster. Returns what went wrong: {shard: reason}; the job's own end under ""."""
    import ray.exceptions

    cluster.connect()
    actors = min(config.generate.actors, len(todo))
    cluster.check_room(
        {"CPU": actors * config.cluster.actor_cpus + READ_CPUS, "GPU": actors * _gpus(config, job)},
        f"{actors} sampler actors and the reader",
        "lower generate.actors, cluster.actor_cpus or cluster.gpus",
    )
    progress = Progress(status, len(todo))
    failures: dict[str, str] = {}
    try:
        for result in _results(config, job, todo, actors):
            if result["error"]:
                failures[result["name"]] = result["error"]
                log.warning("shard %s failed: %s", result["name"], result["error"])
            progress.add(result)
    except ray.exceptions.RayError as error:
        log.exception("the cluster gave up")
        failures[""] = cluster.first_line(error)
    return failures


def _gpus(config: Config, job: Job) -> float:
    """GPUs of each actor; copying needs none."""
    return config.cluster.gpus if job.model else 0.0


def _results(config: Config, job: Job, todo: list[ShardPlan], actors: int) -> Iterator[dict[str, Any]]:
    """One row per finished or failed shard, as they come."""
    import ray.data

    cluster.configure_data()
    read: Any = read_masks  # Ray's type of what it maps with knows no further arguments
    actor: Any = SamplerActor
    rows = [
        {"name": shard.name, "fold": shard.fold, "kind": shard.mask_kind, "keys": list(shard.mask_keys)}
        for shard in todo
    ]
    results = (
        ray.data.from_items(rows, override_num_blocks=len(rows))
        .map(
            read,
            fn_kwargs={"masks_uri": job.masks.uri, "plan": job.plan},
            compute=ray.data.TaskPoolStrategy(size=actors),  # a reader is far faster than a sampler
            num_cpus=READ_CPUS,
        )
        .map(
            actor,
            fn_constructor_kwargs={
                "plan": job.plan,
                "model_uri": job.model.uri if job.model else "",
                "output": job.output,
                "device": "cuda" if _gpus(config, job) else "cpu",
                "threads": config.cluster.threads,
                "attempts": cluster.Attempts.start(),
            },
            # One shard at work, one ready to follow it.
            compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=2),
            num_cpus=config.cluster.actor_cpus,
            num_gpus=_gpus(config, job) or None,
        )
    )
    yield from each_row(results)


class Progress:
    """Shards and images done, in the log, in status.json and as metrics."""

    def __init__(self, status: StageStatus, todo: int) -> None:
        self.status, self.left = status, todo
        # Counted from the first shard on: before it nodes, processes and models were starting.
        self.first: float | None = None
        self.images = self.shards = 0
        self.logged = time.monotonic()
        self._gauges = metrics.GenerateGauges()
        self._gauges.set(status.done, status.total)

    def add(self, result: dict[str, Any]) -> None:
        """Takes the row of one shard."""
        now = time.monotonic()
        self.left -= 1
        self.status.done += not result["error"]
        if self.first is None:
            self.first = now
        else:
            self.images += result["count"]
            self.shards += 1
        if now - self.logged < LOG_SECONDS and self.left:
            return
        self.logged = now
        speed = ""
        if self.shards:
            seconds = now - self.first
            to_go = readable_seconds(seconds / self.shards * self.left)
            speed = f", {self.images / seconds:.3g} images/s, about {to_go} to go"
        log.info("%d of %d shards done%s", self.status.done, self.status.total, speed if self.left else "")
        self._gauges.set(self.status.done, self.status.total)
        self.status.write()


def _finish(config: Config, job: Job, names: Sequence[str], demo: bool) -> None:
    """Declares the set complete, reads it again, and points `latest.json` to it."""
    masks, info = job.masks.manifest, job.model.info if job.model else {}
    made_from: dict[str, Any] = {
        "masks": {"uri": job.masks.uri, "digest": job.masks.digest},
        "plan": {"digest": job.plan.digest} | job.plan.model_dump(mode="json"),
    }
    if job.model:
        made_from["model"] = {
            "uri": job.model.uri,
            "digest": job.plan.model,
            "data_digest": info["data_digest"],
        }
    manifest = finish_set(
        job.output,
        names,
        kind="synthetic",
        resolution=job.plan.settings.resolution,
        demo=demo or masks.demo or info.get("demo", False),
        license=_joined(masks.license, info.get("license", masks.license)),
        permitted_use=_joined(masks.permitted_use, info.get("permitted_use", masks.permitted_use)),
        made_from=made_from,
    )
    problems = verify(job.output)
    if manifest.count != job.count:
        problems.append(f"it holds {manifest.count} samples, {job.count} were planned")
    if problems:
        raise SiamdiffError(
            f"{job.output} is not whole: {problems[0]} ({len(problems)} problems; python -m siamdiff verify "
            f"{job.output} lists them); delete what is damaged and run the same command again"
        )
    storage.write_json(_latest_uri(config), _latest(job))
    log.info("%d synthetic pairs: %s", manifest.count, job.output)


def _joined(of_masks: str, of_model: str) -> str:
    """Both terms where they differ: the set is bound by the one and the other."""
    return of_masks if of_masks == of_model else f"{of_masks}; {of_model}"


def _latest_uri(config: Config) -> str:
    assert config.root
    return storage.join(config.root, SYNTHETIC, LATEST)


def _latest(job: Job) -> dict[str, str]:
    return {"uri": job.output, "plan": job.plan.digest}


def _is_latest(config: Config, job: Job) -> bool:
    """Whether this plan's set was completed and verified, and is the latest."""
    uri = _latest_uri(config)
    if not storage.exists(uri) or not storage.exists(storage.join(job.output, MANIFEST)):
        return False
    return storage.read_json(uri) == _latest(job)
