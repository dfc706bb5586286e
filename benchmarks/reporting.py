"""What the tables share: intervals as columns and as text, verdicts in words, the formats."""

from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from manifold.files import write_atomic
from manifold.statistics import Interval

MISSING = "—"
PARTS = ("mean", "low", "high")


def interval_columns(key: str, interval: Interval | None) -> dict[str, float | None]:
    """The columns ``key_mean``, ``key_low`` and ``key_high`` of a row; None where there is none."""
    return {f"{key}_{part}": interval and getattr(interval, part) for part in PARTS}


def readable_interval(row: pd.Series, key: str, sign: str = "") -> str:
    """A row's mean and interval as text; a dash where there is none.

    Args:
        row: holds the columns of ``interval_columns``.
        sign: "+" to show the sign of what is positive.
    """
    mean, low, high = (row[f"{key}_{part}"] for part in PARTS)
    if pd.isna(mean):
        return MISSING
    if pd.isna(low):
        return f"{mean:{sign}.2f}"
    return f"{mean:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"


def readable_p(p: float | None) -> str:
    return MISSING if pd.isna(p) else f"{p:.2g}"


def verdicts(
    rows: pd.DataFrame, key: str, above: str, below: str, undecided: str, names: str = "title"
) -> dict[str, list[str]]:
    """The names of the rows whose interval lies above zero, below it, or holds it.

    Args:
        rows: hold the columns of ``interval_columns``; those without an interval are left out.
        above, below, undecided: what each is called; one without rows is left out.
        names: the column that rows are named by.
    """
    known = rows[rows[f"{key}_low"].notna()]
    low, high = known[f"{key}_low"], known[f"{key}_high"]
    chosen = {above: low > 0, below: high < 0, undecided: (low <= 0) & (high >= 0)}
    return {words: list(known.loc[of, names]) for words, of in chosen.items() if of.any()}


def against(other: str) -> tuple[str, str, str]:
    """What ``verdicts`` calls rows whose interval is of a gain over another."""
    return f"ahead of {other}", f"behind {other}", f"not told from {other}"


def sentence(found: dict[str, list[str]]) -> str:
    """Verdicts on one line. Names hold commas, so neither separator is one."""
    return ". ".join(f"{words}: {'; '.join(names)}" for words, names in found.items())


def after_correction(rows: pd.DataFrame, other: str, confidence: float, names: str) -> str:
    """Say which rows are told from another even after Holm's correction over all of them."""
    told = rows.loc[rows["p_holm"] < 1 - confidence, names]
    return (
        f"told from {other} after Holm's correction over all {len(rows)} comparisons, at "
        f"p < {1 - confidence:.2g}: {'; '.join(told) if len(told) else 'none'}"
    )


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
