"""The page in Debian's Chromium: no request, no complaint, keys, widths, print, accessibility."""

import shutil
from contextlib import contextmanager
from pathlib import Path

import axe_playwright_python
import pandas as pd
import pytest
from playwright.sync_api import sync_playwright
from test_report import PUBLISHED, copy_studies

from benchmarks.evidence import compare, report, webpage
from benchmarks.evidence.comparison import compare as read_two
from benchmarks.evidence.markup import markdown_block
from manifold.settings import resolve

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js")
WIDTHS, HEIGHT = (390, 1280), 900  # of a phone and of a desk, in pixels
PAPER = 1047  # A4 on its side within margins of 10 mm, at 96 dpi

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
        "published": PUBLISHED / report.REPORT,
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


# A column as it is, and as it is sorted: a bound is beside its number, and a dash is the last.
SORTED = [
    (["0.94", "< 0.0001", "\u2014", "1", "0.0001", "0.012"], [1, 4, 5, 0, 3, 2]),
    (["85.46 [85.30, 85.62]", "9.5 [9, 10]", "\u2014", "81.36 [80.95, 81.77]"], [1, 3, 0, 2]),
    (["+0.10 [-0.24, +0.44]", "-1.40 [-1.77, -1.02]", "\u22120.5", "+2.70"], [1, 2, 0, 3]),
    (["12 %", "7 %", "100 %", "0.68 %"], [3, 1, 0, 2]),
    (["10 \u00b1 1", "9 \u00b1 20", "1,098,240", "109,952"], [1, 0, 3, 2]),
    (["76.5 (verbatim)", "1e-05", "72.2 (second-hand, recipe DeiT)", "7 of 9"], [1, 3, 2, 0]),
    (["107e7701", "99abcdef", "", "1234567a"], [1, 0, 3, 2]),  # hashes are text
    (["b", "A", "seed 10", "seed 9"], [1, 0, 3, 2]),
]


def test_numbers_are_sorted_as_what_they_mean(browser, tmp_path):
    tables = (pd.DataFrame({"Value": cells}) for cells, _ in SORTED)
    body = webpage.html("\n\n".join(map(markdown_block, tables)), "Numbers")
    shown = webpage.Shown("numbers", "Numbers", "In which order?", body)
    nothing = dict.fromkeys(("answer", "words", "deviations", "provenance"))
    made = tmp_path / "page.html"
    text = webpage.render(title="T", lead="", studies=[shown], faults=[], figures=[], **nothing)
    made.write_text(text, encoding="utf-8")
    with opened(browser, made, WIDTHS[1]) as page:
        for table, (cells, places) in zip(page.locator("table").all(), SORTED, strict=True):
            up = [cells[place] for place in places]
            last = [cell for cell in up if cell in ("\u2014", "")]
            table.locator("th button").focus()
            for order in (up, [*up[: len(up) - len(last)][::-1], *last]):
                page.keyboard.press("Enter")
                assert table.locator("tbody tr").all_inner_texts() == order


def test_all_columns_are_on_the_paper(pages, browser):
    with opened(browser, pages["published"], PAPER) as page:
        page.emulate_media(media="print")
        script = "tables => tables.map(each => each.getBoundingClientRect().right)"
        assert 0 < max(page.locator("table").evaluate_all(script)) <= PAPER


def test_what_is_clicked_is_not_printed(pages, browser):
    with opened(browser, pages["report"], PAPER) as page:
        page.emulate_media(media="print")
        assert not page.locator("nav").is_visible()
        assert not page.locator(".choice").first.is_visible()
        assert page.locator("table").first.is_visible()
