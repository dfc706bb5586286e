"""The one page: whole, without requests, with what is missing or harmed named, sorted by keys."""

import html
import json
import re
import shutil
from html.parser import HTMLParser

import pandas as pd
import pytest

from benchmarks.evidence import answer, report, sums
from benchmarks.evidence.markup import markdown_text
from benchmarks.evidence.publish import in_short as in_words_of
from benchmarks.evidence.registered import words_of
from manifold.errors import MARK, UserError
from manifold.settings import ROOT, read_yaml, resolve
from manifold.settings.recorded import packed

PUBLISHED = ROOT / "results/published/mini"
VOID = {"meta", "img", "br", "hr", "input"}


@pytest.fixture
def folder(tmp_path):
    """A folder of results with two studies of mini, one of them without figures as vectors."""
    made = tmp_path / "mini"
    copy_studies(made)
    (made / "ablation.svg").unlink()
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_published_page_has_no_fault_but_what_was_not_run():
    faults = re.findall(r'<p class="missing">([^<]*)', page(PUBLISHED))
    assert [fault for fault in faults if ": nothing of it is here" not in fault] == []


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
    assert "Transfer learning: nothing of it is here (snakemake reproduce_transfer makes" in text
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
    assert "table1.csv: left out of what is in short" in text
    short = in_short(folder)
    assert "Who is ahead is not said here: table1.csv cannot be read." in short
    assert "Manifold, decoupled − FitNet: -0.47 [-0.65, -0.28] points, behind" in short


def test_each_pair_of_a_table_answers_in_short():
    rows = pd.read_csv(PUBLISHED / "table1.csv")
    both = pd.concat([rows, rows.assign(pair="other", top1_mean=rows["top1_mean"] + 1)])
    experiment = resolve({"scale": "mini"})
    one, two = in_words_of(rows, experiment), in_words_of(both, experiment)
    assert two.startswith(f"**deit-cait.** {one}\n\n**other.** Fashion-MNIST")
    assert "The teacher reaches 89.99 %." in two and "The teacher reaches 89.99 %." not in one


def test_a_scale_whose_files_are_missing_leaves_the_page_of_another_whole(folder, monkeypatch):
    def resolve_but_cifar10(given):
        if given["scale"] == "cifar10":
            raise UserError("pairs.deit-cait.teacher.weights: no file student.safetensors")
        return resolve(given)

    answer._scales.cache_clear()
    monkeypatch.setattr(answer, "resolve", resolve_but_cifar10)
    short = in_short(folder)
    answer._scales.cache_clear()
    assert "What is published of the scale cifar10 is not said, since pairs.deit-cait." in short
    assert "in results/published/cifar10" not in short and "No study is published of" in short


def test_the_page_says_in_short_what_the_readme_says(folder):
    """The question, who is ahead of the paper's method, what was not run, and a figure."""
    text = page(folder)
    made = re.search(r'<section class="answer".*?</section>', text, re.DOTALL)[0]
    assert "Is a method's student ahead of soft KD's" in made
    assert "FitNet: -0.47 [-0.65, -0.28] points, behind" in made
    assert made.count("<img") == 1 and text.count("<img") == 2  # that of Table 1 once
    shown = html.unescape(re.sub(r"<[^>]+>", "", made))
    assert "Ablation, 5 seeds: told from the reference: Manifold, inter-image term" in shown
    assert re.search(r"Not on this page: .*Transfer learning", shown)
    assert re.search(
        r"Published of CIFAR-10 .*: Table 1; The gain .*, in results/published/cifar10",
        shown,
    )
    none = re.search("No study is published of: (.*)", shown)[1]
    assert "ImageNet-1k" in none and "cifar100" in none and "Fashion" not in none


@pytest.mark.slow
def test_of_the_other_studies_stands_what_the_correction_leaves(tmp_path):
    """A single interval of many is no answer."""
    copy_studies(tmp_path / "mini", ("table1", "recipes", "ablation", "transfer"))
    text = in_short(tmp_path / "mini").partition("The other studies")[2]
    assert "Ablation, 5 seeds: told from the reference: Manifold, inter-image term" in text
    assert "Recipe A, 4 epochs, told from Soft KD: none" in text
    assert "Recipe B, 4 epochs, told from Soft KD: FitNet; SpectralKD" in text
    assert "Transfer learning, 3 seeds: its words are single intervals or describe" in text
    assert "ahead of" not in text and "behind Soft KD" not in text


