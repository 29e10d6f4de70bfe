"""Follows a key through what is measured and told: caches, evaluations, segmentations, experiments, exports, logs."""

from pydantic import ValidationError

from siamdiff import storage
from siamdiff.errors import SiamdiffError
from siamdiff.labels import label_of
from siamdiff.lineage.findings import DELETE, LOOK, REMAKE, RETRAIN, Relation, Trail
from siamdiff.lineage.making import NO_MODEL, some
from siamdiff.lineage.objects import EVALUATION, EXPERIMENT, EXPORT, LOOSE, SEGMENTATION, TRAINING, Unit
from siamdiff.lineage.reading import TRAIN, VAL, Root
from siamdiff.lineage.records import Cached, Experiment, Export, Exported, Inputs, Metrics, Result
from siamdiff.lineage.world import World, names_of
from siamdiff.records import read_record
from siamdiff.sections.named import set_file
from siamdiff.sections.segment import REAL, SYNTHETIC, parse_arm

_OPEN = "which may have used it or is not here"
_CACHE = "delete, a cache: made again when it is needed"
Trails = dict[str, Trail]  # by key


def follow(world: World, trails: Trails) -> None:
    """Adds what was computed, shown and told, once the trails know what was made."""
    for root in world.roots:
        _texts(root, world, trails)
        for unit in root.contents.of(LOOSE):
            for kind in ("features", "segmenters of evaluations", "features of the copy filter"):
                for name in unit.names(kind):
                    _cached(root, world, trails, kind, root.uri_of(unit, name))
        for unit in root.contents.of(EVALUATION):
            _evaluation(root, world, trails, unit)
        trained: set[str] = set()
        for unit in root.contents.of(SEGMENTATION):
            trained |= _segmentation(root, world, trails, unit)
        for unit in root.contents.of(TRAINING):
            if storage.name_of(unit.folder) not in trained:
                uri, told = root.uri_of(unit), "no segmentation here says what it was trained on"
                for trail in trails.values():
                    trail.add(Relation.MAY, "segmenters", uri, told, LOOK, len(unit.names("segmenters")))
        for unit in root.contents.of(EXPORT):
            _export(root, world, trails, unit)
        for unit in root.contents.of(EXPERIMENT):  # last: they are told of by what their stages left
            _experiment(root, trails, unit)


def touched(world: World, trail: Trail, digest: str | None) -> Relation | None:
    """How a synthetic set of this digest was found; None: not at all."""
    for of in world.remains_of(digest):
        for relation in (Relation.HOLDS, Relation.COMPUTED, Relation.MADE, Relation.MAY):
            if trail.has(relation, f"{of.uri}/shards"):
                return relation
    return None


def used_by(world: World, trail: Trail, digest: str | None) -> Relation | None:
    """What the images of a synthetic set have to do with a key: made, may have been; None: nothing."""
    found = touched(world, trail, digest)
    if found is None:
        return None if world.remains_of(digest) else Relation.MAY
    return found if found is Relation.MAY else Relation.MADE


def _texts(root: Root, world: World, trails: Trails) -> None:
    """Objects that may name an image: logs, maps of files, samples of a step that diverged."""
    wanted = names_of(world)
    kinds = {"logs": DELETE, "names of files": "delete its lines, or ingest again without it"}
    kinds |= {"names of files left out": "delete its lines", "samples of a step that diverged": DELETE}
    for kind, remedy in kinds.items():
        uris = [root.uri_of(unit, name) for unit in root.contents.units for name in unit.names(kind)]
        for uri, data in root.texts(uris):
            for key in wanted.found_in(data):
                trails[key].add(Relation.NAMES, kind, uri, "key or file names", remedy)


def _cached(root: Root, world: World, trails: Trails, kind: str, uri: str) -> None:
    """A file of a cache, which says itself what it is of; those of earlier versions do not."""
    if uri.endswith(".json"):
        about = root.attempt(uri, lambda: read_record(Cached, uri))
    elif kind == "features of the copy filter":
        about = _beside(root, uri)
    else:
        about = root.attempt(uri, lambda: _labelled(uri))
    if about is None:
        return
    for trail in trails.values():
        found = _of_cached(world, trail, about, kind)
        if found:
            trail.add(found[0], kind, uri, found[1], _CACHE)


