"""Follows a key through what is made: sets, latents, bases, runs, models, synthetic sets."""

from siamdiff import storage
from siamdiff.data.latent_parts import FOLDER as CACHE
from siamdiff.lineage.findings import DELETE, LOOK, REGENERATE, REINGEST, REMAKE, RETRAIN, Relation, Trail
from siamdiff.lineage.origin import began_with, is_open, model_used
from siamdiff.lineage.reading import TRAIN, VAL, RunFacts, SetFacts
from siamdiff.lineage.world import ModelFacts, World

PREVIEWED = 4  # masks of a set that previews show, val before train (siamdiff.training.previews.COUNT)
NO_MODEL = "copy-paste"  # siamdiff.sampling.plan.NO_MODEL
_SHOWN_KEYS = 4  # of many samples


def follow(world: World, trail: Trail) -> None:
    """Adds everything that was made from the image."""
    for of in world.sets:
        _holding(trail, of)
    for base in (of for of in world.weights if of.digest is None):
        _base(world, trail, base)
    for run in world.runs:
        _run(world, trail, run)
    for model in (of for of in world.weights if of.digest is not None):
        _model(world, trail, model)
    for of in world.sets:
        if of.plan.masks or of.made_for or (of.manifest and of.manifest.kind == "synthetic"):
            _synthetic(world, trail, of)
    # the masks of a synthetic set may have made another
    while any(_inherits(world, trail, of) for of in world.sets):
        pass


def some(keys: list[str]) -> str:
    """The first of some keys."""
    return ", ".join(sorted(keys)[:_SHOWN_KEYS]) + (", ..." if len(keys) > _SHOWN_KEYS else "")


def _holding(trail: Trail, of: SetFacts) -> None:
    held = of.held.get(trail.key)
    if held is None:
        return
    state = f"revision {of.manifest.revision}" if of.manifest else "of no complete set"
    terms = f"; {of.terms.license}, permitted: {of.terms.permitted_use}" if of.terms else ""
    where = f"{held.shard} at byte {held.offset}, split {held.split}, group {held.group}, {state}{terms}"
    trail.add(Relation.HOLDS, "shards", f"{of.uri}/shards/{held.shard}.tar", where, REINGEST)
    for kind, name in (("markers of shards", f"shards/{held.shard}.json"), ("index", "index.parquet")):
        if name in of.unit.names(kind):
            trail.add(Relation.NAMES, kind, f"{of.uri}/{name}", "key and hashes", REINGEST)
    aside = f"damaged/{held.shard}.tar"
    if aside in of.unit.names("shards put aside"):
        trail.add(Relation.HOLDS, "shards put aside", f"{of.uri}/{aside}", "a damaged copy", "siamdiff gc")
    for name in of.unit.names("VAE moments"):
        if storage.name_of(name).rpartition(".")[0] == held.shard:
            detail = f"the shard's, one row a sample, of {CACHE}/{name.split('/')[1]}"
            trail.add(Relation.COMPUTED, "VAE moments", f"{of.uri}/{name}", detail, "delete the cache")


def _base(world: World, trail: Trail, base: ModelFacts) -> None:
    used = world.base_used(trail.key, base)
    count = len(base.unit.names("weights"))
    if used:
        detail = f"a tiny base, made from {base.info.images or 'the'} training images of its set"
        trail.add(Relation.TRAINED, "weights", base.uri, detail, RETRAIN, count)
    elif used is None:
        trail.add(Relation.MAY, "weights", base.uri, "a tiny base whose set is not here", LOOK, count)


def _run(world: World, trail: Trail, run: RunFacts) -> None:
    key, split = trail.key, world.split_of(trail.key, run.data)
    first, began = run.first.get(key), began_with(world, key, run)
    told = _told_of_steps(run, key, split, began)
    for uri, step in run.checkpoints.items():
        count = sum(
            name.startswith(f"checkpoints/{storage.name_of(uri)}/") for name in run.unit.names("checkpoints")
        )
        if began or (first is not None and (step is None or step > first)):
            trail.add(Relation.TRAINED, "checkpoints", uri, told, RETRAIN, count)
        elif is_open(run, split, began):
            trail.add(Relation.MAY, "checkpoints", uri, told, LOOK, count)
    if first is not None:
        logs = len(run.unit.names("log of keys"))
        trail.add(Relation.NAMES, "log of keys", f"{run.uri}/logs/keys", told, DELETE, logs)
    if first is not None or began or split == VAL:
        for kind in ("losses", "curves of the losses"):
            for name in run.unit.names(kind):
                trail.add(Relation.COMPUTED, kind, f"{run.uri}/{name}", "means over many images", DELETE)
    _previews(world, trail, run)


