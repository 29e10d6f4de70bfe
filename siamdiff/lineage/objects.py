"""Every kind of object that the stages leave, and what each has to do with a single image.

An object belongs to the innermost folder around it that is a unit: a set, a run, an evaluation. What its unit's rules,
and those for objects of no unit, do not name is unknown: a trace says so, and a test fails when a stage leaves one.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

SET, RUN, WEIGHTS, EVALUATION, SEGMENTATION, TRAINING, EXPERIMENT, EXPORT, PRIVATE, PRIVACY, STUDY, SCORES = (
    "set",
    "run",
    "weights",
    "evaluation",
    "segmentation",
    "segmenter",
    "experiment",
    "export",
    "private map",
    "privacy report",
    "reader study",
    "scores of a study",
)
LOOSE = ""  # of no unit


@dataclass(frozen=True)
class Kind:
    """A kind of object."""

    name: str
    of_none: str = ""  # why it has nothing to do with a single image; "": it is traced

    @property
    def is_traced(self) -> bool:
        """Whether a trace has to say what it has to do with an image."""
        return not self.of_none


# What makes a folder a unit: the part of a name that follows the folder's. The first that fits an object counts.
_MARKS = [
    (EXPORT, r"export\.json"),
    (EXPERIMENT, r"experiment\.json"),
    (SEGMENTATION, r"inputs\.json"),
    (TRAINING, r"training\.json|network\.safetensors"),
    (EVALUATION, r"metrics\.json|copies\.jsonl|agreement\.jsonl|tsne\.jsonl"),
    (RUN, r"pinned\.json"),
    (SET, r"dataset\.json|index\.parquet|plan\.json|shards/[^/]+\.(?:tar|json)"),
    (WEIGHTS, r"siamdiff\.json|model_index\.json|scheduler/scheduler_config\.json"),
    (PRIVATE, r"keys\.jsonl"),
    (PRIVACY, r"privacy(?:-share)?\.(?:html|json)"),
    (STUDY, r"study\.json|private/(?:key|readers)\.json|answers\.sqlite"),
    (SCORES, r"scores\.json|answers\.csv"),
]
_STATE = "tells how a job stands: counts, times, places"
_CONFIG = "settings; names folders, no image"
_NUMBERS = "of all images together"
_RULES: dict[str, list[tuple[str, Kind]]] = {
    SET: [
        (r"shards/[^/]+\.tar", Kind("shards")),
        (r"shards/[^/]+\.json", Kind("markers of shards")),
        (r"index\.parquet", Kind("index")),
        (r"damaged/[^/]+\.tar", Kind("shards put aside")),
        (r"revisions/[^/]+\.json", Kind("earlier manifests", "counts and hashes of shards")),
        (r"cache/[^/]+/moments/[^/]+\.(?:npy|json)", Kind("VAE moments")),
        (r"cache/[^/]+/texts/[^/]+\.(?:npy|json)", Kind("text states", "of prompts, not of images")),
        (r"cache/[^/]+/cache\.json", Kind("list of a cache", "counts and hashes of its parts")),
        (
            r"dataset\.json",
            Kind("manifest", "counts and hashes of shards; limits of a filtered set are traced"),
        ),
        (r"plan\.json", Kind("plan", _CONFIG)),
        (r"gates\.json", Kind("limits of copies")),
        (r"README\.md", Kind("card", "counts, terms, digests")),
    ],
    RUN: [
        (r"checkpoints/.+", Kind("checkpoints")),
        (r"logs/keys/[^/]+\.jsonl", Kind("log of keys")),
        (r"logs/diverged-\d+\.json", Kind("samples of a step that diverged")),
        (r"metrics\.jsonl", Kind("losses")),
        (r"tensorboard/.+", Kind("curves of the losses")),
        (r"previews/[^/]+\.png", Kind("previews")),
        (r"pinned\.json", Kind("what a run is tied to", _CONFIG)),
        (r"base\.json", Kind("what a run began with", "digests of its base")),
    ],
    WEIGHTS: [(r".+", Kind("weights"))],
    EVALUATION: [
        (r"metrics\.json", Kind("figures")),
        (r"(?:copies|agreement|tsne)\.jsonl", Kind("figures by image")),
        (r"contact_sheet-.+\.png", Kind("contact sheets")),
        (r"nearest-.+\.png", Kind("sheets of nearest pairs")),
        (r"table\.(?:csv|tex)", Kind("tables")),
    ],
    SEGMENTATION: [
        (r"inputs\.json", Kind("what a segmentation is of", "digests of sets and trainings")),
        (r"metrics\.json", Kind("scores")),
        (r"results/[^/]+\.json", Kind("scores by image")),
        (r"table\.(?:csv|tex)", Kind("tables of scores")),
    ],
    TRAINING: [(r"network\.safetensors|training\.json", Kind("segmenters"))],
    EXPERIMENT: [
        (r"experiment\.json", Kind("record", "names the outputs of its stages")),
        (r"report[^/]*\.html", Kind("pages")),
        (r"table\.(?:csv|tex)", Kind("comparisons")),
        (r"[^/]+\.svg", Kind("figures of an experiment")),
    ],
    EXPORT: [(r".+", Kind("exports"))],
    PRIVATE: [
        (r"(?:keys|near_duplicates)\.jsonl", Kind("names of files")),
        (r"rejected\.jsonl", Kind("names of files left out")),
        (r"source\.json", Kind("state of the source", "one hash of all files")),
    ],
    PRIVACY: [
        (r"privacy\.(?:html|json)", Kind("privacy reports")),
        (r"privacy-share\.(?:html|json)", Kind("shared privacy reports")),
    ],
    STUDY: [
        (r"images/[0-9a-f]{32}\.png", Kind("images of a study")),
        (r"private/key\.json", Kind("key to a study")),
        (r"answers\.sqlite(?:-wal|-shm)?", Kind("answers of readers")),
        (r"study\.json", Kind("orders of a study", "random names of its images")),
        (r"private/readers\.json", Kind("codes of readers", "hashes")),
    ],
    SCORES: [
        (r"scores\.(?:json|csv|svg)|table\.(?:txt|tex)", Kind("scores of a study")),
        (r"answers\.csv", Kind("answers by image")),
    ],
    LOOSE: [
        (r"(?:.*/)?(?:status|lease|latest)\.json", Kind("state of a job", _STATE)),
        (r"(?:.*/)?config\.yaml", Kind("configuration", _CONFIG)),
        (r"(?:.*/)?spent/[^/]+\.json", Kind("time spent", "seconds of stages")),
        (r"(?:.*/)?logs/(?:.*/)?[^/]+\.jsonl", Kind("logs")),
        (r"(?:.*/)?cache/features-[^/]+\.safetensors", Kind("features")),
        (r"(?:.*/)?cache/segmenter-[^/]+\.safetensors", Kind("segmenters of evaluations")),
        (r"(?:.*/)?cache/copies-[^/]+\.(?:safetensors|json)", Kind("features of the copy filter")),
    ],
}
_PATTERNS = {unit: [(re.compile(pattern), kind) for pattern, kind in rules] for unit, rules in _RULES.items()}
_PLACES = [(unit, re.compile(rf"(?P<folder>(?:.*/)?)(?:{pattern})")) for unit, pattern in _MARKS]
# Folders whose objects are all of one unit: none inside is another.
_WHOLE = (EXPORT, WEIGHTS)


@dataclass
class Unit:
    """A folder that belongs together, and its objects by kind; names are relative to the folder."""

    sort: str
    folder: str  # relative to its root, "" or ending in "/"
    objects: dict[Kind, list[str]] = field(default_factory=dict)

    def names(self, kind: str) -> list[str]:
        """Its objects of a kind, sorted."""
        return sorted(name for of, names in self.objects.items() if of.name == kind for name in names)


@dataclass(frozen=True)
class Contents:
    """What lies under one root."""

    units: list[Unit]  # sorted by folder; the last is of no unit and has the root as its folder
    unknown: list[str]  # names that no rule knows
    count: int

    def of(self, sort: str) -> Iterator[Unit]:
        """The units of one sort."""
        return (unit for unit in self.units if unit.sort == sort)


def all_kinds() -> list[Kind]:
    """Every kind that there is."""
    return [kind for rules in _RULES.values() for _, kind in rules]


def divide(names: Mapping[str, int]) -> Contents:
    """Divides the objects under a root into units and kinds.

    Args:
        names: of objects, relative to the root, and their sizes, as siamdiff.storage.list_files gives them.
    """
    sorts = _folders(names)
    units = {folder: Unit(sort, folder) for folder, sort in sorts.items()}
    loose = Unit(LOOSE, "")
    unknown = []
    for name in names:
        unit = next((units[folder] for folder in _around(name) if folder in units), loose)
        kind = _kind(unit, name.removeprefix(unit.folder))
        if kind is None:
            unit, kind = loose, _kind(loose, name)
        if kind is None:
            unknown.append(name)
        else:
            unit.objects.setdefault(kind, []).append(name.removeprefix(unit.folder))
    return Contents([units[folder] for folder in sorted(units)] + [loose], unknown, len(names))


def _folders(names: Mapping[str, int]) -> dict[str, str]:
    """The folders that are units -> their sort; a folder with marks of several is of the first sort of _MARKS."""
    order = [sort for sort, _ in _MARKS]
    found: dict[str, str] = {}
    for name in names:
        for sort, pattern in _PLACES:
            if match := pattern.fullmatch(name):
                folder = match["folder"]
                if folder not in found or order.index(sort) < order.index(found[folder]):
                    found[folder] = sort
                break
    whole = [folder for folder, sort in found.items() if sort in _WHOLE]
    return {
        folder: sort
        for folder, sort in found.items()
        if not any(folder != other and folder.startswith(other) for other in whole)
    }


def _around(name: str) -> Iterator[str]:
    """Folders around an object, the innermost first, each ending in "/"; last the root, ""."""
    while "/" in name:
        name = name.rpartition("/")[0]
        yield f"{name}/"
    yield ""


def _kind(unit: Unit, name: str) -> Kind | None:
    return next((kind for pattern, kind in _PATTERNS[unit.sort] if pattern.fullmatch(name)), None)