def _labelled(uri: str) -> Cached:
    """What a safetensors file says in its header."""
    try:
        return Cached.model_validate(label_of(uri) or {})
    except ValidationError as error:
        raise SiamdiffError(f"{uri} is damaged: its header names no set") from error


def _beside(root: Root, uri: str) -> Cached:
    """What lies beside the vectors of a set's training images, and says which set."""
    folder, _, name = uri.rpartition("/")
    sha = name.removeprefix("copies-").removesuffix(".safetensors")
    for unit in root.contents.of(LOOSE):
        for other in (root.uri_of(unit, of) for of in unit.names("features of the copy filter")):
            if other.endswith(".json") and other.startswith(f"{folder}/"):
                about = root.attempt(other, lambda other=other: read_record(Cached, other))
                if about and about.sha256.startswith(sha):
                    return about
    return Cached()


def _of_cached(world: World, trail: Trail, about: Cached, kind: str) -> tuple[Relation, str] | None:
    digest = about.set
    if digest is None:
        return Relation.MAY, "of an earlier version, which does not say what it is of"
    sets = world.sets_of(digest)
    if not sets:
        return Relation.MAY, f"of the set {digest[:16]}, which is not here"
    for of in sets:
        # Pairs are some of the samples, which are any part of their set.
        split = of.parts.get(about.samples) if about.samples is not None else TRAIN
        if of.is_in(trail.key, split):
            relation = Relation.TRAINED if kind.startswith("segmenters") else Relation.COMPUTED
            return relation, f"of the {split or 'whole'} set {digest[:16]}"
        if of.made_for.get(trail.key):
            return Relation.COMPUTED, f"of the set {digest[:16]}, which has samples for its mask"
    if world.split_of(trail.key, about.against):
        return Relation.COMPUTED, "of pairs with images of its set"
    return (Relation.MADE, f"of the set {digest[:16]}") if touched(world, trail, digest) else None


def _evaluation(root: Root, world: World, trails: Trails, unit: Unit) -> None:
    uri, metrics = root.uri_of(unit), root.record(unit, "metrics.json", Metrics)
    lines = [root.uri_of(unit, name) for name in unit.names("figures by image")]
    wanted = names_of(world)
    for place, data in root.texts(lines):
        for key in wanted.found_in(data):
            trails[key].add(Relation.COMPUTED, "figures by image", place, "lines of its own", REMAKE)
    for trail in trails.values():
        if metrics is None:
            sheets = len(unit.names("contact sheets")) + len(unit.names("sheets of nearest pairs"))
            trail.add(Relation.MAY, "contact sheets", uri, "an evaluation that did not end", DELETE, sheets)
            continue
        split = world.split_of(trail.key, metrics.sets.real.digest)
        named = {name: of.digest for name, of in metrics.sets.synthetic.items()}
        used = {name: used_by(world, trail, digest) for name, digest in named.items()}
        found = [name for name, of in used.items() if of is Relation.MADE]
        open_ends = [name for name, of in used.items() if of is Relation.MAY]
        if split:
            told, relation = f"its set was compared: split {split}", Relation.COMPUTED
        elif found:
            told, relation = f"measured {', '.join(found)}", Relation.MADE
        elif split is None:
            told, relation = "its real set is not here", Relation.MAY
        elif open_ends:
            told, relation = f"measured {', '.join(open_ends)}, {_OPEN}", Relation.MAY
        else:
            continue
        remedy = LOOK if relation is Relation.MAY else REMAKE
        for kind in ("figures", "tables", "figures by image"):
            for name in unit.names(kind):
                if not trail.has(Relation.COMPUTED, f"{uri}/{name}"):  # by lines of its own
                    trail.add(relation, kind, f"{uri}/{name}", told, remedy)
        for name, of in metrics.results.items():
            _sheets(world, trail, unit, uri, of, named.get(name))


