"""The one page: whole, without requests, with what is missing or harmed named, sorted by keys."""

import html
import json
import re
import shutil
from html.parser import HTMLParser

import pandas as pd
import pytest

from benchmarks.evidence import report
from manifold.errors import MARK, UserError
from manifold.settings import ROOT, read_yaml, resolve
from manifold.settings.recorded import packed

PUBLISHED = ROOT / "results/published/mini"
VOID = {"meta", "img", "br", "hr", "input"}


@pytest.fixture
def folder(tmp_path):
    """A folder of results with two studies of mini."""
    made = tmp_path / "mini"
    copy_studies(made)
    return made


def copy_studies(folder, names=("table1", "ablation")):
    folder.mkdir()
    for path in (path for name in names for path in PUBLISHED.glob(f"{name}*")):
        shutil.copy(path, folder)


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


def in_short(folder):
    text = re.search(r'<section class="answer".*?</section>', page(folder), re.DOTALL)[0]
    return html.unescape(re.sub(r"<[^>]+>", "", text))


def test_the_published_page_has_no_fault_but_what_was_not_run():
    faults = re.findall(r'<p class="missing">([^<]*)', page(PUBLISHED))
    assert [fault for fault in faults if "not run (reproduce_" not in fault] == []


def test_the_verdicts_are_in_short_and_those_on_this_run_by_name(folder):
    claims = pd.read_csv(folder / "table1_claims.csv")
    short = in_short(folder)
    assert f"{len(claims)} claims, held to these runs: {len(claims)} not comparable" in short
    assert "neither confirmed nor refuted" in short
    claims.loc[claims["id"] == "headline", "verdict"] = "contradicted"
    claims.to_csv(folder / "table1_claims.csv", index=False)
    short = in_short(folder)
    assert "1 contradicted" in short and "headline: contradicted" in short


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


@pytest.fixture
def with_records(folder):
    """The same folder with the records of one method and what its runs were to be."""
    kept = "records/deit-cait/A/2-epochs/manifold"
    shutil.copytree(PUBLISHED / kept, folder / kept)
    return folder


def text_of(folder):
    return html.unescape(re.sub(r"<[^>]+>", " ", page(folder)))


def test_behind_each_number_stand_its_record_and_its_rule(with_records):
    text = text_of(with_records)
    assert "The rule table1 (snakemake reproduce_table1) wrote table1.md, table1.csv" in text
    assert "from 90 runs; the records of 10 are here" in text
    record = "records/deit-cait/A/2-epochs/manifold/seed-3.json"
    assert record in text
    run = json.loads((with_records / record).read_text(encoding="utf-8"))["run"]
    for kind in (run["source_hash"][:8], run["training_hash"][:8], run["teacher_sha256"]):
        assert kind in text
    assert run["data_digest"] in text and run["environment"]["processor"] in text
    assert f"timm {run['environment']['packages']['timm']}" in text
    hours = run["wall_seconds"] / 3600
    assert re.search(r"\d+ trainings of cohorts took [\d.]+ hours", text) and hours > 0


def test_a_record_that_is_harmed_is_named_and_stands_behind_no_number(with_records):
    record = with_records / "records/deit-cait/A/2-epochs/manifold/seed-3.json"
    record.write_bytes(record.read_bytes()[:99])
    text = text_of(with_records)
    assert (
        f"mini/{record.relative_to(with_records)} is no record" in text
        and "the records of 9 are here" in text
    )


def test_a_number_that_is_not_its_records_is_named(with_records):
    path = with_records / "table1_seeds.csv"
    lines = path.read_text(encoding="utf-8").splitlines()
    (place,) = [place for place, line in enumerate(lines) if line.startswith("manifold,3,")]
    lines[place] = re.sub(r"^manifold,3,[\d.]+", "manifold,3,99.5", lines[place])
    path.write_text("\n".join([*lines, "manifold,4,what,,,,,,,,", ""]), encoding="utf-8")
    text = text_of(with_records)
    assert "manifold, deit-cait, seed 3 is 99.5 there and " not in text  # the order of row_names
    assert "deit-cait, manifold, seed 3 is 99.5 there and " in text
    assert "table1_seeds.csv, line 92: left out (ValueError" in text


def test_missing_and_foreign_records_are_named(with_records):
    shutil.copy(PUBLISHED / "experiment.yaml", with_records)
    kept = with_records / "records/deit-cait/A/2-epochs/manifold"
    (kept / "seed-9.json").unlink()
    foreign = with_records / "records/deit-cait/A/2-epochs/manifold/seed-8.json"
    text = (with_records / "experiment.yaml").read_text(encoding="utf-8")
    assert text.count("\n- 7\n- 8\n- 9\n") == 1
    text = text.replace("\n- 7\n- 8\n- 9\n", "\n- 7\n- 9\n")
    (with_records / "experiment.yaml").write_text(text, encoding="utf-8")
    shown = text_of(with_records)
    assert "deit-cait/A/2/manifold is without seed 9" in shown
    assert (
        f"mini/{foreign.relative_to(with_records)} is of no study of" in shown
        and "the records of 8 are here" in shown
    )


def test_what_failed_was_resumed_or_did_not_end_is_said(folder):
    assert "Logs, which tell of failed and resumed runs, are not among" in text_of(folder)
    (folder / "logs").mkdir()
    (folder / "logs/cohort.txt").write_text(
        f"resuming x.pt at step 3\n{MARK}the disk is full\n", encoding="utf-8"
    )
    (folder / "state").mkdir()
    (folder / "state/seed-0.pt").touch()
    text = text_of(folder)
    assert "cohort.txt ends with an error" in text and "the disk is full" in text
    assert "cohort.txt: resumed 1 time(s)" in text
    assert "not ended: state/seed-0.pt is a checkpoint" in text


def test_mixed_code_is_named(with_records):
    path = with_records / "records/deit-cait/A/2-epochs/manifold/seed-3.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    del found["sha256"]
    found["run"]["training_hash"] = "another"
    path.write_text(packed(found), encoding="utf-8")
    assert "mixed: the runs differ in training code" in text_of(with_records)


def test_rows_know_their_family_and_every_method_has_one(folder):
    made = page(folder)
    assert re.search(r'<tr data-family="manifold">\s*<td[^>]*>Manifold, full', made)
    assert re.search(r'<tr data-family="logits">\s*<td[^>]*>Soft KD', made)
    entries = read_yaml(ROOT / "config/methods.yaml")
    assert [name for name, entry in entries.items() if entry.get("family") is None] == []


def test_deviations_are_said(folder):
    text = text_of(folder)
    assert "Table 1: differs from what was registered seeds 0, 1, 2, 3, 4 instead of 0, 1" in text
    assert "Ablation: not registered, so exploratory" in text
    assert "Relations are computed in float32" in text
