"""The transfer study as a figure: the paired gain, a row a data set."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from benchmarks.evidence.style import (
    GREY,
    STYLE,
    WIDTH,
    colour_of,
    draw_row,
    rule_out,
    write_caption,
)
from manifold.settings import UNTRAINED


def draw(
    rows: pd.DataFrame,
    seeds: pd.DataFrame,
    baseline: str,
    protocols: dict[str, str],
    caption: str,
) -> Figure:
    """The paired gain over the baseline with all images, a row a data set, a column a protocol.

    Args:
        rows, seeds: as in transfer.csv and transfer_seeds.csv.
        protocols: name and title of those that are drawn.
    """
    rows = rows[(rows["shots"] == "all") & rows["gain_mean"].notna()]
    seeds = seeds[seeds["shots"] == "all"]
    names = list(rows["data"].unique())
    drawn = set(rows["protocol"])  # with all images
    protocols = {key: title for key, title in protocols.items() if key in drawn}
    methods = rows.drop_duplicates("method")
    height = 0.2 * len(methods) + 0.5
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(names),
            len(protocols),
            figsize=(WIDTH, height * len(names) + 1.0),
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        for line, name in zip(axes, names, strict=True):
            for axis, (protocol, title) in zip(line, protocols.items(), strict=True):
                own = rows[(rows["data"] == name) & (rows["protocol"] == protocol)]
                if own.empty:
                    axis.set_visible(False)
                    continue
                runs = seeds[(seeds["data"] == name) & (seeds["protocol"] == protocol)]
                for position, (_, row) in enumerate(own.iterrows()):
                    colour = colour_of(row["method"], [UNTRAINED])
                    gains = runs.loc[runs["method"] == row["method"], "gain"]
                    draw_row(axis, position, gains, row, "gain", colour)
                axis.axvline(0, color=GREY, linewidth=1)
                axis.set_title(f"{name}: {title}", loc="left", fontsize=8)
                rule_out(axis, "x")
                axis.tick_params(axis="y", length=0, labelsize=7.5)
                axis.tick_params(axis="x", labelsize=7.5)
        axes[0, 0].set_yticks(range(len(methods)), methods["title"])
        axes[0, 0].set_ylim(len(methods) - 0.5, -0.5)
        for axis in axes[-1]:
            axis.set_xlabel(f"Paired gain over {baseline}, all images", fontsize=8)
        write_caption(figure, caption)
    return figure
