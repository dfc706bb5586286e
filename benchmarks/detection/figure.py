"""Detection as a figure: AP and the paired gain, a block a detector and kind."""

import itertools

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from benchmarks.detection import CONTROLS
from benchmarks.evidence.style import (
    BLUE,
    GREY,
    ORANGE,
    SERIES,
    STYLE,
    WIDTH,
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
                colour = GREY if method in CONTROLS else ORANGE if is_manifold else BLUE
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


def draw_curve(curve: pd.DataFrame, caption: str) -> Figure:
    """Mean AP on the validation images against the epoch, a line a backbone.

    Args:
        curve: as in detection_curve.csv.
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
            panel.set_xlabel("Epoch")
            rule_out(panel, "y")
        axes[0].set_ylabel("Validation AP (%)")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=7.5
        )
        write_caption(figure, caption)
    return figure
