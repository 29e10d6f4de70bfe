"""What the Dockerfile says, as far as tests ask for it."""

import re
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
DOCKERFILE = REPOSITORY / "infra" / "image" / "Dockerfile"


@dataclass
class Stage:
    """One FROM and what follows it."""

    base: str
    name: str
    instructions: list[tuple[str, str]] = field(default_factory=list)  # word in capitals, the rest

    def of(self, word: str) -> list[str]:
        """What its instructions of one kind say."""
        return [rest for each, rest in self.instructions if each == word]


def instructions() -> list[tuple[str, str]]:
    """All of them, each on one line, without comments."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.lstrip().startswith("#")]
    whole = "\n".join(lines).replace("\\\n", " ")
    return [
        (line.split()[0].upper(), line.split(maxsplit=1)[1]) for line in whole.splitlines() if line.strip()
    ]


def defaults() -> dict[str, str]:
    """The build's arguments that have a value."""
    return dict(rest.split("=", 1) for word, rest in instructions() if word == "ARG" and "=" in rest)


def stages(variant: str) -> dict[str, Stage]:
    """The stages by name, in their order, for one variant."""
    found: dict[str, Stage] = {}
    for word, rest in instructions():
        if word == "FROM":
            base, _, name = rest.replace("${VARIANT}", variant).split()
            found[name] = Stage(base, name)
        elif found:
            list(found.values())[-1].instructions.append((word, rest))
    return found


def last(variant: str) -> list[Stage]:
    """The stages that the image is a pile of, the topmost first; the lowest is made from an image of others."""
    by_name = stages(variant)
    pile = [list(by_name.values())[-1]]
    while pile[-1].base in by_name:
        pile.append(by_name[pile[-1].base])
    return pile


def environment(variant: str) -> dict[str, str]:
    """The variables that a container of the image begins with, in the image's own words."""
    found: dict[str, str] = {}
    for stage in reversed(last(variant)):
        for rest in stage.of("ENV"):
            found |= dict(re.findall(r"(\w+)=(\S+)", rest))
    return found
