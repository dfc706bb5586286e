"""The ablation as a figure: change and gain, a row a variant."""

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
    leave_out_far_rows,
    rule_out,
    write_caption,
)


def draw(rows: pd.DataFrame, seeds: pd.DataFrame, baseline: str, caption: str) -> Figure:
    """The change of top-1 of each variant against the reference, and its gain over the baseline.

    Args:
        rows: as in ablation.csv; the reference comes first.
        seeds: as in ablation_seeds.csv.
    """
    groups = list(rows["group"].unique())
    key = ["pair", "recipe", "method"]
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(
            1,
            2,
            figsize=(WIDTH, 0.3 * (len(rows) + len(groups)) + 1.2),
            sharey=True,
            layout="constrained",
        )
        heights, labels, position = [], [], -1.0
        for group, own in rows.groupby("group", sort=False):
            left.text(
                0.01, position + 0.15, group, transform=left.get_yaxis_transform(), fontsize=8
            )
            for _, row in own.iterrows():
                position += 1
                runs = seeds[(seeds[key] == row[key]).all(axis=1)]
                heights.append(position)
                is_reference = pd.isna(row["change_mean"])
                if not is_reference:
                    draw_row(left, position, runs["change"], row, "change", BLUE)
                draw_row(right, position, runs["gain"], row, "gain", ORANGE)
                labels.append(row["variant"])
            position += 1
        for axis in (left, right):
            axis.axvline(0, color=GREY, linewidth=1)
            rule_out(axis, "x")
            axis.tick_params(axis="y", length=0)
        placed = rows.set_index(pd.Index(heights))
        leave_out_far_rows(left, placed, "change", shown=0)
        leave_out_far_rows(right, placed, "gain", shown=0)
        left.set_yticks(heights, labels)
        left.set_ylim(position - 0.4, -1.5)
        left.set_xlabel("Change of top-1 (points)")
        right.set_xlabel(f"Paired gain over {baseline} (points)")
        write_caption(figure, caption)
    return figure
