"""Names in Markdown, LaTeX and figures: whatever stands in one is shown to the letter."""

import re

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from PIL import Image

from benchmarks.evidence.document import Document, write_figure
from benchmarks.evidence.markup import latex_table, latex_text, markdown_block, markdown_text
from benchmarks.evidence.style import SAVED, STYLE, families
from manifold.errors import UserError

ODD = r"A & B | C $x$ _y_ <b> a_b # 5 % {z} \ ~ ^ *w* [t](u) `c` 方法 é"


@pytest.mark.parametrize(
    ("plain", "markdown", "latex"),
    [
        ("soft_kd", "soft_kd", r"soft\_kd"),
        ("a | b", r"a \| b", r"a \textbar{} b"),
        ("_y_ *w* `c`", r"\_y\_ \*w\* \`c\`", r"\_y\_ *w* `c`"),
        ("$x$", r"\$x\$", r"\$x\$"),
        ("p < 0.05, <b>", r"p < 0.05, \<b>", r"p \textless{} 0.05, \textless{}b\textgreater{}"),
        ("A & B &amp; C", r"A & B \&amp; C", r"A \& B \&amp; C"),
        (r"a\b \_", r"a\b \\\_", r"a\textbackslash{}b \textbackslash{}\_"),
        ("[t](u) [80.1, 81.2]", r"[t\](u) [80.1, 81.2]", "{[}t](u) [80.1, 81.2]"),
        ("# 5 % {z}", r"\# 5 % {z}", r"\# 5 \% \{z\}"),
        ("-1.20 ~ ^", r"-1.20 \~ ^", r"-1.20 \textasciitilde{} \textasciicircum{}"),
        ("[t]: u", r"[t\]: u", "{[}t]: u"),  # which would be a link's target, and vanish
        ("a\nb\tc", "a b c", "a b c"),
        ("--a - b---c", "--a - b---c", "-{}-a - b-{}-{}-c"),
        ("``a'' ?`", r"\`\`a'' ?\`", "`{}`a'{}' ?{}`"),
        ("方法 é — ← ×", "方法 é — ← ×", r"方法 é --- $\leftarrow$ $\times$"),
    ],
)
def test_text_that_would_be_markup_is_escaped_and_no_other(plain, markdown, latex):
    assert markdown_text(plain) == markdown
    assert latex_text(plain) == latex


def test_a_table_keeps_its_columns_whatever_its_cells_hold():
    rows = pd.DataFrame({"Method": [ODD, "b"], "a|b": ["1", "2,000"], "Teacher": ["107e7701"] * 2})
    lines = markdown_block(rows).splitlines()
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in lines] == [4] * 4
    assert "107e7701" in lines[2]  # and not the number that tabulate would see
    alignments = lines[1].strip("|").split("|")
    assert [cell.strip().endswith(":") for cell in alignments] == [False, True, False]


def test_paragraphs_headings_and_lists():
    assert markdown_block("## In *words*") == r"## In \*words\*"
    assert markdown_block(["a|b", "# c"]) == "- a\\|b\n- \\# c"
    assert markdown_block("") == ""


def test_a_latex_table_can_be_set_whatever_its_cells_hold():
    rows = pd.DataFrame({"Method & more": [ODD, "[b]"], "Top-1 (%)": ["80.1", "*"]})
    table = latex_table(rows, f"Caption of {ODD}")
    needed, _, body = table.partition("\n")
    assert "lualatex" in needed and "方" in needed and "é" not in needed
    # Of what is special to TeX only commands, their braces and the columns' separators are left.
    own = re.sub(r"\\[A-Za-z]+\*?|\\.|\{\[\}|\{\*\}|%\n", "", body)
    assert not set(own) & set("#$%_^~\\")
    assert own.count("&") == 3 and own.count("{") == own.count("}")
    assert "lualatex" not in latex_table(pd.DataFrame({"a": ["é × ←"]}), "")


def figure_of(name):
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots()
        axes.set_yticks([0], [name])
        axes.set_title(name)
        axes.text(0, 0, name)
    return figure


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cost $5 and $6", r"$\frac$", "_{^", "a & b % # \\"])
def test_a_name_in_a_figure_is_no_formula(name, tmp_path, capsys):
    write_figure(figure_of(name), tmp_path, "figure")
    assert (tmp_path / "figure.pdf").stat().st_size and not capsys.readouterr().err


def test_an_installed_font_is_taken_for_letters_that_the_first_one_lacks():
    installed = ["Cantarell", "Noto Sans CJK SC", "DejaVu Sans"]
    assert families(installed) == [*plt.rcParams["font.family"], "Noto Sans CJK SC"]
    assert families([]) == plt.rcParams["font.family"]


@pytest.mark.slow
def test_letters_that_the_font_lacks_are_told_once(tmp_path, capsys):
    write_figure(figure_of("\ue000\ue001\ue000"), tmp_path, "figure")  # of nobody's alphabet
    (line,) = capsys.readouterr().err.splitlines()
    assert "has no \ue000 \ue001, and boxes" in line and "font.family" in line
    assert (tmp_path / "figure.png").stat().st_size


def test_a_figure_that_fails_takes_no_table_with_it(tmp_path):
    def draw(caption):
        raise ZeroDivisionError("of matplotlib's")

    rows = pd.DataFrame({"a": [1]})
    figures = {"_first": lambda caption: figure_of(caption), "": draw, "_last": draw}
    document = Document("T", "caption", [rows], {"": rows}, [(rows, "")], figures)
    with pytest.raises(UserError, match=r"name\.png: .*\(ZeroDivisionError: of mat.*are whole"):
        document.write(tmp_path, "name")
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"name.csv", "name.md", "name.tex", "name_first.png", "name_first.pdf"} | {
        "name_first.svg"
    }


def test_a_saved_figure_has_its_resolution_and_fonts_that_journals_take(tmp_path):
    figure = figure_of("a name")
    write_figure(figure, tmp_path, "figure")
    width, _ = Image.open(tmp_path / "figure.png").size
    assert width > 0.8 * SAVED["savefig.dpi"] * figure.get_figwidth()
    pdf = (tmp_path / "figure.pdf").read_bytes()
    assert b"/Type3" not in pdf and b"/CIDFontType2" in pdf


@pytest.mark.slow
def test_the_labels_of_a_logarithmic_axis_are_powers(tmp_path):
    with plt.rc_context(STYLE):
        _, axes = plt.subplots()
        axes.set_xscale("log")
        axes.set_xlim(1, 1000)
    write_figure(axes.figure, tmp_path, "figure")
    labels = zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
    assert all(label.get_parse_math() for place, label in labels if 1 <= place <= 1000)