def test_of_a_study_that_was_registered_stands_the_test_that_decides(tmp_path):
    copy_studies(tmp_path / "mini", ("table1", "bench"))
    text = in_short(tmp_path / "mini").partition("The other studies")[2]
    line = text.partition("The full bench, 5 seeds: ")[2].partition("\n")[0]
    assert line.startswith("in the block model, by Dunnett's comparison over its 38 methods at")
    assert "Manifold on cross-entropy" in line and "told from" not in line


def lost(folder, name):
    (folder / name).unlink()


def emptied(folder, name):
    (folder / name).write_bytes(b"")


def broken(folder, name):
    (folder / name).write_bytes(b"\xff\xfe\x00")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("harm", "name", "said"),
    [
        (lost, "table1.csv", "mini/table1.csv is missing"),
        (lost, "table1.md", "Table 1: not shown, since mini/table1.md is missing; table1.csv, "),
        (emptied, "ablation.png", "mini/ablation.png is empty"),
        (
            broken,
            "ablation.png",
            "mini/ablation.png: left out, since mini/ablation.png is no whole",
        ),
        (lost, "ablation.png", "mini/ablation: the figure is missing"),
        (broken, "table1_claims.csv", "mini/table1_claims.csv: left out of what is in short"),
        (broken, "times.csv", "mini/times.csv: left out of the provenance, since 'utf-8' codec"),
        (broken, "experiment.yaml", "mini/experiment.yaml: "),
    ],
)
def test_a_harmed_file_is_named_and_the_page_stands(folder, harm, name, said):
    if name == "ablation.png" and harm is lost:
        lost(folder, "ablation.pdf")
    (folder / name).touch()
    harm(folder, name)
    text = page(folder)
    assert said in html.unescape(" ".join(re.findall(r'<p class="missing">(.*?)</p>', text)))
    assert 'id="ablation"' in text and Page(text).open == []
    assert "was not run there" not in text


def test_what_is_not_as_it_was_published_is_named(folder):
    sums.write(folder)
    assert "SHA256SUMS" not in page(folder)
    (folder / "report.html").write_text("of another day", encoding="utf-8")
    assert "SHA256SUMS" not in page(folder)  # the page itself is about to be written
    path = folder / "table1_seeds.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("8", "9", 1), encoding="utf-8")
    (folder / "ablation.tex").unlink()
    (folder / "mine.csv").touch()
    text = page(folder)
    for said in (
        "mini/table1_seeds.csv was altered: its SHA-256 is not that of SHA256SUMS",
        "mini/ablation.tex is missing; SHA256SUMS lists it",
        "mini/mine.csv is not in SHA256SUMS",
    ):
        assert said in text


@pytest.mark.slow
def test_a_folder_says_itself_what_it_is_of(tmp_path, monkeypatch, capsys):
    cifar10 = PUBLISHED.with_name("cifar10")
    output = tmp_path / "page.html"
    words = ["report", "--folder", str(cifar10), "--output", str(output)]
    monkeypatch.setattr("sys.argv", words)
    report.main()
    text = output.read_text(encoding="utf-8")
    assert "CIFAR-10 as JPEGs" in text.partition("</header>")[0]
    assert "Registered, in results/registered/cifar10.yaml" in text
    assert "reproduce_bench" not in text  # which is no study of it
    assert text == report.page(resolve({"scale": "mini"}), cifar10)
    for more in (["--config", "scale=mini"], ["--experiment", str(cifar10 / "experiment.yaml")]):
        monkeypatch.setattr("sys.argv", [*words, *more])
        with pytest.raises(UserError, match="says what the folder is of; leave --config and"):
            report.main()


def test_a_folder_that_does_not_say_what_it_is_of_is_asked_for(folder, monkeypatch):
    words = ["report", "--folder", str(folder)]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(
        UserError, match=r"mini has no experiment\.yaml; say what it is of, as in --c"
    ):
        report.main()
    monkeypatch.setattr("sys.argv", [*words, "--config", "scale=mini"])
    report.main()
    assert "Fashion-MNIST" in (folder / "report.html").read_text(encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["report", "--folder", str(folder / "none")])
    with pytest.raises(UserError, match="no such folder of results"):
        report.main()


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(
        UserError,
        match=r"holds no study, and the page makes none; .* snakemake .* reproduce_table1 report",
    ):
        page(tmp_path)


