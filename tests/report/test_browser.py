"""The page as a browser has it: whole, without a network, on a phone and a desk, in light and dark, by keyboard."""

import itertools
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from siamdiff.report.page import write_report
from tests.conftest import CHROMIUM
from tests.report.experiments import write_experiment

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on PATH")

# Whatever sticks out of the page, but for what scrolls in a region of its own.
OVERFLOWING = """() => [...document.querySelectorAll('body *')].filter(e =>
    e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.scroll') && !e.closest('.skip')
    && !e.classList.contains('hidden')).map(e => e.outerHTML.slice(0, 80))"""
# Text with less contrast than WCAG's AA asks for.
CONTRAST = """() => {
  const linear = v => v / 255 <= .03928 ? v / 255 / 12.92 : ((v / 255 + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => .2126 * linear(r) + .7152 * linear(g) + .0722 * linear(b);
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const behind = e => {
    for (; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length < 4 || colour[3] > .99) return colour;
    }
    return [255, 255, 255];
  };
  const isText = e => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
  return [...document.querySelectorAll('body :not(svg *)')].filter(isText).filter(e => {
    const [more, less] = [light(parse(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
    return (more + .05) / (less + .05) < 4.5;
  }).map(e => e.className + ': ' + e.textContent.slice(0, 40));
}"""
# A table's region or a line that opens one: its name and place on the page; "" for anything else.
FOCUSED = """() => {
  const e = document.activeElement;
  const name = e.className === 'scroll' ? e.getAttribute('aria-labelledby') : e.tagName === 'SUMMARY' ? 'opens' : '';
  return [name, Math.round(e.getBoundingClientRect().top + scrollY)];
}"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The two editions of a demo."""
    uri = write_experiment(tmp_path_factory.mktemp("browser"), demo=True)
    return {"whole": write_report(uri), "shared": write_report(uri, share=True)}


def opened(browser: Browser, file: str, width: int, scheme: str) -> tuple[Page, list[str]]:
    """The page, and what it said on the console and asked of others."""
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True)
    page = context.new_page()
    heard: list[str] = []
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("request", lambda request: heard.append(request.url[:200]))
    page.goto(Path(file).as_uri(), wait_until="load")
    others = [text for text in heard if text != Path(file).as_uri() and not text.startswith("data:image/")]
    return page, others


@pytest.mark.parametrize("edition", ["whole", "shared"])
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_a_page_reads_well(browser: Browser, pages: dict[str, str], edition: str, width: int, scheme: str):
    page, others = opened(browser, pages[edition], width, scheme)
    assert others == []
    page.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(OVERFLOWING) == []
    assert page.evaluate(CONTRAST) == []
    assert page.evaluate("[...document.images].every(e => e.complete && e.naturalWidth > 0)")
    assert page.evaluate("[...document.images].every(e => e.alt.length > 20)")
    assert page.evaluate(
        "[...document.querySelectorAll('svg')].every(e => e.getAttribute('aria-label').length > 20)"
    )
    assert page.locator("img").count() > 5 and page.locator("svg").count() > 5
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_plots_are_seen_in_either_scheme(browser: Browser, pages: dict[str, str], scheme: str):
    page, _ = opened(browser, pages["whole"], 390, scheme)
    ink = page.evaluate("getComputedStyle(document.querySelector('svg text')).fill")
    assert ink == page.evaluate("getComputedStyle(document.body).color")
    fills = page.evaluate("[...document.querySelectorAll('svg *')].map(e => getComputedStyle(e).stroke)")
    assert not [fill for fill in fills if "var" in fill]
    page.context.close()


def test_headings_and_landmarks_are_in_order(browser: Browser, pages: dict[str, str]):
    page, _ = opened(browser, pages["shared"], 1280, "light")
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map(e => +e.tagName[1])")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    for landmark in ("main", "header", "footer", "nav"):
        assert page.locator(landmark).count() == 1
    tables = page.locator("table")
    assert tables.count() == page.locator("table > caption").count() > 5
    assert page.locator("th:not([scope])").count() == 0
    page.context.close()


def test_everything_is_reached_by_keyboard(browser: Browser, pages: dict[str, str]):
    page, _ = opened(browser, pages["whole"], 390, "light")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
    wanted = page.locator(".scroll").count() + page.locator("summary").count()
    reached = set()
    for _ in range(wanted + 5):
        page.keyboard.press("Tab")
        place = page.evaluate(FOCUSED)
        if place[0]:
            reached.add(tuple(place))
    assert len(reached) == wanted
    page.context.close()
