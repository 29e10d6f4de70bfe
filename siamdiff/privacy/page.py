"""privacy.html: the report for people. Its first printed page is what a data officer signs; the rest is its reasons."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from textwrap import shorten

from siamdiff.data.shardset import ShardSet
from siamdiff.privacy import annex
from siamdiff.privacy.record import Check, Pair, Report, Verdict
from siamdiff.report.blocks import Section
from siamdiff.report.page import filled, styles_of

TEMPLATE, STYLES = "privacy.html.jinja", "privacy.css"
WORDS: dict[Verdict, str] = {"pass": "pass", "look": "look", "fail": "fail", "not done": "not done"}
MOST_TERMS = 160  # letters of a licence that the first page shows; people may have written pages
_HEADS: dict[Verdict, str] = {
    "pass": "No check found a reason to keep this set in the building.",
    "look": "A person has to look at something before this set leaves the building.",
    "fail": "This set should not leave the building as it is.",
    "not done": "Nothing was found, but not every check could be made.",
}


@dataclass(frozen=True)
class Line:
    """A check in the table of the first page."""

    title: str
    verdict: Verdict
    said: str
    name: str  # of its section


@dataclass(frozen=True)
class PrivacyPage:
    """Everything that the page shows."""

    title: str
    subtitle: str
    date: str
    share: bool
    demo: bool
    verdict: Verdict
    head: str
    summary: Sequence[str]
    facts: Sequence[tuple[str, str]]
    lines: Sequence[Line]
    digests: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    footer: str


def page_of(report: Report, json_digest: str, pairs: Sequence[Pair], sets: "Sets") -> PrivacyPage:
    """The page of a report.

    Args:
        report: what it shows.
        json_digest: SHA-256 of the privacy.json beside it.
        pairs: whose pictures are shown, nearest first; none in the shared edition.
        sets: where their pictures are.
    """
    share = report.edition == "shared"
    side, count = report.resolution, report.synthetic.count or 0
    return PrivacyPage(
        title="Privacy report of a synthetic set",
        subtitle=f"{count:,} images of {side} x {side} pixels with masks, set {report.synthetic.digest[:16]}",
        date=f"{report.date[:10]}, {report.date[11:16]} UTC",
        share=share,
        demo=report.demo,
        verdict=report.verdict,
        head=_HEADS[report.verdict],
        summary=_summary(report),
        facts=_facts(report),
        lines=[
            Line(title, check.verdict, check.said, annex.NAMES[title])
            for title, check in report.checks.items()
        ],
        digests=[
            ("SHA-256 of the set's shards (its digest)", report.synthetic.digest),
            (f"SHA-256 of {'privacy-share.json' if share else 'privacy.json'}", json_digest),
        ],
        sections=annex.sections(report, pairs, sets.synthetic, sets.training),
        footer=f"Siamdiff {version('siamdiff')}; inputs {report.inputs_digest}",
    )


@dataclass(frozen=True)
class Sets:
    """Where the pictures of a page come from."""

    synthetic: ShardSet
    training: ShardSet | None


def render(page: PrivacyPage) -> str:
    """The page as HTML."""
    styles = styles_of("siamdiff.report", "page.css") + styles_of("siamdiff.privacy", STYLES)
    return filled("siamdiff.privacy", TEMPLATE, styles, page=page, words=WORDS)


def _summary(report: Report) -> list[str]:
    """In plain language what the checks come to."""
    by: dict[Verdict, list[str]] = {"fail": [], "look": [], "not done": []}
    checks: dict[str, Check] = report.checks
    for title, check in checks.items():
        if check.verdict in by:
            by[check.verdict].append(title.lower())
    told = []
    if by["fail"]:
        told.append(f"Failed: {_listed(by['fail'])}.")
    if by["look"]:
        told.append(f"To be looked at: {_listed(by['look'])}.")
    if by["not done"]:
        told.append(f"Not done: {_listed(by['not done'])}.")
    passed = sum(check.verdict == "pass" for check in checks.values())
    told.append(f"{passed} of {len(checks)} checks pass.")
    told.append(
        "Checks find what they look for. That none fails does not make the images anonymous; whether the set may leave "
        "is decided by the person who signs."
    )
    return told


def _facts(report: Report) -> list[tuple[str, str]]:
    facts = [("How it was made", report.origin)]
    if report.training:
        facts.append(
            (
                "Trained on",
                f"{report.training_images:,} images, set {report.training.digest[:16]}; {report.held_out_images:,} "
                "more were held out",
            )
        )
    else:
        facts.append(("Trained on", "unknown"))
    facts.append(("Licence; permitted use", shorten(report.synthetic.terms, MOST_TERMS, placeholder=" ...")))
    return facts


def _listed(names: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)