def _sheets(world: World, trail: Trail, unit: Unit, uri: str, result: Result, digest: str | None) -> None:
    """The contact sheets of one set show real images beside those that were made for their masks."""
    sets = world.sets_of(digest)
    shown = {key for of in sets for key in of.made_for.get(trail.key, [])} & set(result.shown)
    sheet, near = result.contact_sheet, result.nearest_sheet
    nearest = [of.training for of in result.copies.nearest] if result.copies else []
    used = used_by(world, trail, digest)
    places: list[tuple[str, str, str]] = []  # kind, object, what is told where it shows the image
    if sheet in unit.names("contact sheets"):
        places.append(
            (
                "contact sheets",
                f"{uri}/{sheet}",
                f"image and mask beside {some(list(shown))}" if shown else "",
            )
        )
    if near in unit.names("sheets of nearest pairs"):
        places.append(
            ("sheets of nearest pairs", f"{uri}/{near}", "as a nearest image" if trail.key in nearest else "")
        )
    for kind, place, detail in places:
        if detail:
            trail.add(Relation.SHOWS, kind, place, detail, REMAKE)
        elif used is Relation.MADE:
            trail.add(used, kind, place, "shows images of that set", REMAKE)
        elif used or (
            kind == "contact sheets" and not sets
        ):  # which also shows real images, by its set's masks
            trail.add(Relation.MAY, kind, place, f"of a set {_OPEN}", LOOK)


def _segmentation(root: Root, world: World, trails: Trails, unit: Unit) -> set[str]:
    """Adds what a segmentation holds; returns the digests of its trainings."""
    uri, inputs = root.uri_of(unit), root.record(unit, "inputs.json", Inputs)
    if inputs is None:
        return set()
    for trail in trails.values():
        real = world.split_of(trail.key, inputs.real)
        sets = {name: used_by(world, trail, digest) for name, digest in inputs.synthetic.items()}
        tests = [
            name
            for name, of in inputs.tests.items()
            if world.split_of(trail.key, of.set) and (real != TRAIN or of.set != inputs.real)
        ]
        used: dict[Relation, list[str]] = {}
        for name, digest in inputs.trainings.items():
            relation = _arm_used(name, real, sets)
            if relation:
                used.setdefault(relation, []).append(name)
                place = _training(root, digest)
                if place:
                    count = len(place.names("segmenters"))
                    remedy = LOOK if relation is Relation.MAY else RETRAIN
                    trail.add(relation, "segmenters", root.uri_of(place), f"the arm {name}", remedy, count)
        if not used and not tests and real != VAL:
            continue
        told = f"scored on {', '.join(tests)}" if tests else f"of {sum(map(len, used.values()))} segmenters"
        relation = Relation.MADE if used and not tests else Relation.COMPUTED
        if not tests and set(used) == {Relation.MAY}:
            relation = Relation.MAY
        for kind in ("scores", "scores by image", "tables of scores"):
            for name in unit.names(kind):
                trail.add(relation, kind, f"{uri}/{name}", told, LOOK if relation is Relation.MAY else REMAKE)
    return set(inputs.trainings.values())


def _arm_used(name: str, split: str | None, sets: dict[str, Relation | None]) -> Relation | None:
    """What a training has to do with an image that is in this split of the real set, None: that set is not here.

    Args:
        name: NETWORK--ARM--seedN; the arm names its synthetic set where there are several.
        split: of the real set.
        sets: what the synthetic sets have to do with the image, by their names.
    """
    try:
        arm, _, of = name.split("--")[1].partition("_")
        base, folds = parse_arm(arm)
    except (ValueError, IndexError):
        return Relation.MAY
    made: set[Relation | None] = set()
    if base == SYNTHETIC or (folds and base == REAL):
        by_file = {set_file(named): relation for named, relation in sets.items()}
        made = {by_file[of]} if of in by_file else set(by_file.values())
    if base != SYNTHETIC and split == TRAIN:
        return Relation.TRAINED
    if Relation.MADE in made:
        return Relation.MADE
    if split == VAL:
        return Relation.COMPUTED  # its weights were chosen by it
    return Relation.MAY if split is None or Relation.MAY in made else None


def _training(root: Root, digest: str) -> Unit | None:
    return next((unit for unit in root.contents.of(TRAINING) if storage.name_of(unit.folder) == digest), None)


