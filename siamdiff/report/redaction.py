"""What a shared page's texts may not hold: keys of real samples, and places. Where in doubt, more is hidden."""

import re
from collections.abc import Callable, Iterator
from typing import Any

from siamdiff.data.sample import KEY_DIGITS
from siamdiff.report.scope import Scope

HIDDEN = "[left out]"
# URIs of stores, and paths from a root, a home or a working folder; neither a page of the web nor a lone slash, as in
# "better / worse"
_PLACE = (
    r"(?:\b(?!https?:)[A-Za-z][\w+.-]*://|(?<![\w./:])(?:~[\w.-]*|\.{1,2})?/+(?=[^\s/])|(?<=:)/(?=[^\s/]))"
)
# Names of folders may hold blanks and most signs, so a place that is not known ends with its clause.
_TO_END = re.compile(_PLACE + r".*?(?=[:;]\s|[\s.,:;)\]}'\"]*$)", re.DOTALL)
_BEGINS = re.compile(_PLACE)
_BEFORE = r"(?<![\w./~+-])"
# After a known place: signs, then a blank or the end; and no further folders that go on with a blank in their names.
_AFTER = r"(?=[.,:;)\]}'\"]*(?:\s|$))(?![^\s/;]*(?:\s[^\s/;]+)*\s[^\s/;]*[^\s/;:=('\"\[{]/)"
# Also of a sample whose set is gone; in a longer run of digits, it is a digest.
_KEY = re.compile(rf"(?<![0-9a-f])[0-9a-f]{{{KEY_DIGITS}}}(?![0-9a-f])")
_FRACTION = re.compile(r"(?<![\w.])\d\.\d+$")  # of a number, as of a third


def redactor(scope: Scope) -> Callable[[str], str]:
    """Hides whatever may be the key of a real sample, and places; that of a set becomes the set's name."""
    made = frozenset().union(*(view.shards.keys() for view in scope.views if view.shards is not None))
    real = frozenset().union(*(shards.keys() for shards in scope.real_sets.values()))
    shown = made - real
    names = _names(scope)
    places = "|".join(re.escape(place) for place in sorted(names, key=lambda place: (-len(place), place)))
    known = re.compile(f"{_BEFORE}(?:{places}){_AFTER}") if places else None

    def hidden(key: re.Match[str]) -> str:
        is_fraction = key[0] not in real and _FRACTION.search(key.string[: key.end()])
        return key[0] if key[0] in shown or is_fraction else HIDDEN

    def redact(text: str) -> str:
        if text in names:  # a cell that is a place as a whole
            return names[text]
        if known is not None:
            text = known.sub(lambda found: names[found[0]], text)
        return _KEY.sub(hidden, _TO_END.sub(HIDDEN, text))

    return redact


def _names(scope: Scope) -> dict[str, str]:
    """Every place that the experiment knows of -> what is said for it; sets have names, all others none."""
    measured = [of for o in scope.outcomes for of in (o.evaluation, o.segmentation) if of is not None]
    known: list[Any] = [of.sets.model_dump() for of in measured]
    for outcome in scope.outcomes:
        known.append(outcome.setting.model_dump())
        if (run := outcome.run) is not None:
            known += [run.uri, run.pinned, run.config, run.model]
        known += [
            [shards.uri, shards.manifest.made_from]
            for shards in (outcome.real, outcome.synthetic)
            if shards is not None
        ]
    names = dict.fromkeys(_places(known), HIDDEN)
    for of in measured:
        names |= {info.uri: f"the set {name}" for name, info in of.sets.synthetic.items()}
        names |= {info.uri: f"the test set {name}" for name, info in of.sets.tests.items()}
    names |= {view.info.uri: view.label for view in scope.views}
    names |= {of.sets.real.uri: "the real set" for of in measured}
    return names | {shards.uri: "the real set" for shards in scope.real_sets.values()}


def _places(values: Any) -> Iterator[str]:
    """All places among plain values, however deep."""
    if isinstance(values, str):
        if _BEGINS.match(values):
            yield values
    elif isinstance(values, dict):
        for value in values.values():
            yield from _places(value)
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _places(value)
