"""Bulk generation on a cluster: planned shards, made by a fleet of actors, checked, declared one set.

A shard counts once its marker lies in the store; Ray's own bookkeeping decides nothing. So a killed actor, a killed
driver or a second job on the same output cost time only: the same command makes what is missing.
"""

import logging
from typing import Any

from infra import fleet
from infra.audit import check_shards
from infra.gates import described
from infra.rows import refuse_leftovers
from infra.stage import CARD, CONFIG, LATEST, SYNTHETIC, StageStatus, reported
from infra.synthetic import Job, prepare
from siamdiff import storage
from siamdiff.config import Config
from siamdiff.data.manifest import MANIFEST, finish_set, read_manifest
from siamdiff.data.shards import finished_shards, read_marker
from siamdiff.errors import AlreadyRunningError, SiamdiffError, StoppedError
from siamdiff.export.card import Described, card
from siamdiff.run import InUseError, Lease, lease
from siamdiff.sampling.gates import Tally
from siamdiff.terms import Terms, combine

log = logging.getLogger(__name__)


def generate(config: Config, demo: bool) -> str:
    """Makes the synthetic set of a configuration; goes on where an attempt ended; does nothing if it is complete.

    Returns:
        URI of the set.

    Raises:
        UserError: no model, no mask set, masks of another size than the model's, an output that holds another plan.
        AlreadyRunningError: another job makes this very set.
        StoppedError: the budget is used up.
        SiamdiffError: shards could not be made, the finished set is not whole, or too many samples were rejected.
    """
    with reported(config, SYNTHETIC) as status:
        job = prepare(config)
        try:
            with lease(job.output) as held:
                _generate(config, demo, job, held, status)
        except InUseError as error:
            raise AlreadyRunningError(f"already running: {error}") from error
    return job.output


def _generate(config: Config, demo: bool, job: Job, held: Lease, status: StageStatus) -> None:
    todo = job.todo(finished_shards(job.output))
    log.info(
        "plan %s: %d samples in %d shards, %d to make", job.plan.digest, job.count, job.shards, len(todo)
    )
    status.total, status.done = job.shards, job.shards - len(todo)
    if not len(todo) and storage.exists(storage.join(job.output, MANIFEST)):
        _describe(config, job)  # an earlier command may have been lost before that, or other sets made since
        log.info("nothing to do: %s is complete", job.output)
        return
    storage.write_bytes(storage.join(job.output, CONFIG), config.to_yaml().encode())
    status.write(phase="generating", output=job.output)
    outcome = fleet.make(config, job, todo, status) if len(todo) else fleet.Outcome({})
    names, done = [job.name(number) for number in range(job.shards)], finished_shards(job.output)
    if outcome.over_budget and not outcome.failures and len(done) < len(names):
        raise StoppedError(
            f"stopped by {outcome.over_budget}; {len(done)} of {len(names)} shards are done, the same command goes on "
            "from there with a budget of its own"
        )
    refuse_leftovers("shards", names, done, outcome.failures)
    status.write(phase="verifying")
    tally = _check(config, job, names)
    _refuse_rejected(config, job, tally)
    gates = _gates(job, tally)
    held.check()
    _finish(config, job, names, demo, gates)


def _check(config: Config, job: Job, names: list[str]) -> Tally:
    """Reads every shard again, on the cluster, and compares it with the plan; tells how its samples fared at the gates.

    Raises:
        SiamdiffError: one is damaged, or not as planned.
    """
    problems, tally = check_shards(config, job.output, names, job.plan, job.masks.uri)
    if problems:
        raise SiamdiffError(
            f"{job.output} is not whole: {problems[0]} ({len(problems)} problems); python -m siamdiff verify --repair "
            f"{job.output} drops what is damaged, then the same command makes it again"
        )
    return tally


def _refuse_rejected(config: Config, job: Job, tally: Tally) -> None:
    """The gate of the whole set.

    Raises:
        SiamdiffError: more samples are rejected than may be.
    """
    if job.plan.settings.gates is None:
        return
    log.info(
        "gates: %d of %d samples drawn again, %d rejected to the last%s",
        tally.redrawn,
        tally.samples,
        tally.rejected,
        f" ({tally.reasons})" if tally.rejected else "",
    )
    most = config.generate.max_rejected
    permitted = int(most * tally.samples + 1e-9)  # 0.29 * 100 is a little less than 29
    if tally.rejected > permitted:
        raise SiamdiffError(
            f"{tally.rejected} of {tally.samples} samples passed the gates in none of their draws ({tally.reasons}); "
            f"generate.max_rejected {most:g} permits {permitted}: look at {job.output}, then train the "
            "model longer or on more images, or raise --generate.max_rejected and run the same command again"
        )


def _gates(job: Job, tally: Tally) -> dict[str, Any] | None:
    """What the manifest says of the gates; None without any. Their settings are the plan's."""
    if job.plan.settings.gates is None:
        return None
    copies = described(job)
    return {"counts": tally.as_dict()} | ({"copies": copies} if copies else {})


def _finish(config: Config, job: Job, names: list[str], demo: bool, gates: dict[str, Any] | None) -> None:
    """Declares the set complete, describes it for people, and points `latest.json` to it."""
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
    if gates:
        made_from["gates"] = gates
    sources = {"masks": Terms(masks.license, masks.permitted_use)}
    if job.model:
        sources["model"] = Terms(info["license"], info["permitted_use"])
    terms = combine(sources.values())
    manifest = finish_set(
        job.output,
        names,
        kind="synthetic",
        resolution=job.plan.settings.resolution,
        demo=demo or masks.demo or info.get("demo", False),
        license=terms.license,
        permitted_use=terms.permitted_use,
        made_from=made_from | {"terms": {name: of.as_dict() for name, of in sources.items()}},
    )
    _describe(config, job)
    log.info("%d synthetic pairs: %s", manifest.count, job.output)


def _describe(config: Config, job: Job) -> None:
    """Describes a complete set for people, and makes it the newest."""
    assert config.root, "the configuration is resolved"
    manifest = read_manifest(job.output)
    versions = read_marker(job.output, job.name(0)).made_by.get("versions", {})
    storage.write_bytes(storage.join(job.output, CARD), card([Described(manifest, versions)]).encode())
    latest = {"uri": job.output, "plan": job.plan.digest}
    storage.write_json(storage.join(config.root, SYNTHETIC, LATEST), latest)
