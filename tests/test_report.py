"""The one page: whole, without requests, with what is missing or harmed named, sorted by keys."""

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from benchmarks.evidence import report
from manifold.errors import UserError
from manifold.settings import ROOT, resolve

PUBLISHED = ROOT / "results/published/mini"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
VOID = {"meta", "img", "br", "hr", "input"}


@pytest.fixture
def folder(tmp_path):
    """A folder of results with two studies of mini."""
    made = tmp_path / "mini"
    made.mkdir()
    for name in ("table1", "ablation"):
        for path in PUBLISHED.glob(f"{name}*"):
            shutil.copy(path, made)
    return made


def page(folder):
    return report.page(resolve({"scale": "mini"}), folder)


class Page(HTMLParser):
    """Whether every tag is closed, and what the page asks others for."""

    def __init__(self, text):
        super().__init__()
        self.open, self.asked, self.headings = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name in ("src", "href") and not value.startswith(("#", "data:")):
                self.asked.append(value)
        if re.fullmatch(r"h\d", tag):
            self.headings.append(int(tag[1]))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_asks_nobody(folder):
    text = page(folder)
    read = Page(text)
    assert read.open == [] and read.asked == []
    assert "@import" not in text and "url(" not in text
    steps = zip(read.headings, read.headings[1:], strict=False)
    assert read.headings[0] == 1 and all(after <= before + 1 for before, after in steps)


def test_the_published_page_shows_every_number_of_its_tables():
    text = html.unescape(re.sub(r"<[^>]+>", "|", page(PUBLISHED)))
    for table in sorted(PUBLISHED.glob("*.md")):
        rows = [line for line in table.read_text(encoding="utf-8").splitlines() if "|" in line]
        cells = {cell.strip() for row in rows for cell in row.strip("|").split("|")}
        shown = [cell for cell in cells if re.search(r"\d\.\d", cell) and "\\" not in cell]
        assert shown and [cell for cell in shown if cell not in text] == []


def test_what_was_not_run_is_said_by_its_target(folder):
    text = page(folder)
    assert "Transfer learning: not run (reproduce_transfer makes it)." in text
    assert "Cost:" not in text  # which answers no question of `all`


@pytest.mark.parametrize("harm", [b"\xff\xfe\x00", b"no table at all"])
def test_a_study_that_cannot_be_read_is_named_and_the_rest_stands(folder, harm):
    (folder / "ablation.md").write_bytes(harm)
    text = page(folder)
    is_left_out = "Ablation: left out, since" in text
    assert is_left_out == (harm == b"\xff\xfe\x00") and 'id="table1"' in text
    assert Page(text).open == []


def test_a_harmed_table_is_left_out_of_what_is_in_short(folder):
    (folder / "table1.csv").write_text("method\nsoft_kd\n", encoding="utf-8")
    text = page(folder)
    assert "table1.csv: left out of what is in short" in text and 'id="answer"' not in text


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no study; let snakemake make one first"):
        page(tmp_path)


def test_names_are_text_whatever_stands_in_them(folder):
    path = folder / "table1.md"
    name = r"R&D \<b\>x\</b\> \| \$a\$ \_ 蒸馏 \<script\>alert(1)\</script\>"
    text = path.read_text(encoding="utf-8").replace("Manifold, full", name)
    path.write_text(text, encoding="utf-8")
    made = page(folder)
    assert "R&amp;D &lt;b&gt;x&lt;/b&gt; | $a$ _ 蒸馏 &lt;script&gt;" in made
    assert made.count("<script>") == 1


def test_figures_are_vectors_where_there_are_some(folder):
    assert "data:image/png;base64," in page(folder)
    for path in folder.glob("*.png"):
        path.with_suffix(".svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>", "utf-8")
    text = page(folder)
    assert "data:image/svg+xml;base64," in text and "data:image/png" not in text


def browsed(folder, script, width=1280):
    """What a browser makes of the page after a script, as JSON, and what it complains of."""
    path = folder / "report.html"
    ending = f"<pre id=found></pre><script>{script}</script></body>"
    path.write_text(page(folder).replace("</body>", ending), encoding="utf-8")
    words = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--window-size={width},900"]
    done = subprocess.run(
        [CHROMIUM, *words, "--enable-logging=stderr", "--v=0", "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
    )
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)[1]
    return json.loads(html.unescape(found)), said


needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")


@pytest.mark.slow
@needs_chromium
def test_tables_are_sorted_and_columns_folded_by_keys(folder):
    script = """
    const table = [...document.querySelectorAll("main section:not(.answer) table")][0];
    const button = table.querySelectorAll("th button")[2];
    const rows = table.tBodies[0].rows;
    const column = () => [...rows].map(row => parseFloat(row.cells[2].textContent));
    button.focus();
    const focused = document.activeElement === button;
    button.click();
    const up = column(), sort = table.querySelectorAll("th")[2].getAttribute("aria-sort");
    button.click();
    const down = column();
    const box = document.querySelector(".columns input");
    box.click();
    const hidden = [...table.rows].every(row => row.cells[0].hidden);
    const shown = document.getElementById("found");
    shown.textContent = JSON.stringify({focused, up, down, sort, hidden});
    """
    found, said = browsed(folder, script)
    assert said == [] and found["focused"] and found["hidden"] and found["sort"] == "ascending"
    assert found["up"] == sorted(found["up"]) and found["down"] == found["up"][::-1]


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_but_tables_is_wider_than_the_screen(folder, width):
    script = """
    const root = document.documentElement;
    document.getElementById("found").textContent =
      JSON.stringify({wide: root.scrollWidth, seen: root.clientWidth});
    """
    found, said = browsed(folder, script, width)
    assert said == [] and found["wide"] <= found["seen"]
