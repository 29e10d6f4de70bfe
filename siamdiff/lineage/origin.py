"""What runs began with, and so what models were made from: a tiny base, or one that was given, such as a model."""

from siamdiff import storage
from siamdiff.lineage.findings import Relation
from siamdiff.lineage.reading import TRAIN, RunFacts
from siamdiff.lineage.world import ModelFacts, World
from siamdiff.model.sources import is_single_file

_AND_PARTS = "; parts "  # siamdiff.training.bases
_CONTENT = ("sha256 ", "versions ")  # what a run is pinned to where its base was given by a path
_Seen = frozenset[str]  # runs that are being judged: what lies at a path may claim to be its own base


def is_open(run: RunFacts, split: str | None, began: bool | None) -> bool:
    """Whether it cannot be told that a run never used a sample that its log does not name."""
    return began is None or (bool(run.gap) and split in (TRAIN, None))


def began_with(world: World, key: str, run: RunFacts, seen: _Seen = frozenset()) -> bool | None:
    """Whether the base that a run began with was made from an image; None: that cannot be told."""
    name = storage.name_of(run.base)
    bases = [of for of in world.weights if of.digest is None and storage.name_of(of.uri) == name]
    if bases:
        return world.base_used(key, bases[0])
    if name.startswith("tiny-"):
        return None
    base, _, parts = run.base.partition(_AND_PARTS)
    given = [place for of, place in ((base, run.given), (parts, run.parts)) if of.startswith(_CONTENT)]
    return _joined([_of_place(world, key, run, place, seen | {run.uri}) for place in given])


def model_used(
    world: World, key: str, digest: str | None, data: str | None, seen: _Seen = frozenset()
) -> Relation | None:
    """What a model of this digest, trained on this set, has to do with an image; None: nothing.

    Where several folders hold the model, or none, the run that made it decides, else the set alone.
    """
    here = [of for of in world.weights if digest and of.digest == digest]
    run = next((of.run for of in here if of.run), None)
    if run:
        began = _of_run(world, key, run, seen)
        return Relation.TRAINED if began else Relation.MAY if began is None else None
    data = next((of.info.data_digest for of in here if of.info.data_digest), data)
    if data is None:  # of one that is not here nobody knows; one that is here was imported, and says nothing
        return Relation.MAY if digest and not here else None
    split = world.split_of(key, data)
    return Relation.MAY if split in (TRAIN, None) else None


def _joined(found: list[bool | None]) -> bool | None:
    return True if True in found else None if None in found else False


def _of_run(world: World, key: str, run: RunFacts, seen: _Seen) -> bool | None:
    """Whether a run's model was made from an image; None: that cannot be told."""
    if key in run.first:
        return True
    if run.uri in seen:
        return None
    began = began_with(world, key, run, seen)
    return None if not began and is_open(run, world.split_of(key, run.data), began) else began


def _of_place(world: World, key: str, run: RunFacts, place: str, seen: _Seen) -> bool | None:
    """What lies, or lay, at a path: by what the run noted of it, else by what is here."""
    said = run.said.get(place)
    if said and (said.model_digest or said.images_digest):
        return _of_info(world, key, ModelFacts(place, run.unit, said, None), seen)
    weights = {of.uri: of for of in world.weights if of.run is not run}
    if here := _at(place, list(weights)):
        return _joined([_of_info(world, key, weights[uri], seen) for uri in here])
    runs = {f"{of.uri}/model": of for of in world.runs if of is not run}
    if here := _at(place, list(runs)):
        return _joined([_of_run(world, key, runs[uri], seen) for uri in here])
    if said and not is_single_file(place):
        return False  # a folder that was not made here
    return None if _has_made(world, key, run) else False


def _at(place: str, uris: list[str]) -> list[str]:
    """Those at a path; where there are none, those of its last two names: roots may be moved."""
    tail = "/" + "/".join(place.rstrip("/").split("/")[-2:])
    return [uri for uri in uris if uri == place] or [uri for uri in uris if uri.endswith(tail)]


def _of_info(world: World, key: str, of: ModelFacts, seen: _Seen) -> bool | None:
    if of.digest is None:
        return world.base_used(key, of)
    used = model_used(world, key, of.digest, of.info.data_digest, seen)
    return None if used is Relation.MAY else used is not None


def _has_made(world: World, key: str, run: RunFacts) -> bool:
    """Whether some weights here that were made from an image may be the base of a run; runs of one base are of none."""
    for of in world.weights:
        if of.digest is None:
            is_made = bool(world.base_used(key, of))
        elif of.run:
            is_made = of.run.base != run.base and key in of.run.first
        else:
            is_made = world.split_of(key, of.info.data_digest) == TRAIN
        if is_made:
            return True
    return False