def _export(root: Root, world: World, trails: Trails, unit: Unit) -> None:
    uri, about = root.uri_of(unit), root.record(unit, "export.json", Export)
    if about is None:
        return
    digests = {of.digest for of in about.sets}
    lines: list[Exported] | None = None
    gone: set[str | None] = set()
    if "metadata.jsonl" in unit.names("exports"):
        lines = list(root.lines([f"{uri}/metadata.jsonl"], Exported))
        gone = {digest for digest in digests if not world.remains_of(digest)}
        gone -= {of.set for of in lines} - {of.set for of in lines if of.kind != "real"}
    count = len(unit.names("exports"))
    for trail in trails.values():
        if lines is None:
            found = _of_sets(world, trail, digests)
        else:
            found = _of_lines(trail.key, lines) or _of_made(world, trail, digests)
            if found is None and gone:
                found = Relation.MAY, "of a synthetic set that is not here", LOOK
        if found:
            relation, told, remedy = found
            trail.add(relation, "exports", uri, f"format {about.format}{told and ', '}{told}", remedy, count)


_Found = tuple[Relation, str, str]  # with what is told, and what is to be done
_EXPORT_AGAIN = "delete; export again from a set without it"


def _of_lines(key: str, lines: list[Exported]) -> _Found | None:
    """What an export that names all of its samples says of a key itself."""
    if any(of.key == key for of in lines):
        return Relation.HOLDS, "", _EXPORT_AGAIN
    children = [of.key for of in lines if of.synthetic.parent == key]
    copies = [of.key for of in lines if of.synthetic.parent == key and of.synthetic.model_digest == NO_MODEL]
    if copies:
        return Relation.HOLDS, f"copies of the pair: {some(copies)}", REMAKE
    return (Relation.COMPUTED, f"samples for its mask: {some(children)}", REMAKE) if children else None


def _of_sets(world: World, trail: Trail, digests: set[str | None]) -> _Found | None:
    """What an export that does not name its samples has to do with a key, by its sets."""
    splits = {world.split_of(trail.key, digest) for digest in digests}
    if any(splits):
        return Relation.HOLDS, "", _EXPORT_AGAIN
    is_open = (Relation.MAY, "of a set that is not here", LOOK) if None in splits else None
    return _of_made(world, trail, digests) or is_open


def _of_made(world: World, trail: Trail, digests: set[str | None]) -> _Found | None:
    """What an export has to do with a key by the synthetic sets that it is of and that are found here."""
    for digest in digests:
        if not world.split_of(trail.key, digest) and (relation := touched(world, trail, digest)):
            return relation, "of a synthetic set that is found", REMAKE
    return None


def _experiment(root: Root, trails: Trails, unit: Unit) -> None:
    """Pages and tables tell of the outputs of an experiment's stages, and show what evaluations show."""
    uri, record = root.uri_of(unit), root.record(unit, "experiment.json", Experiment)
    made = [of.outputs for of in record.settings] if record else []
    outputs = {place for of in made for place in of.values()}
    evaluations = {of["evaluate"] for of in made if "evaluate" in of}
    pages = [f"{uri}/{name}" for name in unit.names("pages")]
    texts = dict(root.texts(pages))
    for trail in trails.values():
        touched = [place for place in outputs if trail.touches(place)]
        shown = any(trail.touches(place, Relation.SHOWS) for place in evaluations)
        for place, data in texts.items():
            named = trail.key.encode() in data
            if named or (shown and not storage.name_of(place).startswith("report-share")):
                detail = "as its evaluation's sheets do" if shown else "by its key"
                relation = Relation.SHOWS if shown else Relation.NAMES
                trail.add(relation, "pages", place, detail, REMAKE)
            elif touched:
                trail.add(
                    Relation.MADE, "pages", place, f"tells of {len(touched)} outputs that used it", REMAKE
                )
        for kind in ("comparisons", "figures of an experiment") if touched else ():
            for name in unit.names(kind):
                detail = f"tells of {len(touched)} outputs that used it"
                trail.add(Relation.MADE, kind, f"{uri}/{name}", detail, REMAKE)
