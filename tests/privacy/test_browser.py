"""The page as a browser and a printer have it: what is signed fits on one sheet."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from siamdiff.privacy.examine import Settings
from siamdiff.privacy.report import write_report
from tests.conftest import CHROMIUM
from tests.privacy.sets import drawn, phantoms, real_set, synthetic_set
from tests.report.test_browser import CONTRAST, OVERFLOWING, opened

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on PATH")
SHEET = (680, 1016)  # pixels of A4 within the margins of the style sheet
WIDTHS = [
    ("privacy.html", 1280, "light"),
    ("privacy.html", 390, "dark"),
    ("privacy-share.html", 390, "light"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A report in which most fails, with much to say."""
    root = tmp_path_factory.mktemp("page")
    images = phantoms(8, side=32)
    real = real_set(f"{root}/data", images, 2)
    prompt = "seen 19610312, anna@clinic.example, MUELLER^ANNA, 1.2.840.113619.2.55.3, IMG_1.dcm, 4711882991"
    samples = [drawn(image, i, prompt=prompt) for i, image in enumerate([*images[:2], *phantoms(2, 5, 32)])]
    synthetic_set(f"{root}/s", samples, real)
    shutil.copy(__file__, f"{root}/s/notes.txt")
    now = datetime(2026, 11, 29, tzinfo=UTC)
    return write_report(f"{root}/s", Settings(quantile=0.4, members=0), now, share=True).folder


@pytest.mark.parametrize(("name", "width", "scheme"), WIDTHS)
def test_the_page_reads_well(browser: Browser, folder: str, name: str, width: int, scheme: str):
    page, others = opened(browser, str(Path(folder, name)), width, scheme)
    assert others == []
    page.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(OVERFLOWING) == [] and page.evaluate(CONTRAST) == []
    assert page.evaluate(
        "[...document.images].every(e => e.complete && e.naturalWidth > 0 && e.alt.length > 20)"
    )
    assert page.locator("table").count() == page.locator("table > caption").count() > 3
    page.context.close()


@pytest.mark.parametrize("name", ["privacy.html", "privacy-share.html"])
def test_what_is_signed_fits_on_one_sheet(browser: Browser, folder: str, name: str):
    context = browser.new_context(viewport={"width": SHEET[0], "height": SHEET[1]}, offline=True)
    page = context.new_page()
    page.emulate_media(media="print")
    page.goto(Path(folder, name).as_uri())
    box = page.locator(".sheet").bounding_box()
    assert box and box["y"] + box["height"] <= SHEET[1]
    assert page.locator(".sheet .signature").is_visible()
    context.close()
