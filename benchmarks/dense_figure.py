"""Detection and segmentation as a figure: a value of each backbone, and its paired gain."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from benchmarks.evidence.style import (
    STYLE,
    WIDTH,
    colour_of,
    draw_row,
    label_value_and_gain,
    write_caption,
)

# What stands over a row of panels, what its value is called, the backbones' rows and their seeds.
Block = tuple[str, str, pd.DataFrame, pd.DataFrame]


def draw(
    blocks: list[Block], key: str, controls: tuple[str, ...], baseline: str, caption: str
) -> Figure:
    """The value of each backbone and its paired gain over the baseline's, every seed a dot.

    Args:
        blocks: a row of panels each.
        key: of the value; rows have the columns of its interval and the gain's, seeds both.
        controls: the backbones of no method.
        baseline: its title.
    """
    heights = [len(rows) for _, _, rows, _ in blocks]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(blocks),
            2,
            figsize=(WIDTH, 0.36 * sum(heights) + 0.8 * len(blocks) + 0.8),
            sharey="row",
            squeeze=False,
            height_ratios=heights,
            layout="constrained",
        )
        for (left, right), (title, value, rows, seeds) in zip(axes, blocks, strict=True):
            for position, (_, row) in enumerate(rows.iterrows()):
                colour = colour_of(row["method"], controls)
                own = seeds[seeds["method"] == row["method"]]
                draw_row(left, position, own[key], row, key, colour)
                if pd.notna(row["gain_mean"]):
                    draw_row(right, position, own["gain"], row, "gain", colour)
            left.set_title(title, loc="left", fontsize=9)
            label_value_and_gain(left, right, list(rows["title"]), value, baseline)
        write_caption(figure, caption)
    return figure
