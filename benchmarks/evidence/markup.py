"""Plain text in Markdown and LaTeX: names are shown to the letter.

Names of methods, classes and data sets are the user's, and whatever stands in one is text. A study
gives plain text alone; only here is it escaped.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # not needed to plan
    import pandas as pd

# What Markdown reads as markup; the rest is left alone, so that the source stays readable. An
# underscore within a word, a lone "&" or "<" and brackets without a target are text already.
MARKDOWN = re.compile(
    r"[|`*$~]"
    r"|\\(?=[!-/:-@\[-`{-~])"
    r"|(?<!\w)_|_(?!\w)"
    r"|<(?=[A-Za-z/!?])"
    r"|&(?=#?\w+;)"
    r"|\](?=[(\[:])"
    r"|^[-+#>]+(?=\s)"
)
LATEX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
        **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"},
        **{"←": r"$\leftarrow$", "×": r"$\times$", "—": "---", "·": r"$\cdot$"},
    }
)
# Within what TeX would set as one sign: a dash, a quotation mark, a Spanish one.
LIGATURES = re.compile(r"(?<=([-`',]))(?=\1)|(?<=[?!])(?=`)")
# Latin letters with their accents, and punctuation: what pdflatex knows without a package.
PDFLATEX = re.compile(r"[\u0000-\u017F\u2010-\u201F\u2026]*")
NUMBER = re.compile(r"[-+]?[\d,]+(\.\d+)?")


def one_line(text: object) -> str:
    """A text without line breaks, which would end a row or a heading."""
    return " ".join(str(text).split())


# ---- Markdown --------------------------------------------------------------------------------


def markdown_text(text: object) -> str:
    return MARKDOWN.sub(lambda found: f"\\{found[0]}", one_line(text))


def markdown_block(part: str | list[str] | pd.DataFrame) -> str:
    """A paragraph or a heading, a list, or a table of cells that are text already."""
    if isinstance(part, str):
        marks, heading, text = re.fullmatch(r"(#*)( ?)(.*)", part, re.DOTALL).groups()
        return f"{marks}{heading}{markdown_text(text)}" if marks else markdown_text(part)
    if isinstance(part, list):
        return "\n".join(f"- {markdown_text(line)}" for line in part)
    return _markdown_table(part)


def _markdown_table(rows: pd.DataFrame) -> str:
    """Columns of numbers alone are set to the right."""
    shown = rows.map(markdown_text).rename(columns=markdown_text)
    sides = [
        "right" if shown.iloc[:, place].map(NUMBER.fullmatch).astype(bool).all() else "left"
        for place in range(shown.shape[1])
    ]
    # Left alone, tabulate takes a hash like 107e7701 for a number, and writes "inf".
    return shown.to_markdown(index=False, disable_numparse=True, colalign=sides)


# ---- LaTeX -----------------------------------------------------------------------------------


def latex_text(text: object) -> str:
    shown = one_line(text)
    pairs = [found.start() for found in LIGATURES.finditer(shown)]
    parts = [shown[a:b].translate(LATEX) for a, b in pairwise([0, *pairs, len(shown)])]
    escaped = "{}".join(parts)
    # At the beginning of a row these would belong to the command that ended the one above.
    return re.sub(r"^[\[*]", lambda found: f"{{{found[0]}}}", escaped)


def latex_table(rows: pd.DataFrame, caption: str) -> str:
    """A LaTeX table (booktabs) of cells that are text already."""
    shown = rows.map(latex_text).rename(columns=latex_text)
    tabular = shown.to_latex(
        index=False, escape=False, column_format="l" + "r" * (len(shown.columns) - 1)
    )
    table = (
        "\\begin{table}\n\\centering\n\\caption{" + latex_text(caption) + "}\n"
        "\\resizebox{\\linewidth}{!}{%\n" + tabular + "}\n\\end{table}\n"
    )
    return f"% needs \\usepackage{{booktabs,graphicx}}{_needed_for(table)}\n{table}"


def _needed_for(table: str) -> str:
    """What a table needs beside packages; pdflatex stops at letters that it does not know."""
    unknown = sorted(set(PDFLATEX.sub("", table)))
    if not unknown:
        return ""
    return f", lualatex or xelatex, and a font that has {' '.join(unknown)}"