def test_names_are_text_whatever_stands_in_them(folder):
    path = folder / "table1.md"
    name = r"R&D \<b\>x\</b\> \| \$a\$ \_ 蒸馏 \<script\>alert(1)\</script\>"
    text = path.read_text(encoding="utf-8").replace("Manifold, full", name)
    path.write_text(text, encoding="utf-8")
    made = page(folder)
    assert "R&amp;D &lt;b&gt;x&lt;/b&gt; | $a$ _ 蒸馏 &lt;script&gt;" in made
    assert made.count("<script>") == 1


ODD = "![i](http://x.y/z.png) R&D | $a_b$ _it_ <http://x.y/> [u](http://x.y/) 蒸馏"


def test_odd_names_keep_their_rows_and_ask_nobody(folder):
    """In what is in short, in verdicts, captions, labels and the description."""
    for name in ("table1.csv", "table1_claims.csv"):
        rows = pd.read_csv(folder / name)
        key = "title" if name == "table1.csv" else "verdict"
        rows.loc[rows.index[-2], key] = ODD
        rows.to_csv(folder / name, index=False)
    # As a study writes it, and as another hand would.
    for name, odd in (("ablation.md", markdown_text(ODD)), ("table1.md", ODD)):
        path = folder / name
        text = path.read_text(encoding="utf-8").replace("Fashion-MNIST 28×28", odd)
        path.write_text(f"{text}\n[u]: http://x.y/z.png\n", encoding="utf-8")
    definitions = {"soft_kd": {"title": ODD}}
    given = {"scale": "mini", "description": ODD, "method_definitions": definitions}
    text = report.page(resolve(given), folder)
    read = Page(text)
    assert read.open == [] and read.asked == [] and "<a href=" not in text.partition("<main")[2]
    shown = html.unescape(re.sub(r"<[^>]+>", "", text))
    assert f"\n{ODD}\n" in shown and f"Gain over {ODD}" in shown and f"1 {ODD}" in shown
    assert f'alt="Ablation, as a figure of its table. Scale mini: {html.escape(ODD, False)}' in text
    short = re.search(r'<section class="answer".*?</table>', text, re.DOTALL)[0]
    rows = [row.count("<td") for row in re.findall("<tr.*?</tr>", short, re.DOTALL)]
    assert set(rows) == {0, 4}


def test_a_registration_is_text_whatever_stands_in_it(folder, tmp_path):
    said = (ROOT / "results/registered/mini.yaml").read_text(encoding="utf-8")
    path = tmp_path / "said`s.yaml"
    path.write_text(f"{said}# ```\n# ![i](http://x.y/z.png) <b>\n", encoding="utf-8")
    text = report.page(resolve({"scale": "mini", "registered": str(path)}), folder)
    assert "# ```\n# ![i](http://x.y/z.png) &lt;b&gt;" in text and Page(text).asked == []
    assert "said`s.yaml" in text


def test_a_table_is_labelled_by_its_study_and_section(folder):
    text = page(folder)
    labels = re.findall('<table[^>]* aria-label="([^"]*)"', text)
    assert len(labels) == len(set(labels)) == text.count("<table")
    assert {"In short", "Table 1", "Table 1: Between two methods", "Ablation"} <= set(labels)
    assert "a table that scrolls" not in text


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


def test_runs_that_only_a_table_which_is_not_here_needs_are_not_missing(with_records):
    """Fewer seeds of the bench than of Table 1, and budgets that would need the rest."""
    copied = PUBLISHED / "records/deit-cait/A/2-epochs/fitnet_on_soft_kd"
    shutil.copytree(copied, with_records / "records/deit-cait/A/2-epochs/fitnet_on_soft_kd")
    shutil.copy(PUBLISHED / "experiment.yaml", with_records)
    assert "is without seed" not in text_of(with_records)


def test_rows_know_their_family_and_every_method_has_one(folder):
    made = page(folder)
    assert re.search(r'<tr data-family="manifold">\s*<td[^>]*>Manifold, full', made)
    assert re.search(r'<tr data-family="logits">\s*<td[^>]*>Soft KD', made)
    entries = read_yaml(ROOT / "config/methods.yaml")
    assert [name for name, entry in entries.items() if entry.get("family") is None] == []


def test_deviations_are_what_the_tables_say(folder):
    """Not what the configuration of today would differ in from the registration of today."""
    table = folder / "ablation.md"
    older = table.read_text(encoding="utf-8")
    older = older.replace(words_of(older), "")
    table.write_text(older, encoding="utf-8")
    text = text_of(folder)
    assert "Table 1: Registered in results/registered/mini.yaml on 2026-11-29, and made so" in text
    assert "Ablation: The table says nothing of a registration, so it is exploratory" in text
    assert "Relations are computed in float32" in text
