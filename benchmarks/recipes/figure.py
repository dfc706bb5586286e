"""The recipe study as a figure: the gain against the budget, a panel a method."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from benchmarks.evidence.style import (
    GREY,
    MARKERS,
    SERIES,
    STYLE,
    WIDTH,
    mark_cuts,
    rule_out,
    write_caption,
)
from benchmarks.evidence.words import capital


def draw(
    rows: pd.DataFrame,
    seeds: pd.DataFrame,
    public: pd.DataFrame | None,
    baseline: str,
    baseline_title: str,
    caption: str,
) -> Figure:
    """The paired gain over the baseline against the budget: a panel a method, and public runs.

    Args:
        rows: as in recipes.csv.
        seeds: as in recipes_seeds.csv.
        public: epoch and lead over soft KD of public runs, as ``public_leads`` returns them; None:
            no panel of them.
    """
    methods = [name for name in rows["method"].unique() if name != baseline]
    count = len(methods) + (public is not None)
    columns = min(3, count)
    lines = -(-count // columns)
    by_seed = seeds.pivot(index="seed", columns=["recipe", "budget", "method"], values="top1")
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            lines,
            columns,
            figsize=(WIDTH * columns / 3, 2.2 * lines + 0.8),
            squeeze=False,
            layout="constrained",
        )
        panels = axes.flatten()
        for axis, method in zip(panels, methods, strict=False):
            axis.sharey(panels[0])
            _draw_gains(axis, rows[rows["method"] == method], by_seed, baseline)
        panels[0].legend(frameon=False, fontsize=7.5)
        for axis in panels[count:]:
            axis.set_visible(False)
        if public is not None:
            _draw_public_leads(panels[len(methods)], public)
        figure.supylabel(f"Paired gain over {baseline_title} (points)", fontsize=9)
        write_caption(figure, caption)
    return figure


def _draw_gains(axis, rows: pd.DataFrame, by_seed: pd.DataFrame, baseline: str) -> None:
    """One method's panel; recipes stand side by side at each budget.

    Args:
        by_seed: top-1, a row a seed, a column a recipe, budget and method.
    """
    budgets = sorted(rows["budget"].unique())
    recipes = list(rows["recipe"].unique())
    apart = min(0.22, 0.8 / len(recipes))
    for number, recipe in enumerate(recipes):
        own = rows[rows["recipe"] == recipe].set_index("budget").loc[budgets]
        method, colour = own["method"].iloc[0], SERIES[number % len(SERIES)]
        places = [
            place + apart * (number - (len(recipes) - 1) / 2) for place in range(len(budgets))
        ]
        axis.plot(places, own["gain_mean"], color=colour, linewidth=1, alpha=0.6)
        axis.vlines(places, own["gain_low"], own["gain_high"], color=colour, linewidth=2)
        marker, factor = MARKERS[number % len(MARKERS)], own["factor"].iloc[0]
        label = f"Recipe {recipe}" if pd.isna(factor) else capital(factor)
        axis.plot(places, own["gain_mean"], marker, color=colour, markersize=5, label=label)
        for place, budget in zip(places, budgets, strict=True):
            mark_cuts(axis, place, own.loc[budget], "gain", colour, upright=True)
            gains = by_seed[recipe, budget, method] - by_seed[recipe, budget, baseline]
            axis.plot(
                [place + 0.07] * len(gains),
                gains,
                "o",
                markersize=2.5,
                color=colour,
                alpha=0.6,
                markeredgewidth=0,
            )
    axis.axhline(0, color=GREY, linewidth=1)
    axis.set_title(rows["title"].iloc[0], loc="left", fontsize=9)
    axis.set_xticks(range(len(budgets)), budgets)
    axis.set_xlabel("Budget (epochs, own schedule)", fontsize=8)
    rule_out(axis, "y")


def _draw_public_leads(axis, public: pd.DataFrame) -> None:
    """The panel of the public ImageNet runs."""
    for (title, curve), line in zip(public.groupby("title"), ("--", "-"), strict=True):
        axis.plot(curve["epoch"], curve["lead"], line, color="black", linewidth=1, label=title)
    axis.axhline(0, color=GREY, linewidth=1)
    axis.set_xscale("log")
    axis.set_xlabel("Epoch of a 300-epoch schedule", fontsize=8)
    axis.set_ylabel("Lead over Soft KD (points)", fontsize=8)
    axis.set_title("Public ImageNet runs, n = 1", loc="left", fontsize=9)
    axis.legend(frameon=False, fontsize=7.5)
