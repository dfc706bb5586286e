"""Figures in one style: colours for the colour-blind, every seed a dot, intervals as bars."""

import textwrap

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

# Okabe and Ito's palette, distinct for the colour-blind and in grey.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#6F6F6F"
SERIES = (BLUE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("s", "^", "v", "P", "X", "o")
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "savefig.dpi": 200,
    "savefig.bbox": "tight",
    "pdf.fonttype": 42,
}
CAPTION_WIDTH = 135
FAR = 12  # median absolute deviations; a row further from the median has no place on the axis


def draw_table1(rows: pd.DataFrame, seeds: pd.DataFrame, baseline: str, caption: str) -> Figure:
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
            figsize=(8.2, 0.42 * sum(heights) + 0.5 * len(pairs) + 0.8),
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
        figure.supxlabel(textwrap.fill(caption, CAPTION_WIDTH), fontsize=6.5, x=0.01, ha="left")
    return figure


def _draw_pair(left, right, rows: pd.DataFrame, seeds: pd.DataFrame, baseline: str) -> None:
    """The two panels of one pair: top-1, and the paired gain."""
    teacher = rows[rows["method"] == "teacher"].iloc[0]
    methods = rows[rows["method"] != "teacher"].reset_index(drop=True)
    by_seed = seeds.pivot(index="seed", columns="method", values="top1")
    for position, row in methods.iterrows():
        name = row["method"]
        colour = ORANGE if name.startswith("manifold") else BLUE
        _draw_row(left, position, by_seed[name], row, "top1", colour)
        if name != baseline:
            gains = by_seed[name] - by_seed[baseline]
            _draw_row(right, position, gains, row, "gain", colour)
    _leave_out_far_rows(left, methods, "top1", shown=teacher["top1_mean"])
    _leave_out_far_rows(right, methods, "gain", shown=0)
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
    right.axvline(0, color=GREY, linewidth=1)
    left.set_yticks(range(len(methods)), methods["title"])
    left.set_ylim(len(methods) - 0.5, -0.5)
    left.set_xlabel("Top-1 (%)")
    (title,) = methods.loc[methods["method"] == baseline, "title"]
    right.set_xlabel(f"Paired gain over {title} (points)")
    for panel in (left, right):
        panel.grid(axis="x", color="#E3E3E3", linewidth=0.6)
        panel.set_axisbelow(True)
        panel.tick_params(axis="y", length=0)


def _draw_row(axes, position: int, values: pd.Series, row: pd.Series, key: str, colour: str):
    axes.plot(
        [row[f"{key}_low"], row[f"{key}_high"]],
        [position, position],
        color=colour,
        linewidth=2.2,
        solid_capstyle="round",
    )
    axes.plot(row[f"{key}_mean"], position, "D", color=colour, markersize=5)
    offsets = [position + 0.22] * len(values)
    axes.plot(values, offsets, "o", markersize=3, color=colour, alpha=0.6, markeredgewidth=0)


def _leave_out_far_rows(axes, rows: pd.DataFrame, key: str, shown: float) -> None:
    """Fit the axis to the other rows where some lie far off; arrows say where those are.

    Args:
        rows: drawn at the heights of their index.
        shown: a value that stays on the axis.
    """
    means = rows[f"{key}_mean"]
    distance = (means - means.median()).abs()
    far = distance > FAR * distance.median()
    near = rows[~far]
    low = min(shown, near[f"{key}_low"].min())
    high = max(shown, near[f"{key}_high"].max())
    if not far.any() or low == high:
        return
    margin = 0.05 * (high - low)
    axes.set_xlim(low - margin, high + margin)
    for position, row in rows[far].iterrows():
        mean, *ends = (row[f"{key}_{part}"] for part in ("mean", "low", "high"))
        is_left = mean < low
        axes.annotate(
            f"{mean:.1f} [{ends[0]:.1f}, {ends[1]:.1f}]",
            (0 if is_left else 1, position - 0.28),
            xycoords=("axes fraction", "data"),
            xytext=(16 if is_left else -16, 0),
            textcoords="offset points",
            ha="left" if is_left else "right",
            va="center",
            fontsize=7,
            arrowprops={"arrowstyle": "->", "color": GREY},
        )


def draw_recipes(
    rows: pd.DataFrame,
    seeds: pd.DataFrame,
    public: pd.DataFrame,
    baseline: str,
    baseline_title: str,
    caption: str,
) -> Figure:
    """The paired gain over the baseline against the budget: a panel a method, and public runs.

    Args:
        rows: as in recipes.csv.
        seeds: as in recipes_seeds.csv.
        public: epoch and lead over soft KD of public runs, as ``public_leads`` returns them.
    """
    methods = [name for name in rows["method"].unique() if name != baseline]
    columns = min(3, len(methods) + 1)
    lines = -(-(len(methods) + 1) // columns)
    by_seed = seeds.pivot(index="seed", columns=["recipe", "epochs", "method"], values="top1")
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            lines,
            columns,
            figsize=(8.2 * columns / 3, 2.2 * lines + 0.8),
            squeeze=False,
            layout="constrained",
        )
        panels = axes.flatten()
        for axis, method in zip(panels, methods, strict=False):
            axis.sharey(panels[0])
            _draw_gains(axis, rows[rows["method"] == method], by_seed, baseline)
        panels[0].legend(frameon=False, fontsize=7.5)
        for axis in panels[len(methods) + 1 :]:
            axis.set_visible(False)
        _draw_public_leads(panels[len(methods)], public)
        figure.supylabel(f"Paired gain over {baseline_title} (points)", fontsize=9)
        width = int(CAPTION_WIDTH * figure.get_figwidth() / 8.2)
        figure.supxlabel(textwrap.fill(caption, width), fontsize=6.5, x=0.01, ha="left")
    return figure


