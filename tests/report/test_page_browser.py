"""The page in a real browser, from a file and with the network off: it works, and everybody can use it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.report.page.folder import read_folders
from harness.report.page.page import page as page_of
from tests.support.tables import HOSTILE, write_tables_of

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS = (380, 800, 1400)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium (apt-get install chromium)")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        # Chromium refuses to run as root in its sandbox, which is what a container of a CI is.
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"] if os.getuid() == 0 else [])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """A page of two folders, with hostile text wherever a table holds text."""
    folder = tmp_path_factory.mktemp("page")
    tables = [
        write_tables_of(folder / "cpu", hostile=HOSTILE),
        write_tables_of(folder / "gpu", device="cuda NVIDIA Test 80GB 9.0", hostile=HOSTILE),
    ]
    target: Path = folder / "report.html"
    target.write_text(page_of(read_folders(tables), target), encoding="utf-8")
    return target


class Visit:
    """A page that was opened, and all that it said and asked for."""

    def __init__(self, browser: Any, file: Path, **options: Any) -> None:
        self.context = browser.new_context(offline=True, **options)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.as_uri())

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


@pytest.mark.parametrize("scripts", [True, False], ids=["with JavaScript", "without"])
def test_it_renders_from_a_file_asks_for_nothing_and_says_nothing(browser, file, scripts):
    with Visit(browser, file, java_script_enabled=scripts) as visit:
        page = visit.page
        assert page.get_by_role("heading", level=3).all_inner_texts() == ["2.7.1 → 2.8.0"]
        assert "1 of 2 steps" in page.locator(".verdict").inner_text()
        assert page.locator("svg").count() == 4
        for details in page.locator("details").all():
            if details.get_attribute("open") is None and details.is_visible():
                details.locator("summary").first.click()
        assert page.get_by_role("cell", name="result of 2.7.1").first.is_visible()
        assert page.locator("svg").first.is_visible()
        assert page.get_by_role("button").count() == (0 if not scripts else page.get_by_role("button").count())
        assert visit.asked == [file.as_uri()]
        assert visit.said == []


def test_hostile_text_stays_text(browser, file):
    with Visit(browser, file) as visit:
        visit.page.get_by_role("button", name="Unfold all").click()
        assert visit.page.evaluate("window.hacked") is None
        assert visit.page.locator("img").count() == 0
        assert HOSTILE in visit.page.locator("main").inner_text()
        assert any(HOSTILE[:31] in text for text in visit.page.locator("svg text").all_text_contents())
        assert visit.said == []


def test_a_table_sorts_both_ways_by_numbers_and_by_the_keyboard(browser, file):
    with Visit(browser, file) as visit:
        visit.page.get_by_role("button", name="Unfold all").click()
        table = visit.page.locator("#provenance ~ details table").first
        cells = table.locator("tbody th")
        before = cells.all_inner_texts()
        head = table.get_by_role("columnheader", name="Cell", exact=True)
        head.get_by_role("button").focus()
        visit.page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == "ascending"
        assert cells.all_inner_texts() == before == ["2.7.0", "2.7.1", "2.8.0", "2.9.0"]
        visit.page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == "descending"
        assert cells.all_inner_texts() == before[::-1]
        sizes = visit.page.locator("table", has_text="That in ULP").first
        sizes.get_by_role("button", name="Artifact").click()
        assert sizes.locator("tbody th").all_inner_texts()[1:] == ["centroids", "embs_0"]


def test_a_table_filters_and_says_how_many_are_left(browser, file):
    with Visit(browser, file) as visit:
        visit.page.get_by_role("button", name="Unfold all").click()
        table = visit.page.locator("#provenance ~ details table").first
        box = visit.page.get_by_label("Filter cells").first
        box.fill("crashed")
        assert [row.is_visible() for row in table.locator("tbody tr").all()] == [False, False, False, True]
        assert visit.page.locator("output", has_text="1 of 4").count() == 1
        box.fill("")
        assert all(row.is_visible() for row in table.locator("tbody tr").all())


def test_a_link_opens_what_it_leads_into_and_unfolding_folds_again(browser, file):
    with Visit(browser, file) as visit:
        closed = visit.page.locator("details:not([open])")
        assert closed.count() > 5
        visit.page.locator("#ladder ~ .scroll a[href='#ladder-1']").click()
        assert visit.page.locator("#ladder-1").get_attribute("open") is not None
        visit.page.get_by_role("button", name="Unfold all").click()
        assert closed.count() == 0
        visit.page.get_by_role("button", name="Fold all").click()
        assert visit.page.locator("details[open]").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_and_nothing_hangs_over_at_any_width(browser, file, scheme):
    from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]

    with Visit(browser, file, color_scheme=scheme) as visit:
        visit.page.get_by_role("button", name="Unfold all").click()
        for width in WIDTHS:
            visit.page.set_viewport_size({"width": width, "height": 900})
            assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
            found = Axe().run(visit.page)
            assert found.violations_count == 0, found.generate_report()


def test_states_are_told_apart_without_colour_and_read_aloud(browser, file):
    with Visit(browser, file) as visit:
        visit.page.get_by_role("button", name="Unfold all").click()
        shapes = {
            name: visit.page.locator(f".legend .{name}").evaluate("it => getComputedStyle(it, '::before').content")
            for name in ("equal", "close", "changed", "noise", "unknown")
        }
        assert len(set(shapes.values())) == 5
        row = visit.page.get_by_role("table", name="In the order of the pipeline").first.get_by_role(
            "row", name="embs_0"
        )
        assert row.get_by_role("cell").all_text_contents() == ["equal", "changed", "unknown"]


def test_print_shows_what_is_folded(browser, file):
    with Visit(browser, file) as visit:
        cell = (
            visit.page.get_by_role("cell", name="triton", exact=True)
            .or_(visit.page.get_by_role("columnheader", name="Required by"))
            .first
        )
        assert not visit.page.get_by_role("columnheader", name="Required by").first.is_visible()
        visit.page.evaluate("dispatchEvent(new Event('beforeprint'))")
        visit.page.emulate_media(media="print")
        assert visit.page.get_by_role("columnheader", name="Required by").first.is_visible()
        assert not visit.page.locator("nav").is_visible()
        assert cell.is_visible()


def test_the_published_page_is_sound(browser):
    published = Path(__file__).parents[2] / "results" / "report.html"
    with Visit(browser, published, viewport={"width": 380, "height": 800}) as visit:
        visit.page.get_by_role("button", name="Unfold all").click()
        assert visit.page.evaluate("document.documentElement.scrollWidth") == 380
        assert visit.asked == [published.as_uri()]
        assert visit.said == []
        broken = [
            link
            for link in visit.page.locator("a").evaluate_all("all => all.map(one => one.getAttribute('href'))")
            if not link.startswith("#") and not (published.parent / link).exists()
        ]
        assert broken == []
