"""Detection as a figure: AP and the paired gain, a block a detector and kind."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from benchmarks.evidence.style import (
    BLUE,
    GREY,
    ORANGE,
    STYLE,
    draw_row,
    rule_out,
    write_caption,
)


def draw(rows: pd.DataFrame, seeds: pd.DataFrame, baseline: str, caption: str) -> Figure:
    """AP of each backbone and its paired gain over the baseline's, a block a detector and kind.

    Args:
        rows: as in detection.csv.
        seeds: as in detection_seeds.csv.
        baseline: the title of the baseline's method.
    """
    blocks = list(rows.groupby(["detector", "kind"], sort=False))
    heights = [len(own) for _, own in blocks]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(blocks),
            2,
            figsize=(8.2, 0.36 * sum(heights) + 0.8 * len(blocks) + 0.8),
            sharey="row",
            squeeze=False,
            height_ratios=heights,
            layout="constrained",
        )
        for (left, right), ((detector, kind), own) in zip(axes, blocks, strict=True):
            name = {"bbox": "box", "segm": "mask"}[kind]
            chosen = seeds[(seeds["detector"] == detector) & (seeds["kind"] == kind)]
            by_seed = chosen.pivot(index="seed", columns="method", values="ap")
            (reference,) = own.loc[own["title"] == baseline, "method"]
            for position, (_, row) in enumerate(own.iterrows()):
                method = row["method"]
                is_manifold = method.startswith("manifold")
                colour = {"random": GREY}.get(method, ORANGE if is_manifold else BLUE)
                draw_row(left, position, by_seed[method], row, "ap", colour)
                if method != reference:
                    gains = by_seed[method] - by_seed[reference]
                    draw_row(right, position, gains, row, "gain", colour)
            left.set_title(f"{detector}, {name} AP", loc="left", fontsize=9)
            left.set_yticks(range(len(own)), own["title"])
            left.set_ylim(len(own) - 0.5, -0.5)
            left.set_xlabel(f"{name.capitalize()} AP (%)")
            right.set_xlabel(f"Paired gain over {baseline} (points)")
            right.axvline(0, color=GREY, linewidth=1)
            for panel in (left, right):
                rule_out(panel, "x")
                panel.tick_params(axis="y", length=0)
        write_caption(figure, caption)
    return figure
