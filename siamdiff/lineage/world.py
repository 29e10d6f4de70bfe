"""All that lies under the roots, read once for all wanted keys: sets, runs, models, bases, and names of files."""

from dataclasses import dataclass, field

from siamdiff import storage
from siamdiff.lineage.objects import PRIVATE, RUN, SET, WEIGHTS, Unit
from siamdiff.lineage.reading import TRAIN, Names, Root, RunFacts, SetFacts, read_run, read_set
from siamdiff.lineage.records import Info, Named
from siamdiff.terms import Terms

BASE_IMAGES = (
    2048  # of a set, the first by key, that a tiny base is made from (siamdiff.training.bases.MAX_IMAGES)
)


@dataclass
class ModelFacts:
    """A model or a base."""

    uri: str
    unit: Unit
    info: Info  # siamdiff.json
    run: RunFacts | None  # whose folder it lies in

    @property
    def digest(self) -> str | None:
        """Of a model; None: it is a base."""
        return self.info.model_digest

    @property
    def terms(self) -> Terms | None:
        """Where it says them."""
        licence, use = self.info.license, self.info.permitted_use
        return None if licence is None or use is None else Terms(licence, use)


@dataclass
class World:
    """What is known of everything under some roots."""

    roots: list[Root]
    wanted: frozenset[str]
    sets: list[SetFacts] = field(default_factory=list)
    runs: list[RunFacts] = field(default_factory=list)
    weights: list[ModelFacts] = field(default_factory=list)
    names: dict[str, list[str]] = field(
        default_factory=dict
    )  # wanted key -> its files, as private maps name them

    def sets_of(self, digest: str | None) -> list[SetFacts]:
        """The sets that are, or once were, of this digest."""
        return [of for of in self.sets if digest in of.digests]

    def remains_of(self, digest: str | None) -> list[SetFacts]:
        """The sets of this digest, or else what samples were removed from them, which the same model made."""
        return self.sets_of(digest) or [of for of in self.sets if digest in of.whole]

    def split_of(self, key: str, digest: str | None) -> str | None:
        """The split of a set in which a key lies; "" if in none; None where the set is not here to look at."""
        found = self.sets_of(digest)
        if not found:
            return None
        return next((of.held[key].split for of in found if key in of.held), "")

    def base_data(self, base: ModelFacts) -> str | None:
        """Digest of the set that a tiny base was made from: as it says, or as a run that began from it does."""
        if base.info.data_digest is not None:
            return base.info.data_digest
        name = storage.name_of(base.uri)
        return next((run.data for run in self.runs if storage.name_of(run.base) == name), None)

    def base_used(self, key: str, base: ModelFacts) -> bool | None:
        """Whether a key's image is among those that a base was made from; None: that cannot be told."""
        if base.info.images_digest is None:
            return False  # it was not made here
        data = self.base_data(base)
        split = self.split_of(key, data)
        if split is None:
            return None
        held = next((of.held[key] for of in self.sets_of(data) if key in of.held), None)
        return held is not None and split == TRAIN and held.rank < BASE_IMAGES


def read_world(roots: list[Root], wanted: frozenset[str]) -> World:
    """Reads all sets, runs, models and private maps."""
    world = World(roots, wanted)
    for root in roots:
        world.sets += [read_set(root, unit, wanted) for unit in root.contents.of(SET)]
        world.runs += [read_run(root, unit, wanted) for unit in root.contents.of(RUN)]
        for unit in root.contents.of(WEIGHTS):
            uri = root.uri_of(unit)
            run = next((run for run in world.runs if uri == f"{run.uri}/model"), None)
            info = root.record(unit, "siamdiff.json", Info) or Info()
            world.weights.append(ModelFacts(uri, unit, info, run))
        _read_maps(root, world)
    return world


def _read_maps(root: Root, world: World) -> None:
    for unit in root.contents.of(PRIVATE):
        place = root.uri_of(unit, "keys.jsonl")
        for row in root.lines([place], Named):
            if row.key in world.wanted:
                world.names.setdefault(row.key, []).extend(name for name in (row.image, row.mask) if name)


def names_of(world: World) -> Names:
    """What texts may call the wanted images."""
    return Names({key: world.names.get(key, []) for key in world.wanted})
