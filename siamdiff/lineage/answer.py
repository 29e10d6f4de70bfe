"""Where images went, under some roots: the answer to `python -m siamdiff trace`, for people and machines."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from siamdiff import storage
from siamdiff.data.raw import DUPLICATE
from siamdiff.data.sample import KEY_PATTERN
from siamdiff.errors import SiamdiffError, UserError, printable
from siamdiff.lineage import judging, making, measuring
from siamdiff.lineage.findings import Finding, Relation, Trail
from siamdiff.lineage.objects import PRIVATE
from siamdiff.lineage.reading import Root
from siamdiff.lineage.records import LeftOut, Named
from siamdiff.lineage.world import World, read_world
from siamdiff.terms import NAMES, combine

_EXAMPLES = 5
LIMITS = (
    "Copies outside of these roots, near duplicates under another key, and what people took along are not found "
    "(docs/trace.md)."
)


@dataclass(frozen=True)
class Answer:
    """Everything found about some keys."""

    roots: list[str]
    trails: list[Trail]  # in the order in which they were asked for
    looked_at: dict[str, int]  # kind of object -> how many there are
    problems: list[tuple[str, str]]  # URI, why it cannot be told what it has to do with any image
    origins: list[str]  # models that do not say what they were trained on
    terms: dict[str, str]  # of all sets and models that were found, together; {} where none was

    @property
    def exit_code(self) -> int:
        """0, or 1 where something cannot be told."""
        return SiamdiffError.exit_code if self.problems or self._open() else 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "roots": self.roots,
            "keys": {
                trail.key: {"files": trail.files, "found": [of.as_dict() for of in trail.ordered()]}
                for trail in self.trails
            },
            "looked_at": self.looked_at,
            "cannot_be_told": [{"uri": uri, "why": why} for uri, why in self.problems],
            "origin_unknown": self.origins,
            "terms": self.terms,
            "limits": LIMITS,
        }

    def lines(self) -> list[str]:
        """For a person: what was found by relation, what cannot be told, one line in the end."""
        told = [line for trail in self.trails for line in _told(trail, self.roots)]
        if self.terms:
            told += ["", f"terms of the sets and models above, together: {_flat(self.terms)}"]
        if self.origins:
            told += ["", "models that do not say what they were trained on, outside of this answer:"]
            told += [f"  {uri}" for uri in self.origins]
        if self.problems:
            told += ["", "cannot be told:"]
            told += [f"  {printable(uri)}: {printable(why)}" for uri, why in self.problems]
        return [*told, "", self._summary()]

    def _open(self) -> int:
        """Objects of which it cannot be told whether they used an image."""
        found = (of for trail in self.trails for of in trail.findings)
        return sum(of.objects for of in found if of.relation is Relation.MAY)

    def _summary(self) -> str:
        looked = f"{sum(self.looked_at.values())} objects of {len(self.looked_at)} kinds under {', '.join(self.roots)}"
        used = [
            trail for trail in self.trails if any(of.relation is not Relation.MAY for of in trail.findings)
        ]
        objects = sum(
            of.objects for trail in used for of in trail.findings if of.relation is not Relation.MAY
        )
        open_ends = self._open() + len(self.problems)
        rest = f"; of {open_ends} it cannot be told" if open_ends else ""
        one = len(self.trails) == 1
        if not used:
            what = f"{self.trails[0].key} was not" if one else f"not one of {len(self.trails)} keys was"
            return f"none: {what} used by anything that could be read of {looked}{rest}. {LIMITS}"
        of = self.trails[0].key if one else f"{len(used)} of {len(self.trails)} keys"
        return f"found: {of} in {objects} of {looked}{rest}. {LIMITS}"


def trace(wanted: Sequence[str], roots: Sequence[str]) -> Answer:
    """Looks for images in everything under some roots; changes nothing.

    Args:
        wanted: keys of 16 hex digits, or names of original files, which private maps under the roots know.
        roots: URIs.

    Raises:
        UserError: no root, one without an object, or a name that no private map knows or that several images have.
    """
    places = [Root.look(storage.normalize(uri)) for uri in dict.fromkeys(roots)]
    for root in places:
        if not root.contents.count:
            raise UserError(
                f"there is nothing under {root.uri}; give a root, such as ~/.siamdiff/demo or s3://bucket/x"
            )
    keys = list(dict.fromkeys(key for text in wanted for key in _keys_of(text, places)))
    world = read_world(places, frozenset(keys))
    trails = {key: Trail(key, sorted(set(world.names.get(key, [])))) for key in keys}
    for trail in trails.values():
        making.follow(world, trail)
    measuring.follow(world, trails)
    judging.follow(world, trails)
    problems = [problem for root in places for problem in dict.fromkeys(root.problems)]
    problems += [problem for root in places for problem in _unknown(root)]
    origins = [of.uri for of in world.weights if of.digest and not of.run and not of.info.data_digest]
    return Answer(
        roots=[root.uri for root in places],
        trails=list(trails.values()),
        looked_at=_looked_at(places),
        problems=problems,
        origins=origins,
        terms=_terms(world, list(trails.values())),
    )


def _keys_of(text: str, roots: list[Root]) -> list[str]:
    """The key that a text is, or those of the pair that a file belongs to, through private maps."""
    if re.fullmatch(KEY_PATTERN, text):
        return [text]
    name = text.replace("\\", "/").rstrip("/")
    rows = [row for root in roots for row in root.lines(_maps(root, "keys.jsonl"), Named)]
    kept = [row for row in rows if _is_file(name, row.image) or _is_file(name, row.mask)]
    if not kept:
        kept = _copied(name, rows, roots)
    exact = [row for row in kept if name in (row.image, row.mask)]
    keys = sorted({row.key for row in exact or kept})
    if not keys:
        maps = sum(len(_maps(root, "keys.jsonl")) for root in roots)
        raise UserError(
            f"{text!r} is neither a key of 16 hex digits nor a file that one of the {maps} private maps under "
            f"{', '.join(root.uri for root in roots)} knows; give the key, or the file's path in its source"
        )
    if len(keys) > 1:
        raise UserError(
            f"{text!r} is the name of {len(keys)} images ({', '.join(keys[:_EXAMPLES])}); give its path in the source, "
            "or one of the keys"
        )
    return keys


def _maps(root: Root, name: str) -> list[str]:
    return [
        root.uri_of(unit, name)
        for unit in root.contents.of(PRIVATE)
        if any(name in names for names in unit.objects.values())
    ]


def _is_file(asked: str, known: str | None) -> bool:
    """Whether a path that is asked for is one that a map knows: as it is, below the source's folder, or by its name."""
    return known is not None and (
        asked == known or asked.endswith(f"/{known}") or known.endswith(f"/{asked}")
    )


