"""AP on the validation scenes against the epoch, as a figure."""

import itertools

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from benchmarks.detection import CONTROLS
from benchmarks.evidence.style import (
    GREY,
    SERIES,
    STYLE,
    WIDTH,
    rule_out,
    write_caption,
)


def draw_curve(curve: pd.DataFrame, caption: str, along: str = "Epoch") -> Figure:
    """Mean AP on the validation images against the epoch, a line a backbone.

    Args:
        curve: as in detection_curve.csv.
        along: what ``epoch`` counts.
    """
    blocks = list(curve.groupby(["detector", "kind"], sort=False))
    with plt.rc_context(STYLE):
        figure, (axes,) = plt.subplots(
            1, len(blocks), figsize=(WIDTH, 3.6), squeeze=False, layout="constrained"
        )
        for panel, ((detector, kind), own) in zip(axes, blocks, strict=True):
            name = {"bbox": "box", "segm": "mask"}[kind]
            colours, dashes = itertools.cycle(SERIES), itertools.cycle(("--", ":"))
            for (method, title), rows in own.groupby(["method", "title"], sort=False):
                is_control = method in CONTROLS
                means = rows.groupby("epoch")["ap"].mean()
                panel.plot(
                    means.index,
                    means,
                    next(dashes) if is_control else "-",
                    color=GREY if is_control else next(colours),
                    linewidth=1.5,
                    marker=".",
                    label=title,
                )
            panel.set_title(f"{detector}, {name} AP", loc="left", fontsize=9)
            panel.set_xlabel(along)
            rule_out(panel, "y")
        axes[0].set_ylabel("Validation AP (%)")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=7.5
        )
        write_caption(figure, caption)
    return figure