def _draw_gains(axis, rows: pd.DataFrame, by_seed: pd.DataFrame, baseline: str) -> None:
    """One method's panel; recipes stand side by side at each budget.

    Args:
        by_seed: top-1, a row a seed, a column a recipe, budget and method.
    """
    budgets = sorted(rows["epochs"].unique())
    recipes = list(rows["recipe"].unique())
    for number, recipe in enumerate(recipes):
        own = rows[rows["recipe"] == recipe].set_index("epochs").loc[budgets]
        method, colour = own["method"].iloc[0], SERIES[number % len(SERIES)]
        places = [place + 0.22 * (number - (len(recipes) - 1) / 2) for place in range(len(budgets))]
        axis.plot(places, own["gain_mean"], color=colour, linewidth=1, alpha=0.6)
        axis.vlines(places, own["gain_low"], own["gain_high"], color=colour, linewidth=2)
        marker = MARKERS[number % len(MARKERS)]
        axis.plot(
            places, own["gain_mean"], marker, color=colour, markersize=5, label=f"Recipe {recipe}"
        )
        for place, budget in zip(places, budgets, strict=True):
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
    axis.grid(axis="y", color="#E3E3E3", linewidth=0.6)
    axis.set_axisbelow(True)


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


def draw_ablation(rows: pd.DataFrame, seeds: pd.DataFrame, baseline: str, caption: str) -> Figure:
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
            figsize=(8.2, 0.3 * (len(rows) + len(groups)) + 1.2),
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
                    _draw_row(left, position, runs["change"], row, "change", BLUE)
                _draw_row(right, position, runs["gain"], row, "gain", ORANGE)
                labels.append(row["variant"])
            position += 1
        for axis in (left, right):
            axis.axvline(0, color=GREY, linewidth=1)
            axis.grid(axis="x", color="#E3E3E3", linewidth=0.6)
            axis.set_axisbelow(True)
            axis.tick_params(axis="y", length=0)
        placed = rows.set_index(pd.Index(heights))
        _leave_out_far_rows(left, placed, "change", shown=0)
        _leave_out_far_rows(right, placed, "gain", shown=0)
        left.set_yticks(heights, labels)
        left.set_ylim(position - 0.4, -1.5)
        left.set_xlabel("Change of top-1 (points)")
        right.set_xlabel(f"Paired gain over {baseline} (points)")
        figure.supxlabel(textwrap.fill(caption, CAPTION_WIDTH), fontsize=6.5, x=0.01, ha="left")
    return figure


def draw_detection(rows: pd.DataFrame, seeds: pd.DataFrame, baseline: str, caption: str) -> Figure:
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
                _draw_row(left, position, by_seed[method], row, "ap", colour)
                if method != reference:
                    gains = by_seed[method] - by_seed[reference]
                    _draw_row(right, position, gains, row, "gain", colour)
            left.set_title(f"{detector}, {name} AP", loc="left", fontsize=9)
            left.set_yticks(range(len(own)), own["title"])
            left.set_ylim(len(own) - 0.5, -0.5)
            left.set_xlabel(f"{name.capitalize()} AP (%)")
            right.set_xlabel(f"Paired gain over {baseline} (points)")
            right.axvline(0, color=GREY, linewidth=1)
            for panel in (left, right):
                panel.grid(axis="x", color="#E3E3E3", linewidth=0.6)
                panel.set_axisbelow(True)
                panel.tick_params(axis="y", length=0)
        figure.supxlabel(textwrap.fill(caption, CAPTION_WIDTH), fontsize=6.5, x=0.01, ha="left")
    return figure


def draw_transfer(
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
    protocols = {key: title for key, title in protocols.items() if key in set(rows["protocol"])}
    methods = rows.drop_duplicates("method")
    height = 0.2 * len(methods) + 0.5
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(names),
            len(protocols),
            figsize=(8.2, height * len(names) + 1.0),
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
                    is_manifold = row["method"].startswith("manifold")
                    colour = {"untrained": GREY}.get(row["method"], ORANGE if is_manifold else BLUE)
                    gains = runs.loc[runs["method"] == row["method"], "gain"]
                    _draw_row(axis, position, gains, row, "gain", colour)
                axis.axvline(0, color=GREY, linewidth=1)
                axis.set_title(f"{name}: {title}", loc="left", fontsize=8)
                axis.grid(axis="x", color="#E3E3E3", linewidth=0.6)
                axis.set_axisbelow(True)
                axis.tick_params(axis="y", length=0, labelsize=7.5)
                axis.tick_params(axis="x", labelsize=7.5)
        axes[0, 0].set_yticks(range(len(methods)), methods["title"])
        axes[0, 0].set_ylim(len(methods) - 0.5, -0.5)
        for axis in axes[-1]:
            axis.set_xlabel(f"Paired gain over {baseline}, all images", fontsize=8)
        figure.supxlabel(textwrap.fill(caption, CAPTION_WIDTH), fontsize=6.5, x=0.01, ha="left")
    return figure