def _copied(name: str, rows: list[Named], roots: list[Root]) -> list[Named]:
    """The kept pair of which a file that was left out is an exact copy; [] where it is none."""
    left_out = [row for root in roots for row in root.lines(_maps(root, "rejected.jsonl"), LeftOut)]
    for row in left_out:
        if not any(_is_file(name, of) for of in row.files):
            continue
        if row.reason != DUPLICATE:
            raise UserError(
                f"{name!r} was left out when its set was made ({row.reason}): nothing was made from it, only "
                "the private map names it"
            )
        return [kept for kept in rows if kept.image == row.detail.removeprefix("of ")]
    return []


def _unknown(root: Root) -> list[tuple[str, str]]:
    """Objects that no rule knows, by folder."""
    folders = Counter(name.rpartition("/")[0] for name in root.contents.unknown)
    return [
        (storage.join(root.uri, folder).rstrip("/"), f"objects of no kind that is known: {count}")
        for folder, count in sorted(folders.items())
    ]


def _looked_at(roots: list[Root]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for root in roots:
        for unit in root.contents.units:
            for kind, names in unit.objects.items():
                counts[kind.name] += len(names)
    return dict(sorted(counts.items()))


def _terms(world: World, trails: list[Trail]) -> dict[str, str]:
    """Of the sets and models that were found."""
    found = [of.uri for trail in trails for of in trail.findings if of.kind in ("shards", "weights")]
    terms = [
        of.terms
        for of in [*world.sets, *world.weights]
        if of.terms and any(uri == of.uri or uri.startswith(f"{of.uri}/") for uri in found)
    ]
    if not terms:
        return {}
    together = combine(terms)
    said = together.as_dict() | {"permits": NAMES[together.use]}
    said |= {"obligations": ", ".join(together.obligations)} if together.obligations else {}
    return said | ({"to be read": ", ".join(together.unread)} if together.unread else {})


def _told(trail: Trail, roots: list[str]) -> list[str]:
    files = f" ({', '.join(map(printable, trail.files))})" if trail.files else ""
    lines = [f"{trail.key}{files}"]
    by_relation: dict[Relation, list[Finding]] = {}
    for of in trail.ordered():
        by_relation.setdefault(of.relation, []).append(of)
    for relation, findings in by_relation.items():
        count = sum(of.objects for of in findings)
        lines.append(f"  {relation}: {count} {'object' if count == 1 else 'objects'}")
        for of in findings:
            many = f", {of.objects} objects" if of.objects > 1 else ""
            lines.append(f"    {printable(of.uri)}: {of.kind}{many}; {printable(of.detail)} -> {of.remedy}")
    return lines if trail.findings else [f"{trail.key}{files}", f"  none under {', '.join(roots)}"]


def _flat(terms: dict[str, str]) -> str:
    return "; ".join(f"{name.replace('_', ' ')}: {printable(text)}" for name, text in terms.items())
