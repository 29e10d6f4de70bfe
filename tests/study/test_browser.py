"""The study as readers have it: in a real browser, two of them, with a server that dies and a tab that is closed."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from siamdiff.study.answers import Answer, Answers
from siamdiff.study.folder import ANSWERS, read_study
from siamdiff.study.making import Made
from tests.conftest import CHROMIUM
from tests.report.test_browser import CONTRAST
from tests.study.sets import Server, small_study

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on PATH")

SAVED, WAITING = '#saving[data-state="saved"]', '#saving[data-state="waiting"]'
# What can be pressed and is smaller than a finger.
SMALL = """() => [...document.querySelectorAll('button, select, input, textarea')].filter(e => {
    const box = e.getBoundingClientRect();
    return box.width && (box.width < 43.5 || box.height < 43.5);
}).map(e => e.outerHTML.slice(0, 80))"""
WIDE = """() => [...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1
    && !e.closest('.stage')).map(e => e.outerHTML.slice(0, 80))"""
NAMELESS = """() => [...document.querySelectorAll('button, select, input, textarea, [role=group], dialog')].filter(e =>
    !(e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || e.textContent.trim() || e.labels?.length)
    && e.getClientRects().length).map(e => e.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return small_study(tmp_path_factory.mktemp("browser"), readers=5, each=4)


@pytest.fixture(scope="module")
def server(made: Made) -> Iterator[Server]:
    with Server(made.place) as found:
        yield found


def sign_in(context: BrowserContext, url: str, code: str) -> Page:
    page = context.new_page()
    page.goto(url)
    page.fill("#code", code.lower().replace("-", " "))
    page.keyboard.press("Enter")
    page.wait_for_selector("#intro:visible, #resting:visible")
    return page


def rate(page: Page, answer: Answer) -> None:
    """One image, by keyboard alone."""
    page.keyboard.press("r" if answer.verdict == "real" else "s")
    page.keyboard.press(str(answer.realism))
    page.keyboard.press(str(answer.confidence))


def go_on(page: Page, at: int) -> None:
    page.keyboard.press("Enter")
    page.wait_for_function(f"document.getElementById('rating-title').textContent.startsWith('Image {at} ')")
    page.wait_for_selector("#image:visible")


def wanted(reader: str, images: int) -> list[Answer]:
    rng = np.random.default_rng(len(reader) + int(reader[-1]))
    return [
        Answer(
            verdict=("real", "synthetic")[rng.integers(2)],
            realism=int(rng.integers(1, 6)),
            confidence=int(rng.integers(1, 6)),
        )
        for _ in range(images)
    ]


def test_two_readers_lose_nothing_when_the_server_is_killed_and_a_tab_is_closed(
    browser: Browser, made: Made, server: Server
):
    orders = {reader: read_study(made.place).orders[reader] for reader in ("reader-1", "reader-2")}
    answers = {reader: wanted(reader, len(order)) for reader, order in orders.items()}
    contexts = {reader: browser.new_context(viewport={"width": 1280, "height": 800}) for reader in orders}
    pages = {reader: sign_in(contexts[reader], server.url, made.codes[reader]) for reader in orders}
    for page in pages.values():
        page.keyboard.press("Enter")
        page.wait_for_selector("#image:visible")
    for at in range(10):  # in turns, as readers do
        for reader, page in pages.items():
            rate(page, answers[reader][at])
            if at < 9:
                go_on(page, at + 2)
    first, second = pages.values()
    server.kill()
    # both go on while nobody listens; one closes the tab, the other waits
    for reader, page in pages.items():
        go_on(page, 11)
        rate(page, answers[reader][10])
        page.wait_for_selector(WAITING)
    first.close()
    server.start()
    second.wait_for_selector(SAVED, timeout=15_000)
    first = contexts["reader-1"].new_page()
    first.goto(server.url)  # still signed in
    first.wait_for_selector("#resting:visible")
    assert first.inner_text("#resting-text").startswith("11 of 20")
    first.wait_for_selector(SAVED)
    first.keyboard.press("Enter")
    second.keyboard.press("Enter")
    for (reader, _), page in zip(pages.items(), (first, second), strict=True):
        for at in range(11, 20):
            page.wait_for_selector("#image:visible")
            rate(page, answers[reader][at])
            if at < 19:
                go_on(page, at + 2)
        page.keyboard.press("Enter")
        page.wait_for_selector("#resting:visible")
        assert page.inner_text("#resting-title").startswith("All images are answered")
        page.wait_for_selector(SAVED)
    kept = Answers(made.place / ANSWERS, read_study(made.place).id)
    for reader, order in orders.items():
        found = kept.of(reader)
        assert [found[name].answer.model_copy(update={"seconds": 0.0}) for name in order] == answers[reader]
        assert all(0 < found[name].answer.seconds < 60 for name in order)
    for context in contexts.values():
        context.close()
    for code in made.codes.values():
        assert code not in server.log


def test_marks_going_back_and_two_windows(browser: Browser, made: Made, server: Server):
    order = read_study(made.place).orders["reader-3"]
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = sign_in(context, server.url, made.codes["reader-3"])
    other = context.new_page()
    other.goto(server.url)
    for window in (page, other):
        window.wait_for_selector("#intro:visible")
        window.keyboard.press("Enter")
        window.wait_for_selector("#image:visible")
    box = page.locator("#image").bounding_box()
    assert box
    page.mouse.click(box["x"] + box["width"] * 0.25, box["y"] + box["height"] * 0.75)
    page.click("#chips button:has-text('Blur')")
    page.keyboard.press("m")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")  # the second reason
    page.fill("#words", "a remark with 5 and r")
    page.keyboard.press("Escape")
    rate(page, Answer(verdict="real", realism=4, confidence=2))
    page.wait_for_selector(SAVED)
    # the other window knows nothing of that: what it says is refused, and it shows what holds
    other.keyboard.press("s")
    other.wait_for_selector("#notice:visible")
    assert other.get_attribute('[data-value="real"]', "aria-pressed") == "true"
    other.keyboard.press("s")
    other.wait_for_selector(SAVED)
    go_on(page, 2)
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("document.getElementById('rating-title').textContent.startsWith('Image 1 ')")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert "question 1" in page.inner_text("#notice")  # image 2 is not answered
    page.keyboard.press("p")
    assert page.is_visible("#resting") and page.locator(".overview button:enabled").count() == 2
    kept = Answers(made.place / ANSWERS, read_study(made.place).id)
    answer = kept.of("reader-3")[order[0]].answer
    assert (answer.verdict, answer.realism, answer.words) == ("synthetic", 4, "a remark with 5 and r")
    assert [(mark.x, mark.y, mark.reason) for mark in answer.marks] == [
        (pytest.approx(0.25, abs=0.01), pytest.approx(0.75, abs=0.01), "blur"),
        (0.58, 0.5, "colour"),
    ]
    refused = [change for change in kept.changes() if change["refused"]]
    assert [(change["reader"], change["image"]) for change in refused] == [("reader-3", order[0])]
    context.close()


def test_a_tab_does_not_give_its_answers_to_who_signed_in_beside_it(
    browser: Browser, made: Made, server: Server
):
    order = read_study(made.place).orders["reader-4"]
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = sign_in(context, server.url, made.codes["reader-4"])
    page.keyboard.press("Enter")
    page.wait_for_selector("#image:visible")
    rate(page, Answer(verdict="real", realism=4, confidence=2))
    page.wait_for_selector(SAVED)
    other = context.new_page()
    other.goto(server.url)
    other.wait_for_selector("#resting:visible")
    assert other.inner_text("#reader") == "reader-4"
    # a sign-out that does not arrive is told, and nobody takes the place of who is still signed in
    other.route("**/api/session", lambda route: route.abort())
    other.click("#sign-out")
    other.wait_for_function(
        "document.getElementById('sign-out-error').textContent.includes('still signed in')"
    )
    assert other.is_visible("#resting")
    other.unroute("**/api/session")
    other.click("#sign-out")
    other.fill("#code", made.codes["reader-5"])
    other.keyboard.press("Enter")
    other.wait_for_selector("#intro:visible")
    other.wait_for_function("document.getElementById('reader').innerText === 'reader-5'")
    page.keyboard.press("s")
    page.wait_for_selector("#sign-in:visible")
    assert "reader-4" in page.inner_text("#sign-in-error") and not page.is_visible("#reader")
    kept = Answers(made.place / ANSWERS, read_study(made.place).id)
    assert kept.of("reader-4")[order[0]].answer.verdict == "real" and not kept.of("reader-5")
    page.fill("#code", made.codes["reader-4"])
    page.keyboard.press("Enter")
    page.wait_for_selector("#image:visible")
    page.wait_for_selector(SAVED)
    assert kept.of("reader-4")[order[0]].answer.verdict == "synthetic" and not kept.of("reader-5")
    context.close()


def test_who_gets_no_image_for_want_of_a_session_signs_in_again(browser: Browser, made: Made, server: Server):
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = sign_in(context, server.url, made.codes["reader-5"])
    context.clear_cookies()
    page.keyboard.press("Enter")
    page.wait_for_selector("#sign-in:visible")
    page.fill("#code", made.codes["reader-5"])
    page.keyboard.press("Enter")
    page.wait_for_selector("#image:visible")
    assert page.inner_text("#rating-title").startswith("Image 1 ")
    context.close()


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (820, 1180), (390, 844)])
def test_a_page_reads_well_and_fits_fingers(
    browser: Browser, made: Made, server: Server, tmp_path: Path, width: int, height: int
):
    touch = width < 1000
    context = browser.new_context(
        viewport={"width": width, "height": height}, has_touch=touch, is_mobile=touch
    )
    heard: list[str] = []
    page = context.new_page()
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("request", lambda request: heard.append(request.url))
    page.goto(server.url)
    page.wait_for_selector("#code:visible")
    screens = [page.screenshot(path=tmp_path / "sign-in.png")]
    check(page, width)
    page.fill("#code", made.codes["reader-2"])
    page.click("#sign-in-form button")
    page.wait_for_selector("#intro:visible, #resting:visible")
    check(page, width)
    page.click("#begin:visible, #resume:visible")
    page.wait_for_selector("#image:visible")
    press = page.tap if touch else page.click
    press("#canvas", position={"x": 90, "y": 120})
    check(page, width)
    press("#chips button:nth-child(2)")
    press('[data-value="synthetic"]')
    press('[data-question="realism"] [data-value="2"]')
    screens.append(page.screenshot(path=tmp_path / "rating.png"))
    check(page, width)
    box = page.locator("#image").bounding_box()
    assert box and box["width"] > 0.75 * min(width - 400 if not touch else width, height - 160, 0.6 * height)
    press('[data-zoom="4"]')
    assert page.locator("#image").bounding_box()["width"] == 4 * 64  # type: ignore[index]
    press("#help-open")
    check(page, width)
    page.click("#help button")
    press("#pause")
    check(page, width)
    allowed = ("blob:", server.url, "Failed to load resource: the server responded with a status of 401")
    assert [text for text in heard if not text.startswith(allowed)] == []
    assert all(len(screen) > 5000 for screen in screens)
    context.close()


def check(page: Page, width: int) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(WIDE) == []
    assert page.evaluate(SMALL) == []
    assert page.evaluate(CONTRAST) == []
    assert page.evaluate(NAMELESS) == []
