"""What a study gives: rows, words, tables and figures, written alike for all studies."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.evidence.markup import latex_table, markdown_block
from manifold.errors import UserError
from manifold.files import write_atomic, write_text

if TYPE_CHECKING:  # neither is needed to plan
    import pandas as pd
    from matplotlib.figure import Figure

UNDATED = {"png": None, "pdf": {"CreationDate": None}, "svg": {"Date": None}}
NO_GLYPH = r"Glyph (\d+) \(.*\) missing from font"


@dataclass
class Document:
    """A study's result, format by format. All text is plain: what is markup is escaped here.

    Attributes:
        title: the heading of NAME.md.
        caption: what was measured, how, and on what; the lead of every format.
        parts: what follows in NAME.md: paragraphs and "## headings", lists of lines, and tables of
            cells that are text already.
        csv: suffix of the file's name ("" for NAME.csv): its rows.
        latex: cells that are text already, with what the caption says before the common one.
        figures: suffix: a function that draws it, given the caption.
    """

    title: str
    caption: str
    parts: list[str | list[str] | pd.DataFrame]
    csv: dict[str, pd.DataFrame]
    latex: list[tuple[pd.DataFrame, str]] = field(default_factory=list)
    figures: dict[str, Callable[[str], Figure]] = field(default_factory=dict)

    @property
    def whole_caption(self) -> str:
        """The caption, and what cuts at the ends of intervals mean, where there are any."""
        from benchmarks.evidence.words import words_on_cuts

        return " ".join(filter(None, [self.caption, words_on_cuts(self.csv.values())]))

    def texts(self, name: str) -> dict[str, str]:
        """The content of every file but the figures, by its name."""
        from benchmarks.evidence.words import CUT

        found = {}
        for suffix, rows in self.csv.items():
            # Marks of cuts come last: every other column keeps its place.
            ordered = rows[sorted(rows.columns, key=lambda column: str(column).endswith(CUT))]
            found[f"{name}{suffix}.csv"] = ordered.to_csv(index=False)
        blocks = map(markdown_block, [f"# {self.title}", self.whole_caption, *self.parts])
        found[f"{name}.md"] = "\n\n".join(filter(None, blocks)) + "\n"
        if self.latex:
            tables = (latex_table(rows, before + self.whole_caption) for rows, before in self.latex)
            found[f"{name}.tex"] = "\n".join(tables)
        return found

    def write(self, directory: Path, name: str) -> None:
        """Write every format as ``name.*`` into a folder, the figures last.

        Raises:
            UserError: a figure cannot be drawn; all else stands.
        """
        for file, text in self.texts(name).items():
            write_text(directory / file, text)
        for suffix, draw in self.figures.items():
            _draw(partial(draw, self.whole_caption), directory, f"{name}{suffix}")


def _draw(draw: Callable[[], Figure], directory: Path, name: str) -> None:
    """Draw and write a figure.

    Raises:
        UserError: it cannot be drawn.
    """
    try:
        write_figure(draw(), directory, name)
    except UserError:
        raise
    except Exception as error:  # matplotlib, its fonts and pictures fail in many ways
        raise UserError(
            f"{directory / name}.png: the figure cannot be drawn ({type(error).__name__}: "
            f"{error}); the tables beside it are whole. Look at the names and files that it shows, "
            "and give the command again"
        ) from error


def write_figure(figure: Figure, directory: Path, name: str) -> None:
    """Write ``name`` as png, pdf and svg, undated: the same table gives the same bytes.

    Panels stand in all three as they are laid out for the first, which takes most of the time.
    Letters that the font lacks are drawn as boxes, which is said once.
    """
    import matplotlib

    from benchmarks.evidence.style import SAVED

    salted = matplotlib.rc_context({**SAVED, "svg.hashsalt": name})  # or ids would be drawn anew
    with salted, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for suffix, metadata in UNDATED.items():
            save = partial(figure.savefig, format=suffix, metadata=metadata)
            write_atomic(directory / f"{name}.{suffix}", save)
            figure.set_layout_engine("none")
    unknown: list[str] = []
    for warning in caught:
        if found := re.match(NO_GLYPH, str(warning.message)):
            unknown.append(chr(int(found[1])))
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
    if unknown:
        print(
            f"{directory / name}.*: the figures' font has no {' '.join(dict.fromkeys(unknown))}, "
            "and boxes stand there; install one that has them (Debian's fonts-noto-cjk) and remove "
            f"{matplotlib.get_cachedir()}, or name one in a matplotlibrc, as font.family",
            file=sys.stderr,
        )
