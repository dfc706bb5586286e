"""What a study gives: rows, words, tables and figures, written alike for all studies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from manifold.files import write_atomic, write_text

if TYPE_CHECKING:  # neither is needed to plan
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass
class Document:
    """A study's result, format by format.

    Attributes:
        title: the heading of NAME.md.
        caption: what was measured, how, and on what; the lead of every format.
        parts: Markdown below the caption, block by block.
        csv: suffix of the file's name ("" for NAME.csv): its rows.
        latex: cells that are text already, with what the caption says before the common one.
        figures: suffix: a function that draws it, given the caption.
    """

    title: str
    caption: str
    parts: list[str]
    csv: dict[str, pd.DataFrame]
    latex: list[tuple[pd.DataFrame, str]] = field(default_factory=list)
    figures: dict[str, Callable[[str], Figure]] = field(default_factory=dict)

    def write(self, directory: Path, name: str) -> None:
        """Write every format as ``name.*`` into a folder."""
        for suffix, rows in self.csv.items():
            write_text(directory / f"{name}{suffix}.csv", rows.to_csv(index=False))
        blocks = [f"# {self.title}", self.caption, *self.parts]
        write_text(directory / f"{name}.md", "\n\n".join(block for block in blocks if block) + "\n")
        if self.latex:
            tables = [latex(rows, f"{before}{self.caption}") for rows, before in self.latex]
            write_text(directory / f"{name}.tex", "\n".join(tables))
        for suffix, draw in self.figures.items():
            write_figure(draw(self.caption), directory, f"{name}{suffix}")


def latex(readable: pd.DataFrame, caption: str) -> str:
    """A LaTeX table (booktabs) of cells that are text already."""
    escapes = {"%": r"\%", "_": r"\_", "←": r"$\leftarrow$", "×": r"$\times$", "—": "---"}

    def escape(text: object) -> str:
        escaped = str(text)
        for plain, command in escapes.items():
            escaped = escaped.replace(plain, command)
        return escaped

    shown = readable.map(escape).rename(columns=escape)
    tabular = shown.to_latex(index=False, column_format="l" + "r" * (len(shown.columns) - 1))
    return (
        "% needs \\usepackage{booktabs,graphicx}\n"
        "\\begin{table}\n\\centering\n\\caption{" + escape(caption) + "}\n"
        "\\resizebox{\\linewidth}{!}{%\n" + tabular + "}\n\\end{table}\n"
    )


def write_figure(figure: Figure, directory: Path, name: str) -> None:
    """Write ``name.png`` and ``name.pdf``, undated: the same table gives the same bytes."""
    for suffix, metadata in (("png", None), ("pdf", {"CreationDate": None})):
        save = partial(figure.savefig, format=suffix, metadata=metadata)
        write_atomic(directory / f"{name}.{suffix}", save)
