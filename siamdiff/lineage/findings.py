"""What a trace finds: what an object has to do with an image, and what is to be done about it."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Relation(StrEnum):
    """What an object has to do with an image, in the order in which it is told."""

    HOLDS = "holds the image itself"
    SHOWS = "shows it"
    COMPUTED = "holds something computed from it"
    TRAINED = "was trained on it"
    MADE = "was made by, or measured on, what was trained on it"
    NAMES = "names it"
    MAY = "may have used it, cannot be told"


REINGEST = "take image and mask out of the source, ingest to another data.uri, then delete this set"
RETRAIN = "delete; train again on a set without it"
REGENERATE = "delete; make it again with a model that was not trained on it"
REMAKE = "delete; made again from sets without it"
DELETE = "delete"
LOOK = "a person must look"


@dataclass(frozen=True)
class Finding:
    """Some objects of one kind, in one place."""

    relation: Relation
    kind: str  # of siamdiff.lineage.objects
    uri: str
    detail: str
    remedy: str
    objects: int = 1

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "relation": self.relation.name.lower(),
            "kind": self.kind,
            "uri": self.uri,
            "detail": self.detail,
            "remedy": self.remedy,
            "objects": self.objects,
        }


@dataclass
class Trail:
    """Everything that has to do with one key."""

    key: str
    files: list[str]  # as private maps name them
    findings: list[Finding] = field(default_factory=list)

    def add(
        self, relation: Relation, kind: str, uri: str, detail: str, remedy: str, objects: int = 1
    ) -> None:
        """Takes a finding; nothing of no objects."""
        if objects:
            self.findings.append(Finding(relation, kind, uri, detail, remedy, objects))

    def has(self, relation: Relation, uri: str) -> bool:
        """Whether something in a folder was found to be so."""
        return any(
            of.relation is relation and (of.uri == uri or of.uri.startswith(f"{uri}/"))
            for of in self.findings
        )

    def touches(self, uri: str, *relations: Relation) -> bool:
        """Whether something was found in a folder that a record names, by its last two names: roots may be moved.

        Args:
            uri: as the record has it.
            relations: any of these [any but names].
        """
        tail = "/" + "/".join(uri.rstrip("/").split("/")[-2:])
        wanted = relations or [relation for relation in Relation if relation is not Relation.NAMES]
        return any(of.relation in wanted and f"{tail}/" in f"{of.uri}/" for of in self.findings)

    def ordered(self) -> list[Finding]:
        """By relation, then by place."""
        order = list(Relation)
        return sorted(self.findings, key=lambda of: (order.index(of.relation), of.uri, of.kind))
