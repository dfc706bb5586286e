"""Table 1 as a figure: top-1 and the paired gain, a row a method."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from benchmarks.evidence.style import (
    GREY,
    STYLE,
    WIDTH,
    colour_of,
    draw_row,
    label_value_and_gain,
    leave_out_far_rows,
    write_caption,
)
from benchmarks.table1 import TEACHER


def draw(rows: pd.DataFrame, seeds: pd.DataFrame, baseline: str, caption: str) -> Figure:
    """Top-1 of each method and its paired gain over the baseline.

    Args:
        rows: as in table1.csv, the teacher's row among them.
        seeds: as in table1_seeds.csv.
    """
    pairs = list(rows["pair"].unique())
    heights = [int((rows["pair"] == pair).sum()) - 1 for pair in pairs]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(pairs),
            2,
            figsize=(WIDTH, 0.42 * sum(heights) + 0.5 * len(pairs) + 0.8),
            sharey="row",
            squeeze=False,
            height_ratios=heights,
            layout="constrained",
        )
        for (left, right), pair in zip(axes, pairs, strict=True):
            own_seeds = seeds[seeds["pair"] == pair]
            _draw_pair(left, right, rows[rows["pair"] == pair], own_seeds, baseline)
            if len(pairs) > 1:
                left.set_title(pair, loc="left", fontsize=9)
        write_caption(figure, caption)
    return figure


def _draw_pair(left, right, rows: pd.DataFrame, seeds: pd.DataFrame, baseline: str) -> None:
    """The two panels of one pair: top-1, and the paired gain."""
    teacher = rows[rows["method"] == TEACHER].iloc[0]
    methods = rows[rows["method"] != TEACHER].reset_index(drop=True)
    by_seed = seeds.pivot(index="seed", columns="method", values="top1")
    for position, row in methods.iterrows():
        name = row["method"]
        colour = colour_of(name)
        draw_row(left, position, by_seed[name], row, "top1", colour)
        if name != baseline:
            gains = by_seed[name] - by_seed[baseline]
            draw_row(right, position, gains, row, "gain", colour)
    has_accuracy = pd.notna(teacher["top1_mean"])
    reference = teacher["top1_mean"] if has_accuracy else methods["top1_mean"].median()
    leave_out_far_rows(left, methods, "top1", shown=reference)
    leave_out_far_rows(right, methods, "gain", shown=0)
    if has_accuracy:
        left.axvline(teacher["top1_mean"], color=GREY, linestyle="--", linewidth=1)
        left.annotate(
            f"teacher {teacher['top1_mean']:.1f}",
            (teacher["top1_mean"], 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(-3, 2),
            textcoords="offset points",
            ha="right",
            va="bottom",
            color=GREY,
        )
    (title,) = methods.loc[methods["method"] == baseline, "title"]
    label_value_and_gain(left, right, list(methods["title"]), "Top-1 (%)", title)
