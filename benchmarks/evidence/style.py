"""Figures in one style: colours for the colour-blind, every seed a dot, intervals as bars."""

import textwrap
from collections.abc import Collection

import matplotlib

matplotlib.use("Agg")

import pandas as pd
from matplotlib import font_manager
from matplotlib.figure import Figure

from benchmarks.evidence.words import cut_ends, readable_interval

# Okabe and Ito's palette, distinct for the colour-blind and in grey.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#6F6F6F"
SERIES = (BLUE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("s", "^", "v", "P", "X", "o")
# Fonts with Chinese, Japanese and Korean letters, of Debian, macOS and Windows.
CJK_FONTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Micro Hei"),
    *("WenQuanYi Zen Hei", "IPAexGothic", "PingFang SC", "Hiragino Sans", "Apple SD Gothic Neo"),
    *("Microsoft YaHei", "Yu Gothic", "Malgun Gothic"),
)


def families(installed: list[str]) -> list[str]:
    """The fonts of figures: those of the user's matplotlibrc, then those for letters they lack."""
    return [*matplotlib.rcParams["font.family"], *(f for f in CJK_FONTS if f in installed)]


STYLE = {
    "font.family": families(font_manager.get_font_names()),
    "font.size": 9,
    "text.parse_math": False,  # a dollar in a name is a dollar
    "axes.spines.top": False,
    "axes.spines.right": False,
}
SAVED = {  # holds while a figure is saved, when the labels of its axes are drawn: they are formulas
    "savefig.dpi": 200,
    "savefig.bbox": "tight",
    "pdf.fonttype": 42,  # of type 3, matplotlib's default, are refused by journals
}
WIDTH = 8.2  # inches, of a figure that spans the page
CAPTION_WIDTH = 135  # characters of its caption's lines
FAR = 12  # median absolute deviations; a row further from the median has no place on the axis


def colour_of(method: str, controls: Collection[str] = ()) -> str:
    """A row's colour: the manifold losses apart from other methods, and controls grey."""
    if method in controls:
        return GREY
    return ORANGE if method.startswith("manifold") else BLUE


def draw_row(axes, position: int, values: pd.Series, row: pd.Series, key: str, colour: str):
    axes.plot(
        [row[f"{key}_low"], row[f"{key}_high"]],
        [position, position],
        color=colour,
        linewidth=2.2,
        solid_capstyle="round",
    )
    axes.plot(row[f"{key}_mean"], position, "D", color=colour, markersize=5)
    mark_cuts(axes, position, row, key, colour)
    offsets = [position + 0.22] * len(values)
    axes.plot(values, offsets, "o", markersize=3, color=colour, alpha=0.6, markeredgewidth=0)


def label_value_and_gain(left, right, titles: list[str], value: str, baseline: str) -> None:
    """Name the rows and axes of two panels that share them: a value, and the paired gain in it.

    Args:
        titles: of the rows, from above.
        value: what the left axis is of.
        baseline: the title of the method that gains are over.
    """
    right.axvline(0, color=GREY, linewidth=1)
    left.set_yticks(range(len(titles)), titles)
    left.set_ylim(len(titles) - 0.5, -0.5)
    left.set_xlabel(value)
    right.set_xlabel(f"Paired gain over {baseline} (points)")
    for panel in (left, right):
        rule_out(panel, "x")
        panel.tick_params(axis="y", length=0)


def mark_cuts(
    axes, position: float, row: pd.Series, key: str, colour: str, upright: bool = False
) -> None:
    """An arrow at each end of an interval that would lie beyond what the number can be.

    Args:
        upright: intervals run along the second axis.
    """
    arrows = {"low": "v" if upright else "<", "high": "^" if upright else ">"}
    for end in cut_ends(row, key):
        place = (row[f"{key}_{end}"], position)
        axes.plot(*(place[::-1] if upright else place), arrows[end], color=colour, markersize=5)


def leave_out_far_rows(axes, rows: pd.DataFrame, key: str, shown: float) -> None:
    """Fit the axis to the other rows where some lie far off; arrows say where those are.

    Args:
        rows: drawn at the heights of their index.
        shown: a value that stays on the axis.
    """
    means = rows[f"{key}_mean"]
    distance = (means - means.median()).abs()
    far = distance > FAR * distance.median()
    near = rows[~far]
    low = min(shown, near[f"{key}_low"].min())
    high = max(shown, near[f"{key}_high"].max())
    if not far.any() or low == high:
        return
    margin = 0.05 * (high - low)
    axes.set_xlim(low - margin, high + margin)
    for position, row in rows[far].iterrows():
        is_left = row[f"{key}_mean"] < low
        axes.annotate(
            readable_interval(row, key, digits=1),
            (0 if is_left else 1, position - 0.28),
            xycoords=("axes fraction", "data"),
            xytext=(16 if is_left else -16, 0),
            textcoords="offset points",
            ha="left" if is_left else "right",
            va="center",
            fontsize=7,
            arrowprops={"arrowstyle": "->", "color": GREY},
        )


def write_caption(figure: Figure, caption: str) -> None:
    """Set the caption below the panels, as wide as the figure."""
    width = int(CAPTION_WIDTH * figure.get_figwidth() / WIDTH)
    figure.supxlabel(textwrap.fill(caption, width), fontsize=6.5, x=0.01, ha="left")


def rule_out(axes, along: str) -> None:
    """A faint grid along one axis, behind what is drawn."""
    axes.grid(axis=along, color="#E3E3E3", linewidth=0.6)
    axes.set_axisbelow(True)
