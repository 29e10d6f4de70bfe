"""Licences and permitted use as they travel: of several sources all licences hold, and the strictest use wins.

Terms are texts, as the owners of images and models gave them; several stand side by side, with "; " between them. What
is known of a text is what `licence_of` and `use_of` know: any other text goes along word by word, for a person to read.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Self

UNKNOWN = "unknown"
_BETWEEN = "; "


class Use(IntEnum):
    """What may be done, from the strictest on. Each permits what those before it do."""

    NONE = 0
    UNKNOWN = 1  # nobody said: not permitted until it is known
    UNREAD = 2  # somebody said it in words that only a person understands
    RESEARCH = 3
    EDUCATION = 4  # and research
    NON_COMMERCIAL = 5
    ANY = 6


NAMES = {
    Use.NONE: "no use",
    Use.UNKNOWN: UNKNOWN,
    Use.UNREAD: "as its own words say",
    Use.RESEARCH: "research",
    Use.EDUCATION: "research and education",
    Use.NON_COMMERCIAL: "non-commercial",
    Use.ANY: "any",
}
# what people write instead, in small letters, without "only" and "use"
_ALSO = {
    Use.NONE: ("no", "none", "withdrawn", "forbidden"),
    Use.UNKNOWN: ("",),
    Use.RESEARCH: ("for research", "research purposes", "non-commercial research", "academic research"),
    Use.EDUCATION: (
        "education and research", "free for research and education", "research and educational purposes",
        "free for research and education, permission needed for commercial",
        "free for research and education, permission for commercial",
    ),
    Use.NON_COMMERCIAL: ("noncommercial", "non commercial", "non-commercial purposes"),
    Use.ANY: ("all", "commercial", "any, also commercial", "unrestricted"),
}  # fmt: skip
_USES = {text: use for use, texts in _ALSO.items() for text in texts} | {
    name.removesuffix(" use"): use for use, name in NAMES.items() if use is not Use.UNREAD
}

ATTRIBUTION = "name the authors"
SHARE_ALIKE = "share under the same licence"
NO_DERIVATIVES = "share no derivatives: neither a model that was trained on it nor what that makes"
NON_COMMERCIAL = "no commercial use"
KEEP_NOTICES = "keep the licence's text and notices"
USE_RESTRICTIONS = "pass the licence's list of forbidden uses on, and keep to it"


@dataclass(frozen=True)
class Licence:
    """What is known of a licence."""

    name: str  # as SPDX or the hub writes it, in small letters
    use: Use
    obligations: tuple[str, ...] = ()


_OTHERS = [
    Licence("cc0-1.0", Use.ANY),
    Licence("pddl-1.0", Use.ANY),
    Licence("odc-by-1.0", Use.ANY, (ATTRIBUTION,)),
    Licence("odbl-1.0", Use.ANY, (ATTRIBUTION, SHARE_ALIKE)),
    Licence("apache-2.0", Use.ANY, (KEEP_NOTICES,)),
    Licence("mit", Use.ANY, (KEEP_NOTICES,)),
    Licence("bsd-2-clause", Use.ANY, (KEEP_NOTICES,)),
    Licence("bsd-3-clause", Use.ANY, (KEEP_NOTICES,)),
    Licence("creativeml-openrail-m", Use.ANY, (USE_RESTRICTIONS,)),
    Licence("openrail", Use.ANY, (USE_RESTRICTIONS,)),
    Licence("openrail++", Use.ANY, (USE_RESTRICTIONS,)),
    Licence("bigscience-openrail-m", Use.ANY, (USE_RESTRICTIONS,)),
    Licence("kvasir-seg", Use.EDUCATION, (ATTRIBUTION,)),  # "permission needed for commercial use"
]
_ALIASES = {
    "cc0": "cc0-1.0",
    "cc-zero": "cc0-1.0",
    "apache": "apache-2.0",
    "apache-license-2.0": "apache-2.0",
    "mit-license": "mit",
    "creativeml-open-rail-m": "creativeml-openrail-m",
}
_KNOWN = {licence.name: licence for licence in _OTHERS}
_CREATIVE_COMMONS = re.compile(
    r"cc-by(?P<nc>-nc)?(?:(?P<sa>-sa)|(?P<nd>-nd))?(?:-[1-4]\.0)?(?:-(?:igo|(?!nc|nd|sa)[a-z]{2}))?"
)  # nc, nd and sa at the end are no countries but elements in another order, which a person reads


def licence_of(text: str) -> Licence | None:
    """What is known of the licence that a text names; None: a person must read it."""
    name = re.sub(r"[\s_-]+", "-", text.strip().casefold())
    name = _ALIASES.get(name, name)
    if name in _KNOWN:
        return _KNOWN[name]
    found = _CREATIVE_COMMONS.fullmatch(name)
    if not found:
        return None
    parts = {"nc": NON_COMMERCIAL, "sa": SHARE_ALIKE, "nd": NO_DERIVATIVES}
    obligations = (ATTRIBUTION, *(told for part, told in parts.items() if found[part]))
    return Licence(name, Use.NON_COMMERCIAL if found["nc"] else Use.ANY, obligations)


def use_of(text: str) -> Use:
    """What one text permits."""
    plain = re.sub(r"[\s_]+", " ", text.strip().casefold()).rstrip(".")
    plain = re.sub(r"(?:^| )(?:only|use)(?= |$)", "", plain).strip()
    return _USES.get(plain, Use.UNREAD)


@dataclass(frozen=True)
class Terms:
    """Licence and permitted use of a set, a model or a base, as the texts in which they travel."""

    license: str = UNKNOWN
    permitted_use: str = UNKNOWN
    licenses: tuple[str, ...] = field(init=False, repr=False)
    uses: tuple[str, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "licenses", tuple(_parts(self.license)))
        object.__setattr__(self, "uses", tuple(_parts(self.permitted_use)))

    @classmethod
    def of_licence(cls, license: str | None) -> Self:
        """Of what has a licence and nothing else that was said: all that the licence permits."""
        text = license or UNKNOWN
        uses = [known.use if known else Use.UNKNOWN for known in map(licence_of, _parts(text))]
        return cls(text, NAMES[min(uses)])

    @property
    def use(self) -> Use:
        """The strictest of what permitted use and the known licences permit."""
        return min((use for _, use in self._permissions()))

    @property
    def obligations(self) -> tuple[str, ...]:
        """What the known licences ask of whoever uses it, each once."""
        known = (licence for licence in map(licence_of, self.licenses) if licence)
        return tuple(dict.fromkeys(told for licence in known for told in licence.obligations))

    @property
    def unread(self) -> tuple[str, ...]:
        """Texts that a person must read or find out, each once."""
        licences = [f"licence {text}" for text in self.licenses if licence_of(text) is None]
        uses = [f"permitted use {text}" for text in self.uses if use_of(text) in (Use.UNREAD, Use.UNKNOWN)]
        return (*licences, *uses)

    @property
    def forbids_derivatives(self) -> bool:
        """Whether nothing made from it may be given away."""
        return NO_DERIVATIVES in self.obligations

    def as_dict(self) -> dict[str, str]:
        """The two texts by their names in manifests."""
        return {"license": self.license, "permitted_use": self.permitted_use}

    def _permissions(self) -> list[tuple[str, Use]]:
        """Every text that permits something, in order, and what it permits."""
        known = (licence for licence in map(licence_of, self.licenses) if licence)
        return [(text, use_of(text)) for text in self.uses] + [
            (NAMES[licence.use], licence.use) for licence in known
        ]


def combine(terms: Iterable[Terms]) -> Terms:
    """Terms that all hold.

    Licences stand side by side, each once. Of what is permitted the strictest text stands, and beside it every text
    that only a person understands. The order of what is combined decides the order of the texts and nothing else.

    Args:
        terms: at least one; else nothing is known.
    """
    given = list(terms)
    licenses: dict[str, str] = {}
    for text in (text for one in given for text in one.licenses):
        known = licence_of(text)
        licenses.setdefault(known.name if known else text.casefold(), text)
    permissions = [permission for one in given for permission in one._permissions()]
    understood = [(text, use) for text, use in permissions if use is not Use.UNREAD]
    unread = list(dict.fromkeys(text for text, use in permissions if use is Use.UNREAD))
    strictest = min(understood, key=lambda permission: permission[1], default=None)
    # What permits everything says nothing beside a text that may not.
    said = [strictest[0]] if strictest and (strictest[1] < Use.ANY or not unread) else []
    return Terms(_BETWEEN.join(licenses.values()) or UNKNOWN, _BETWEEN.join([*said, *unread]) or UNKNOWN)


def sources_of(made_from: Mapping[str, Any]) -> dict[str, Terms]:
    """Terms by what they come from, as a set's `made_from` or a model's info tells them; {} where it does not."""
    told = made_from.get("terms")
    found = {}
    for name, of in told.items() if isinstance(told, Mapping) else ():
        license, use = (
            (of.get("license"), of.get("permitted_use")) if isinstance(of, Mapping) else (None, None)
        )
        if isinstance(license, str) and isinstance(use, str):
            found[str(name)] = Terms(license, use)
    return found


def _parts(text: str) -> Iterable[str]:
    """The texts that stand side by side in one, each once; an empty one says that nothing is known."""
    parts = dict.fromkeys(part.strip() for part in text.split(_BETWEEN))
    return [part for part in parts if part] or [UNKNOWN]
