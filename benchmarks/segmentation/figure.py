"""Segmentation as a figure: mIoU and the paired gain, a row of panels a protocol."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from benchmarks.evidence.style import (
    BLUE,
    GREY,
    ORANGE,
    STYLE,
    WIDTH,
    draw_row,
    rule_out,
    write_caption,
)
from benchmarks.segmentation import CONTROLS


def draw(
    rows: pd.DataFrame,
    seeds: pd.DataFrame,
    baseline: str,
    protocols: dict[str, str],
    caption: str,
) -> Figure:
    """mIoU of each backbone and its paired gain over the baseline's, every seed a dot.

    Args:
        rows, seeds: as in segmentation.csv and segmentation_seeds.csv.
        baseline: the title of the baseline's method.
        protocols: name and title.
    """
    with plt.rc_context(STYLE):
        count = rows["method"].nunique()
        figure, axes = plt.subplots(
            len(protocols),
            2,
            figsize=(WIDTH, (0.36 * count + 0.8) * len(protocols) + 0.8),
            sharey="row",
            squeeze=False,
            layout="constrained",
        )
        for (left, right), (protocol, title) in zip(axes, protocols.items(), strict=True):
            own, runs = (table[table["protocol"] == protocol] for table in (rows, seeds))
            for position, (_, row) in enumerate(own.iterrows()):
                method = row["method"]
                is_manifold = method.startswith("manifold")
                colour = GREY if method in CONTROLS else ORANGE if is_manifold else BLUE
                of = runs[runs["method"] == method]
                draw_row(left, position, of["miou"], row, "miou", colour)
                if pd.notna(row["gain_mean"]):
                    draw_row(right, position, of["gain"], row, "gain", colour)
            left.set_title(title, loc="left", fontsize=9)
            left.set_yticks(range(len(own)), own["title"])
            left.set_ylim(len(own) - 0.5, -0.5)
            left.set_xlabel("mIoU (%)")
            right.set_xlabel(f"Paired gain over {baseline} (points)")
            right.axvline(0, color=GREY, linewidth=1)
            for panel in (left, right):
                rule_out(panel, "x")
                panel.tick_params(axis="y", length=0)
        write_caption(figure, caption)
    return figure
