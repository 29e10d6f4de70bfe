"""privacy.json: what was found about a synthetic set, as data. The page shows this and nothing else but pictures.

Fields are explained in docs/privacy.md. A reader refuses another `schema_version`.
"""

import hashlib
from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict

from siamdiff import storage

SCHEMA = 1
Verdict = Literal["pass", "look", "fail", "not done"]
_ORDER: tuple[Verdict, ...] = ("pass", "not done", "look", "fail")


class Record(BaseModel):
    """A part of the report."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Share(Record):
    """A count of images, and the 95% interval of their share (Clopper and Pearson 1934)."""

    count: int
    of: int
    low: float
    high: float


class Attack(Record):
    """How well one score tells training images from held-out ones."""

    name: str
    auc: float  # 0.5: not at all
    low: float  # 95% interval, from resamples of groups
    high: float
    true_positive_rate: (
        float | None
    )  # training images found at a false positive rate of 1%; None: too few held out
    members: int  # images
    others: int
    member_groups: int = 0  # of these images, which are what intervals are drawn from; 0: an earlier report
    other_groups: int = 0


class Pair(Record):
    """A synthetic image and the training image that it comes nearest to."""

    key: str
    training: str | None  # key; None in the shared edition
    features: float  # smallest distance to a training image, 1 - cosine
    pixels: float
    closeness: float  # the smaller of both by its limit; at most 1: over the threshold
    over: bool


class Spread(Record):
    """Where distances lie: their percentiles 1, 5, 25, 50, 75, 95."""

    features: tuple[float, ...]
    pixels: tuple[float, ...]


class Found(Record):
    """One kind of thing that does not belong into a set; never its content."""

    kind: str
    verdict: Verdict
    count: int
    places: list[str]  # the first of them


class Check(Record):
    """The outcome of one check."""

    verdict: Verdict
    said: str  # one or two sentences for people


class Nearness(Check):
    """Whether images come nearer to a training image than real images of different groups do."""

    quantile: float | None = None  # share of new groups that may be flagged, in each space
    limit_features: float | None = None
    limit_pixels: float | None = None
    basis: str = ""
    over: Share | None = None
    over_keys: list[str] = []
    held_out_over: Share | None = None  # real images of other groups that the same limits flag
    synthetic_spread: Spread | None = None  # of each synthetic image to the nearest training image
    real_spread: Spread | None = None  # of each training image to the nearest one of another group
    nearest: list[Pair] = []


class Membership(Check):
    """Whether training images can be told from held-out ones."""

    attacks: list[Attack] = []
    groups: int = 0  # of training images
    held_out_groups: int = 0


class Masks(Check):
    """How many masks are ones that were drawn on real images."""

    equal: Share | None = None


class Metadata(Check):
    """What files carry beside pixels and the fields that a set has."""

    images: int = 0
    source_names: int | None = None  # names of files and groups that were looked for; None: not readable
    found: list[Found] = []


class Text(Check):
    """Images that look as if they bore burned-in text."""

    threshold: int = 0
    suspected: Share | None = None
    training: Share | None = None  # the same of the training images
    keys: list[str] = []  # highest score first


class About(Record):
    """A set, or the model, that the report is about."""

    uri: str | None  # None in the shared edition
    digest: str
    count: int | None = None
    terms: str = ""


class Report(Record):
    """All of it."""

    schema_version: int = SCHEMA
    edition: Literal["internal", "shared"]
    date: str  # UTC; the only field that another run on the same inputs changes
    siamdiff: str
    device: str
    seed: int
    inputs_digest: str  # SHA-256 over everything that the figures depend on
    verdict: Verdict
    demo: bool
    resolution: int
    synthetic: About
    origin: str
    training: About | None
    training_images: int
    held_out_images: int
    model: About | None
    nearness: Nearness
    membership: Membership
    model_membership: Membership
    masks: Masks
    metadata: Metadata
    text: Text
    contains: list[str]  # the personal data that this report itself holds

    @property
    def checks(self) -> dict[str, Check]:
        """The checks by title, in the order in which they are read."""
        return {
            "Copies of training images": self.nearness,
            "Membership, from the images": self.membership,
            "Membership, from the model": self.model_membership,
            "Masks drawn on real images": self.masks,
            "Metadata": self.metadata,
            "Burned-in text": self.text,
        }


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict over several: the gravest of them; a check that was not done weighs less than one to look at."""
    places = [_ORDER.index(verdict) for verdict in verdicts]
    return _ORDER[max(places, default=0)]


def to_bytes(report: Report) -> bytes:
    """privacy.json."""
    return report.model_dump_json(indent=2).encode() + b"\n"


def digest_of(values: object) -> str:
    """SHA-256, in hex, of plain values."""
    return hashlib.sha256(storage.canonical_json(values)).hexdigest()
