"""How people lay out images and masks, and which of these ways a source follows.

A layout is recognised by the names in the source's listing; no pixel is read. Each is a module with `fits` (whether the
names it goes by are there) and `find` (the pairs).
"""

from collections.abc import Callable
from dataclasses import dataclass

from siamdiff.data.layouts import folder, huggingface, isic, lines, nnunet
from siamdiff.data.layouts.pairs import Files, Found
from siamdiff.errors import UserError
from siamdiff.sections import Data

LINES = "lines"


@dataclass(frozen=True)
class _Layout:
    fits: Callable[[Files], bool]
    find: Callable[[str, Files, Data], Found]
    names: str  # what it is recognised by, for messages


LAYOUTS = {
    "folder": _Layout(folder.fits, folder.find, "images/ and masks/"),
    "pranet": _Layout(
        folder.fits_pranet, folder.find_pranet, "TrainDataset/ or TestDataset/ with image(s)/ and mask(s)/"
    ),
    "isic": _Layout(isic.fits, isic.find, "ISIC_*.jpg and ISIC_*_segmentation.png"),
    "nnunet": _Layout(nnunet.fits, nnunet.find, "imagesTr/ and labelsTr/"),
    "huggingface": _Layout(
        huggingface.fits, huggingface.find, f"images and {' or '.join(huggingface.TABLES)}"
    ),
}


def read_layout(source: str, files: Files, data: Data) -> tuple[str, Found]:
    """The layout of a source and what it finds there.

    Args:
        source: normal URI of the source: a folder, or a file of JSON lines.
        files: what the folder lists.
        data: `layout`: the layout's name, or auto; `foreground`.

    Raises:
        UserError: the source is not laid out as named, none or several layouts fit it, or what their `find` raises.
    """
    if source.endswith(lines.SUFFIXES):
        if data.layout not in ("auto", LINES):
            raise UserError(
                f"data.layout {data.layout} is that of a folder, data.source {source} is a file; give the folder"
            )
        name, found = LINES, lines.find(source, files, data)
    elif data.layout == LINES:
        raise UserError(f"data.layout lines needs a {' or '.join(lines.SUFFIXES)} file, not {source}")
    else:
        name = data.layout if data.layout != "auto" else _recognise(source, files, data)
        if not LAYOUTS[name].fits(files):
            raise UserError(
                f"data.source {source} is not laid out as data.layout {name}: there are no {LAYOUTS[name].names}; "
                f"give auto or {_others(name)}"
            )
        found = LAYOUTS[name].find(source, files, data)
    if data.foreground is not None and name != "nnunet":
        raise UserError(
            f"data.foreground chooses labels of nnunet sets, but {source} is laid out as {name}; leave it out"
        )
    return name, found


def _recognise(source: str, files: Files, data: Data) -> str:
    """The one layout that fits; of several the one that finds pairs.

    ISIC's files may lie in images/ and masks/, and a table may lie beside any of them.
    """
    fitting = [name for name, layout in LAYOUTS.items() if layout.fits(files)]
    if len(fitting) > 1:
        fitting = [name for name in fitting if _finds_pairs(name, source, files, data)] or fitting
    if len(fitting) > 1:
        raise UserError(
            f"data.source {source} fits the layouts {' and '.join(fitting)}; name one as data.layout"
        )
    if not fitting:
        looked = "; ".join(f"{name} ({layout.names})" for name, layout in LAYOUTS.items())
        raise UserError(
            f"data.source {source} has no known layout, among {len(files)} files there is none of: {looked}; "
            f"or give a file of JSON lines ({LINES}); docs/ingest.md shows each"
        )
    return fitting[0]


def _finds_pairs(name: str, source: str, files: Files, data: Data) -> bool:
    try:
        return bool(LAYOUTS[name].find(source, files, data).pairs)
    except UserError:  # a table without masks is no such layout
        return False


def _others(name: str) -> str:
    return ", ".join(other for other in [*LAYOUTS, LINES] if other != name)
