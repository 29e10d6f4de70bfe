"""A plot that stands alone, made part of a page: named, in the page's colours, without styles of its own.

A page whose policy allows one style sheet alone cannot have style attributes; all that matplotlib writes into them are
presentation attributes as well.
"""

import hashlib
import re
from xml.etree import ElementTree

from markupsafe import Markup

from siamdiff.report.plots import GRID, INK, PAPER, SERIES

_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_COLOURS = {INK: "currentColor", GRID: "var(--grid)", PAPER: "var(--card)"} | {
    colour: f"var(--s{number})" for number, colour in enumerate(SERIES, start=1)
}
LARGEST = 1.3  # pixels for a unit of the plot
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_DROPPED = {"font-family", "font"}  # the page has its own


def inline(svg: str, title: str, name: str) -> Markup:
    """An <svg> element of a page.

    Args:
        svg: a plot of siamdiff.report.plots.
        title: what a screen reader says of it.
        name: unlike those of all other plots of the page; its ids begin with it.
    """
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{_SVG}metadata", f"{_SVG}style"):
                parent.remove(child)
    used = {value[1:] for of in root.iter() if (value := of.get(_HREF, "")).startswith("#")}
    used |= {
        found for of in root.iter() for value in of.attrib.values() for found in _REFERENCE.findall(value)
    }
    short = {old: f"{name}-{number}" for number, old in enumerate(sorted(used))}
    for element in root.iter():
        _clean(element, short)
    _, _, width, height = (float(side) for side in root.attrib["viewBox"].split())
    root.attrib.pop("version", None)
    root.set("width", f"{LARGEST * width:.0f}")  # the page makes it smaller where there is no room
    root.set("height", f"{LARGEST * height:.0f}")
    root.set("role", "img")
    root.set("aria-label", title)
    return Markup(_text(root))


def short_id(*parts: str) -> str:
    """An id made of names that may hold any character."""
    return "i" + hashlib.sha256("/".join(parts).encode()).hexdigest()[:8]


def _clean(element: ElementTree.Element, short: dict[str, str]) -> None:
    for declaration in element.attrib.pop("style", "").split(";"):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        if key and key not in _DROPPED:
            element.set(key, value)
    for key, value in element.attrib.items():
        element.set(key, _REFERENCE.sub(lambda found: f"url(#{short[found[1]]})", value))
    for key in ("fill", "stroke"):
        if key in element.attrib:
            element.set(key, _COLOURS.get(element.attrib[key], element.attrib[key]))
    given = element.attrib.pop("id", None)
    if given in short:
        element.set("id", short[given])
    if _HREF in element.attrib:
        element.set("href", f"#{short[element.attrib.pop(_HREF)[1:]]}")
    if "d" in element.attrib:
        element.set("d", " ".join(element.attrib["d"].split()))
    if element.tag == f"{_SVG}text":
        element.attrib.setdefault("fill", "currentColor")
    if not (element.text or "").strip():
        element.text = None
    element.tail = None


def _text(root: ElementTree.Element) -> str:
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)  # HTML knows svg by its name
    return ElementTree.tostring(root, encoding="unicode")
