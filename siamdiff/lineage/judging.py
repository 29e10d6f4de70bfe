"""Follows a key through what people judge synthetic images by: privacy reports, reader studies and their scores."""

from siamdiff.lineage.findings import DELETE, REMAKE, Relation, Trail
from siamdiff.lineage.measuring import Trails, touched
from siamdiff.lineage.objects import PRIVACY, SCORES, STUDY, Unit
from siamdiff.lineage.origin import model_used
from siamdiff.lineage.reading import Root
from siamdiff.lineage.records import Scores
from siamdiff.lineage.world import World
from siamdiff.privacy.record import Report
from siamdiff.study.folder import KEY, REAL, Secret

_EDITIONS = {"privacy reports": "privacy.json", "shared privacy reports": "privacy-share.json"}
# What is said of an object is a figure of it: of the image itself, or of what its model made.
_MEASURED = {
    Relation.HOLDS: Relation.COMPUTED,
    Relation.COMPUTED: Relation.COMPUTED,
    Relation.MADE: Relation.MADE,
    Relation.MAY: Relation.MAY,
}
_SHOWN = {
    Relation.HOLDS: "the image itself, encoded again",
    Relation.COMPUTED: "samples for its mask",
    Relation.MADE: "made by a model that was trained on it",
    Relation.MAY: "of sets that may have used it, or are not here",
}
_Judged = dict[str, dict[str, Relation | None]]  # study -> key -> what its answers have to do with it


def follow(world: World, trails: Trails) -> None:
    """Adds reports, studies and scores, once the trails know what was made."""
    judged: _Judged = {}
    for root in world.roots:
        for unit in root.contents.of(PRIVACY):
            _report(root, world, trails, unit)
        for unit in root.contents.of(STUDY):
            _study(root, world, trails, unit, judged)
    for root in world.roots:
        for unit in root.contents.of(SCORES):
            _scores(root, world, trails, unit, judged)


def _report(root: Root, world: World, trails: Trails, unit: Unit) -> None:
    """Both editions are computed from all images of the training set; the internal one shows the nearest of them."""
    for kind, data in _EDITIONS.items():
        places = [root.uri_of(unit, name) for name in unit.names(kind)]
        if not places:
            continue
        report = root.record(unit, data, Report)
        for place, text in root.texts(places):
            is_page = place.endswith(".html")
            for trail in trails.values():
                if trail.key.encode() in text:
                    relation = Relation.SHOWS if is_page else Relation.NAMES
                    trail.add(relation, kind, place, "among the nearest pairs", REMAKE)
                if found := _of_report(world, trail, report):
                    trail.add(found[0], kind, place, found[1], REMAKE)


def _of_report(world: World, trail: Trail, report: Report | None) -> tuple[Relation, str] | None:
    if report is None:
        return Relation.MAY, "a report that did not end, or is damaged"
    training, synthetic = report.training, report.synthetic.digest
    split = world.split_of(trail.key, training.digest) if training else ""
    if split:
        return Relation.COMPUTED, f"its set was compared: split {split}"
    used = touched(world, trail, synthetic)
    if used:
        return _MEASURED[used], "of a synthetic set that is found"
    if split is None:
        return Relation.MAY, "its training set is not here"
    if world.remains_of(synthetic):
        return None
    used = model_used(world, trail.key, report.model.digest, None) if report.model else None
    if used:
        return Relation.MADE if used is Relation.TRAINED else used, "of images by a model that is found"
    return None if training else (Relation.MAY, "its synthetic set is not here")


def _study(root: Root, world: World, trails: Trails, unit: Unit, judged: _Judged) -> None:
    uri, secret = root.uri_of(unit), root.record(unit, KEY, Secret)
    images, answers = unit.names("images of a study"), unit.names("answers of readers")
    for trail in trails.values():
        if secret is None:
            shown, told = {Relation.MAY: images}, f"its {KEY} is not here, which says what they are"
        else:
            shown, told = _shown(world, trail, secret), ""
            if any(origin.source == trail.key for origin in secret.images.values()):
                trail.add(Relation.NAMES, "key to a study", f"{uri}/{KEY}", "as the source of images", DELETE)
        for relation, names in shown.items():
            here = [name for name in names if name in images]
            place = f"{uri}/{here[0]}" if len(here) == 1 else f"{uri}/images"
            trail.add(relation, "images of a study", place, told or _SHOWN[relation], REMAKE, len(here))
        relation = next((_MEASURED[of] for of in _MEASURED if of in shown), None)
        if secret is not None:
            judged.setdefault(secret.study, {})[trail.key] = relation
        if relation is not None:
            for name in answers:
                trail.add(relation, "answers of readers", f"{uri}/{name}", told or "what they said", REMAKE)


def _shown(world: World, trail: Trail, secret: Secret) -> dict[Relation, list[str]]:
    """What a study's images have to do with a key -> their files, but for those that have nothing to do with it."""
    by_method = {}
    for method, source in secret.sets.items():
        sets = world.remains_of(source.digest)
        places = [f"{of.uri}/shards" for of in sets]
        children = {child for of in sets for child in of.made_for.get(trail.key, [])}
        copied = any(trail.has(Relation.HOLDS, place) for place in places)
        others = [of for of in (Relation.MADE, Relation.MAY) if any(trail.has(of, place) for place in places)]
        rest = next(iter(others), None) if sets else Relation.MAY
        by_method[method] = (children, Relation.HOLDS if copied else Relation.COMPUTED, rest)
    found: dict[Relation, list[str]] = {}
    for name, origin in secret.images.items():
        children, of_child, rest = by_method[origin.method]
        if origin.source == trail.key:
            relation = Relation.HOLDS
        elif origin.method == REAL:
            continue
        else:
            relation = of_child if origin.source in children else rest
        if relation:
            found.setdefault(relation, []).append(f"images/{name}.png")
    return found


def _scores(root: Root, world: World, trails: Trails, unit: Unit, judged: _Judged) -> None:
    """Means over all images, and lines of their own for those that somebody answered."""
    of = root.record(unit, "scores.json", Scores)
    kinds = ("scores of a study", "answers by image")
    lines = b"".join(
        text for _, text in root.texts([root.uri_of(unit, name) for name in unit.names(kinds[1])])
    )
    for trail in trails.values():
        if trail.key.encode() in lines:
            relation, told = Relation.COMPUTED, "it was shown"
        elif of is None:
            relation, told = Relation.MAY, "scores that do not say what they are of"
        elif of.study in judged:
            relation, told = judged[of.study].get(trail.key), "of the study's images"
        else:
            relation, told = _of_sets(world, trail, of), "of a study whose key is not here"
        if relation is not None:
            for kind in kinds:
                for name in unit.names(kind):
                    trail.add(relation, kind, root.uri_of(unit, name), told, REMAKE)


def _of_sets(world: World, trail: Trail, of: Scores) -> Relation | None:
    """What scores have to do with a key by the sets alone: which of their images were shown is not known."""
    found = set()
    for method, about in of.sets.items():
        if method == REAL:
            is_out = world.split_of(trail.key, about.digest) == ""
        else:
            used = touched(world, trail, about.digest)
            if used is Relation.MADE:
                return used  # each image of the set is
            is_out = used is None and bool(world.remains_of(about.digest))
        found.add(is_out)
    return Relation.MAY if False in found else None
