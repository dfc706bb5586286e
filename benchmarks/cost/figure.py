"""The cost study as a figure: losses against the batch, steps of methods, cohorts."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks.cost.table import COHORTS, LOSSES, SHOWN, STEPS, TEACHER, Found
from benchmarks.evidence.style import (
    BLUE,
    GREY,
    MARKERS,
    ORANGE,
    SERIES,
    STYLE,
    WIDTH,
    rule_out,
    write_caption,
)


def draw(found: Found, caption: str) -> Figure:
    """Four panels: time and memory of the losses, steps over the baseline's, cohorts.

    Args:
        found: rows as in cost.csv.
    """
    parts = {part: rows for part, rows in found.rows.groupby("part")}
    methods = parts[STEPS][~parts[STEPS]["what"].str.startswith(TEACHER)]
    with plt.rc_context(STYLE):
        figure, ((time, memory), (steps, cohorts)) = plt.subplots(
            2, 2, figsize=(WIDTH, 4.2 + 0.14 * len(methods)), layout="constrained"
        )
        _draw_losses(time, parts[LOSSES], "milliseconds_median", "Time (ms)", claimed=True)
        _draw_losses(memory, parts[LOSSES], "peak_mebibytes", "Peak memory (MiB)")
        time.legend(fontsize=6.5, frameon=False)
        _draw_steps(steps, methods, found.baseline)
        _draw_cohorts(cohorts, parts[COHORTS])
        write_caption(figure, caption)
    return figure


def _draw_losses(
    axes: Axes, rows: pd.DataFrame, key: str, label: str, claimed: bool = False
) -> None:
    """One line a form; with ``claimed``, the growth that the paper's count of products gives."""
    for (form, own), colour, marker in zip(
        rows.groupby("what", sort=False), SERIES, MARKERS, strict=False
    ):
        axes.plot(
            own["size"], own[key], marker=marker, markersize=4, color=colour, label=SHOWN[form]
        )
        if claimed:
            first = own.iloc[0]
            growth = own["papers_products"] / first["papers_products"]
            axes.plot(own["size"], first[key] * growth, ":", color=colour, linewidth=1)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")  # without TeX, which the style leaves as it is written
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(sorted(rows["size"].unique()), sorted(rows["size"].unique()))
    axes.set_xlabel("Images of a batch" + (" (dotted: the paper's count)" if claimed else ""))
    axes.set_ylabel(label)
    rule_out(axes, "y")


def _draw_steps(axes: Axes, rows: pd.DataFrame, baseline: str) -> None:
    places = range(len(rows))
    axes.barh(places, rows["ratio_median"], color=BLUE, height=0.6)
    axes.hlines(places, rows["ratio_low"], rows["ratio_high"], color="black", linewidth=1)
    axes.axvline(1, color=GREY, linewidth=1)
    axes.set_yticks(places, rows["what"], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel(f"A step over one of {baseline}")
    rule_out(axes, "x")


def _draw_cohorts(axes: Axes, rows: pd.DataFrame) -> None:
    axes.plot(rows["size"], rows["ratio_median"], "o-", color=BLUE, markersize=4, label="measured")
    axes.vlines(rows["size"], rows["ratio_low"], rows["ratio_high"], color=BLUE, linewidth=1)
    axes.plot(
        rows["size"], rows["limit"], ":", color=ORANGE, label="one pass of the teacher for all"
    )
    axes.set_ylim(0, max(1.15, 1.05 * rows["ratio_high"].max()))
    axes.set_xticks(rows["size"], rows["size"])
    axes.set_xlabel("Members of a cohort")
    axes.set_ylabel("Time over the members apart")
    axes.legend(fontsize=7, frameon=False)
    rule_out(axes, "y")
