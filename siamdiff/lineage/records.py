"""What a trace reads of the JSON that the stages left; anything else in it is passed over."""

from pydantic import BaseModel, ConfigDict, Field, field_validator


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class Settings(_Read):
    """Of a plan."""

    split: str | None = None
    method: str = "model"
    transforms: dict[str, object] = {}


class Plan(_Read):
    """plan.json; of a real set it says nothing of these."""

    masks: str | None = None  # digests
    model: str | None = None
    training: str = ""
    settings: Settings = Settings()


class OfModel(_Read):
    """The model that made a set."""

    digest: str | None = None
    data_digest: str | None = None


class Digest(_Read):
    """A set by its content."""

    digest: str | None = None


class MadeFrom(_Read):
    """`made_from` of a set's manifest."""

    plan: Plan | None = None
    model: OfModel = OfModel()
    filtered_from: "Filtered | None" = None
    training: Digest = Digest()  # of a filtered set: what its images were compared with

    @property
    def drawn_by(self) -> Plan | None:
        """The plan by which its samples were drawn, also where some were removed since, once or more often."""
        if self.plan is None and self.filtered_from is not None:
            return self.filtered_from.made_from.drawn_by
        return self.plan

    @property
    def whole(self) -> list[str]:
        """Digests of the sets that samples were removed from until this one was left."""
        of = self.filtered_from
        return [of.digest, *of.made_from.whole] if of else []


class Filtered(_Read):
    """The set from which samples were removed, and what it was made from."""

    digest: str
    made_from: MadeFrom


class Revision(_Read):
    """An earlier manifest."""

    digest: str


class Pinned(_Read):
    """pinned.json of a run."""

    data: str | None = Field(default=None, alias="digest of data")
    base: str = Field(default="", alias="digest of base")
    given: str = Field(default="", alias="model.base")
    parts: str | None = Field(default=None, alias="model.parts")
    steps: int = Field(default=0, alias="train.steps")


class Consumed(_Read):
    """A line of a run's log of keys."""

    step: int
    keys: list[str]


class Info(_Read):
    """siamdiff.json of a model or a base."""

    model_digest: str | None = None
    data_digest: str | None = None
    images_digest: str | None = None  # of a tiny base alone
    images: int | None = None
    license: str | None = None
    permitted_use: str | None = None


class _Given(Info):
    uri: str


class Began(_Read):
    """base.json of a run: what its base, and what supplied parts of it, said of themselves."""

    bases: list[_Given] = []


class _Sets(_Read):
    real: Digest = Digest()
    synthetic: dict[str, Digest] = {}


class _Near(_Read):
    training: str


class _Copies(_Read):
    nearest: list[_Near] = []


class Result(_Read):
    """What an evaluation says of one set."""

    shown: list[str] = []
    contact_sheet: str | None = None
    nearest_sheet: str | None = None
    copies: _Copies | None = None


class Metrics(_Read):
    """metrics.json of an evaluation."""

    sets: _Sets
    results: dict[str, Result] = {}


class _Test(_Read):
    set: str


class Inputs(_Read):
    """inputs.json of a segmentation."""

    real: str
    synthetic: dict[str, str] = {}
    tests: dict[str, _Test] = {}
    trainings: dict[str, str] = {}


class Export(_Read):
    """export.json."""

    format: str
    sets: list[Digest] = []


class _Origin(_Read):
    parent: str | None = None  # None: of another method, which does not say
    model_digest: str | None = None


class Exported(_Read):
    """A line of an export's metadata.jsonl."""

    key: str
    set: str | None = None
    kind: str | None = None
    synthetic: _Origin = _Origin()

    @field_validator("synthetic", mode="before")
    @classmethod
    def _of_real(cls, value: object) -> object:
        return {} if value is None else value


class _Setting(_Read):
    outputs: dict[str, str] = {}


class Experiment(_Read):
    """experiment.json."""

    settings: list[_Setting] = []


class Cached(_Read):
    """What a file of a cache says that it is of; those of earlier versions say nothing."""

    set: str | None = None  # digests
    samples: str | None = None
    against: str | None = None
    sha256: str = ""  # of the vectors beside it


class Named(_Read):
    """A line of a private map."""

    key: str
    image: str | None = None
    mask: str | None = None
    group: str | None = None


class Scores(_Read):
    """scores.json of a reader study."""

    study: str = ""
    sets: dict[str, Digest] = {}


class LeftOut(_Read):
    """A line of what was left out."""

    files: list[str] = []
    reason: str = ""
    detail: str = ""
