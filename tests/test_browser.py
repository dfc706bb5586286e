"""The page in Debian's Chromium: no request, no complaint, keys, widths, print, accessibility."""

import shutil
from contextlib import contextmanager
from pathlib import Path

import axe_playwright_python
import pandas as pd
import pytest
from playwright.sync_api import sync_playwright
from test_report import copy_studies

from benchmarks.evidence import compare, report
from benchmarks.evidence.comparison import compare as read_two
from manifold.settings import resolve

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js")
WIDTHS, HEIGHT = (390, 1280), 900  # of a phone and of a desk, in pixels

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed (Debian's package)"),
]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The report of two studies, and a comparison of two folders."""
    root = tmp_path_factory.mktemp("pages")
    folder, other, mini = root / "mini", root / "other", resolve({"scale": "mini"})
    copy_studies(folder)
    copy_studies(other, ("ablation",))
    (folder / "report.html").write_text(report.page(mini, folder), encoding="utf-8")
    seeds = pd.read_csv(other / "ablation_seeds.csv")
    seeds.assign(top1=seeds["top1"] + 1).to_csv(other / "ablation_seeds.csv", index=False)
    return {
        "report": folder / "report.html",
        "comparison": compare.write(read_two(folder, other, mini), folder),
    }


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@contextmanager
def opened(browser, path, width, scheme="light"):
    """The page in a window; it may say nothing, and ask for nothing but itself."""
    context = browser.new_context(viewport={"width": width, "height": HEIGHT}, color_scheme=scheme)
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url))
    page.goto(path.as_uri())
    yield page
    assert [line for line in said if not line.startswith("data:")] == [path.as_uri()]
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["report", "comparison"])
def test_axe_finds_nothing_serious_and_nothing_is_wider_than_the_screen(
    pages, browser, name, width, scheme
):
    with opened(browser, pages[name], width, scheme) as page:
        page.evaluate("for (const each of document.querySelectorAll('.choice')) each.open = true")
        root = "document.documentElement"
        assert page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth")
        assert page.evaluate("innerWidth") == width
        page.evaluate(AXE.read_text(encoding="utf-8"))
        # Of all rules a scheme changes what one finds.
        rules = {"light": {}, "dark": {"runOnly": ["color-contrast"]}}[scheme]
        found = page.evaluate("rules => axe.run(rules)", rules)
        assert len(found["passes"]) > (10 if scheme == "light" else 0)
        assert [
            (each["id"], each["impact"], each["nodes"][0]["html"])
            for each in found["violations"]
            if each["impact"] in ("serious", "critical")
        ] == []


def test_tables_are_sorted_folded_and_filtered_by_keys(pages, browser):
    with opened(browser, pages["report"], WIDTHS[1]) as page:
        table = page.locator("section[aria-labelledby=table1] table").first
        top1 = "rows => rows.map(row => parseFloat(row.cells[1].textContent))"
        rows = table.locator("tbody tr")
        head = table.locator("th").nth(1)
        head.locator("button").focus()
        page.keyboard.press("Enter")
        up = rows.evaluate_all(top1)
        assert head.get_attribute("aria-sort") == "ascending" and up == sorted(up)
        page.keyboard.press("Space")
        assert rows.evaluate_all(top1) == up[::-1]
        assert head.get_attribute("aria-sort") == "descending"

        columns = page.locator("section[aria-labelledby=table1] .choice", has_text="Columns").first
        columns.locator("summary").focus()
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        page.keyboard.press("Space")
        assert not table.locator("th").first.is_visible() and head.is_visible()

        families = page.locator("section[aria-labelledby=table1] .choice", has_text="Families")
        families.first.locator("summary").focus()
        page.keyboard.press("Enter")
        families.first.get_by_label("logits").focus()
        page.keyboard.press("Space")
        shown = [row.is_visible() for row in rows.all()]
        logits = [row.get_attribute("data-family") == "logits" for row in rows.all()]
        assert any(logits) and shown == [not each for each in logits]


def test_what_is_clicked_is_not_printed(pages, browser):
    with opened(browser, pages["report"], 794) as page:  # A4 at 96 dpi
        page.emulate_media(media="print")
        assert not page.locator("nav").is_visible()
        assert not page.locator(".choice").first.is_visible()
        assert page.locator("table").first.is_visible()
