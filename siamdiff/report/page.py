"""report.html: one page for people, made of what an experiment left, that needs nothing but itself.

A page depends on the experiment's files and this code alone: the same inputs give the same bytes.
"""

import base64
import hashlib
from collections.abc import Callable
from importlib import resources
from importlib.metadata import version
from typing import Any

import jinja2
from markupsafe import Markup

from siamdiff import storage
from siamdiff.report import helps, looks, making, nearness, words
from siamdiff.report.blocks import Page, Section
from siamdiff.report.record import read_experiment
from siamdiff.report.redaction import redactor
from siamdiff.report.scope import Scope

PAGE, SHARED = "report.html", "report-share.html"
TEMPLATE, STYLES = "page.html.jinja", "page.css"
_PRIVATE = (
    "real images, the masks drawn on them, and outlines of these",
    "keys of real samples, and the places where anything lies",
)


def write_report(uri: str, share: bool = False, output: str | None = None) -> str:
    """Writes the page of the experiment in the folder `uri`; returns where it lies.

    Args:
        uri: ROOT/experiments/DIGEST, with experiment.json.
        share: a page without a real pixel, a real annotation, a real sample's key or a place in the store.
        output: file or URI that is written [report.html in the folder, report-share.html with `share`].

    Raises:
        UserError: there is no finished experiment.
        SiamdiffError: something of it is damaged.
    """
    uri = storage.normalize(uri)
    target = storage.normalize(output) if output else storage.join(uri, SHARED if share else PAGE)
    scope = Scope.of(read_experiment(uri), share)
    storage.write_bytes(target, render(page_of(scope), redactor(scope) if share else None).encode())
    return target


def page_of(scope: Scope) -> Page:
    """Everything that the page of an experiment shows."""
    sections = [section for make in _SECTIONS if (section := make(scope)) is not None]
    return Page(
        title=words.title(scope),
        subtitle=words.subtitle(scope),
        demo=scope.demo,
        share=scope.share,
        summary=words.summary(scope),
        cards=words.cards(scope),
        warnings=words.warnings(scope),
        sections=sections,
        footer=f"Siamdiff {version('siamdiff')}; experiment {scope.record.inputs_digest}",
        left_out=[*_PRIVATE, *scope.left_out] if scope.share else [],
    )


_SECTIONS: tuple[Callable[[Scope], Section | None], ...] = (
    helps.segmentation_section,
    helps.folds_section,
    helps.settings_section,
    looks.pairs_section,
    nearness.figures_section,
    nearness.agreement_section,
    looks.copies_section,
    looks.masks_section,
    making.training_section,
    making.provenance_section,
)


def render(page: Page, redact: Callable[[str], str] | None = None) -> str:
    """The page as HTML.

    Args:
        page: what is shown.
        redact: what every text passes before it is written; images and plots do not.
    """
    return filled("siamdiff.report", TEMPLATE, styles_of("siamdiff.report", STYLES), redact, page=page)


def styles_of(package: str, name: str) -> str:
    """A style sheet that lies in a package."""
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")


def filled(
    package: str, template: str, styles: str, redact: Callable[[str], str] | None = None, **values: object
) -> str:
    """A template of a package as HTML; every text in it is escaped.

    Args:
        package: where the template lies; it may import this package's.
        template: its name.
        styles: the style sheet, which the page's content policy permits by its hash, and no other.
        redact: as in `render`.
        values: what the template shows.
    """

    def finalize(value: Any) -> Any:
        return redact(value) if redact and isinstance(value, str) and not isinstance(value, Markup) else value

    loaders = [jinja2.PackageLoader(name, "") for name in dict.fromkeys((package, "siamdiff.report"))]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=finalize,
    )
    style_hash = base64.b64encode(hashlib.sha256(styles.encode()).digest()).decode()
    return environment.get_template(template).render(
        styles=Markup(styles), style_hash=Markup(style_hash), **values
    )