def _told_of_steps(run: RunFacts, key: str, split: str | None, began: bool | None) -> str:
    parts = ["its base was made from it"] if began else []
    if key in run.first:
        parts.append(f"consumed {run.uses[key]} times, first by step {run.first[key]}")
    elif split == VAL:
        parts.append("in its val split")
    if run.gap:
        parts.append(f"no log of steps {run.gap}")
    if began is None:
        parts.append("what its base was made from cannot be told")
    return "; ".join(parts) or "not in its log of keys"


def _previews(world: World, trail: Trail, run: RunFacts) -> None:
    names = run.unit.names("previews")
    for of in world.sets_of(run.data):
        held = of.held.get(trail.key)
        if names and held and held.split in (VAL, TRAIN):
            place = held.rank + (of.counts.get(VAL, 0) if held.split == TRAIN else 0)
            if place < PREVIEWED:
                detail = f"image and mask in column {place + 1}"
                trail.add(Relation.SHOWS, "previews", f"{run.uri}/previews", detail, DELETE, len(names))


def _model(world: World, trail: Trail, model: ModelFacts) -> None:
    used = model_used(world, trail.key, model.digest, model.info.data_digest)
    if used is None:
        return
    terms = f"; {model.terms.license}, permitted: {model.terms.permitted_use}" if model.terms else ""
    where = "of its run" if model.run else "no run here tells which samples it consumed"
    detail = f"model {str(model.digest)[:16]}, {where}{terms}"
    remedy = RETRAIN if used is Relation.TRAINED else LOOK
    trail.add(used, "weights", model.uri, detail, remedy, len(model.unit.names("weights")))


def _synthetic(world: World, trail: Trail, of: SetFacts) -> None:
    plan, settings = of.plan, of.plan.settings
    children = of.made_for.get(trail.key, [])
    tars, shards = of.unit.names("shards"), f"{of.uri}/shards"
    digest = of.model.digest or plan.model
    copied = digest == NO_MODEL or settings.method == NO_MODEL
    if children:
        what = "copies of the pair" if copied else "samples for its mask"
        relation = Relation.HOLDS if copied else Relation.COMPUTED
        trail.add(
            relation, "shards", shards, f"{len(children)} {what}: {some(children)}", REGENERATE, len(tars)
        )
        trail.add(Relation.NAMES, "index", f"{of.uri}/index.parquet", "as parent", REGENERATE)
        markers = len(of.unit.names("markers of shards"))
        trail.add(Relation.NAMES, "markers of shards", shards, "as parent", REGENERATE, markers)
    used = None if copied else model_used(world, trail.key, digest, of.model.data_digest)
    if used:
        count = of.manifest.count if of.manifest else "all"
        terms = f"; {of.terms.license}, permitted: {of.terms.permitted_use}" if of.terms else ""
        relation = Relation.MADE if used is Relation.TRAINED else Relation.MAY
        detail = f"{count} samples by model {str(digest)[:16]}{terms}"
        trail.add(relation, "shards", shards, detail, REGENERATE, len(tars))
    split = world.split_of(trail.key, plan.masks) if plan.masks else ""
    if settings.transforms.get("combine") and split in (settings.split, None):
        detail = "its masks are combined: which hold lesions of this one stands in the shards alone"
        trail.add(Relation.MAY, "shards", shards, detail, REGENERATE, len(tars))
    _limits(world, trail, of)


def _inherits(world: World, trail: Trail, of: SetFacts) -> bool:
    """Adds a set whose masks are those of a synthetic set that is found; whether there was something to add."""
    shards = f"{of.uri}/shards"
    made = [
        mask for mask in world.sets_of(of.plan.masks) if mask.manifest and mask.manifest.kind == "synthetic"
    ]
    kinds = (Relation.HOLDS, Relation.COMPUTED, Relation.MADE)
    found = [
        mask for mask in made if any(trail.has(kind, f"{mask.uri}/shards") for kind in (*kinds, Relation.MAY))
    ]
    if not found or any(trail.has(kind, shards) for kind in kinds):
        return False
    detail = f"its masks are those of {found[0].uri}"
    trail.add(Relation.MADE, "shards", shards, detail, REGENERATE, len(of.unit.names("shards")))
    return bool(of.unit.names("shards"))


def _limits(world: World, trail: Trail, of: SetFacts) -> None:
    """The limits of copies come of all training images of a set."""
    if of.unit.names("limits of copies") and world.split_of(trail.key, of.plan.training) == TRAIN:
        trail.add(
            Relation.COMPUTED, "limits of copies", f"{of.uri}/gates.json", "of all training images", REMAKE
        )
    if world.split_of(trail.key, of.compared) == TRAIN:
        told = "of all training images, by which samples were removed; in its made_from"
        trail.add(Relation.COMPUTED, "limits of copies", f"{of.uri}/dataset.json", told, REMAKE)
