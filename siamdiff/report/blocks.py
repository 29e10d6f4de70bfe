"""What a page is made of, in the order that it is read in; the template draws each by its `kind`."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from siamdiff.report.pictures import Tile
from siamdiff.report.tables import Table


@dataclass(frozen=True)
class Heading:
    """A heading below the section's own."""

    text: str
    kind: str = "heading"


@dataclass(frozen=True)
class Text:
    """A paragraph; `is_note`: of what is missing or left out."""

    text: str
    is_note: bool = False
    kind: str = "text"


@dataclass(frozen=True)
class Tabular:
    """A table; `folded`: behind a line that opens it."""

    table: Table
    name: str  # unlike those of all others
    folded: str = ""
    kind: str = "table"


@dataclass(frozen=True)
class Plot:
    """A plot and the numbers that it shows."""

    svg: Markup
    caption: str
    numbers: Tabular


@dataclass(frozen=True)
class Plots:
    """Plots beside each other where there is room."""

    plots: Sequence[Plot]
    kind: str = "plots"


@dataclass(frozen=True)
class Pairs:
    """Groups of pictures that belong together."""

    pairs: Sequence[Sequence[Tile]]
    label: str
    kind: str = "pairs"


Block = Heading | Text | Tabular | Plots | Pairs


@dataclass(frozen=True)
class Section:
    """A part of the page with its own heading and place in the contents."""

    name: str  # the fragment of its address
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Card:
    """A figure that is seen first."""

    label: str
    value: str
    below: str
    mark: str = ""  # "good", "bad"


@dataclass(frozen=True)
class Page:
    """Everything that a page shows."""

    title: str
    subtitle: str
    demo: bool
    share: bool
    summary: Sequence[str]
    cards: Sequence[Card]
    warnings: Sequence[tuple[str, str]]  # where it comes from, what it says
    sections: Sequence[Section]
    footer: str
    left_out: Sequence[str] = field(default_factory=tuple)  # of a shared page


def note(text: str) -> Text:
    """What is missing, or left out, and why."""
    return Text(text, is_note=True)
