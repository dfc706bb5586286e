"""The training curves as a figure: a line of panels a method."""

from collections.abc import Iterable

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from benchmarks.curves.table import ACCURACY, GRADIENT, LOSS
from benchmarks.evidence.cells import BASE_TERMS
from benchmarks.evidence.style import (
    GREY,
    MARKERS,
    SERIES,
    STYLE,
    WIDTH,
    colour_of,
    rule_out,
    write_caption,
)

PANELS = {
    ACCURACY: "Validation top-1 (%)",
    LOSS: "Terms of the loss, weighted",
    GRADIENT: "Share of the gradient (%)",
}


def draw(rows: pd.DataFrame, baseline: str, caption: str) -> Figure:
    """Accuracy, terms of the loss and their gradients against the epoch, a line a method.

    Args:
        rows: as in curves.csv.
        baseline: the method whose accuracy is drawn in every line.
    """
    methods = rows.drop_duplicates("method").set_index("method")["title"]
    panels = {key: title for key, title in PANELS.items() if (rows["quantity"] == key).any()}
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(methods),
            len(panels),
            figsize=(WIDTH, 1.05 * len(methods) + 1.1),
            sharex=True,
            sharey="col",
            squeeze=False,
            layout="constrained",
        )
        for line, (method, title) in zip(axes, methods.items(), strict=True):
            own = rows[rows["method"] == method]
            looks = looks_of(own["term"])
            for axis, quantity in zip(line, panels, strict=True):
                curves = own[own["quantity"] == quantity]
                if quantity == ACCURACY:
                    others = rows[(rows["method"] == baseline) & (rows["quantity"] == quantity)]
                    _curve(axis, others, color=GREY, marker=".", linestyle=":")
                    _curve(axis, curves, color=colour_of(method), marker="D")
                else:
                    scale = 100 if quantity == GRADIENT else 1
                    for term, part in curves.groupby("term", sort=False):
                        _curve(axis, part, scale, label=term, **looks[term])
                rule_out(axis, "y")
                axis.tick_params(labelsize=7)
            line[0].set_ylabel(title, fontsize=7.5, rotation=0, ha="right", va="center")
            handles, names = line[-1].get_legend_handles_labels()
            if handles:
                line[-1].legend(
                    handles,
                    names,
                    fontsize=6.5,
                    frameon=False,
                    loc="center left",
                    bbox_to_anchor=(1, 0.5),
                )
        for axis, (quantity, title) in zip(axes[0], panels.items(), strict=True):
            axis.set_title(title, fontsize=8, loc="left")
            if quantity == LOSS and rows.loc[rows["quantity"] == LOSS, "value_mean"].min() > 0:
                axis.set_yscale("log")
                axis.yaxis.set_major_locator(LogLocator(numticks=4))
                axis.yaxis.set_minor_formatter(NullFormatter())
        for axis in axes[-1]:
            axis.set_xlabel("Epoch", fontsize=8)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        write_caption(figure, f"{caption} Dotted: {methods[baseline]}.")
    return figure


def looks_of(terms: Iterable[str]) -> dict[str, dict[str, str]]:
    """Colour and marker of a method's terms: those of a base are alike for all methods."""
    own = [term for term in dict.fromkeys(terms) if term and term not in BASE_TERMS]
    order = [*sorted(BASE_TERMS), *own]
    return {
        term: {
            "color": SERIES[place % len(SERIES)],
            "marker": MARKERS[(place + place // len(SERIES)) % len(MARKERS)],
        }
        for place, term in enumerate(order)
    }


def _curve(axis: Axes, rows: pd.DataFrame, scale: float = 1, **look) -> None:
    """A mean against the epoch, with its interval as a band."""
    rows = rows.sort_values("epoch")
    mean, low, high = (scale * rows[f"value_{part}"] for part in ("mean", "low", "high"))
    axis.fill_between(rows["epoch"], low, high, color=look["color"], alpha=0.2, linewidth=0)
    axis.plot(rows["epoch"], mean, markersize=3, linewidth=1.2, **look)
