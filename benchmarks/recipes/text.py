"""The recipe study as text."""

import pandas as pd

from benchmarks.evidence.between_methods import parts as on_contrasts
from benchmarks.evidence.statistics import rank_agreement
from benchmarks.evidence.words import (
    after_correction,
    capital,
    from_intervals_alone,
    in_epochs,
    interval_columns,
    readable_interval,
    readable_number,
    readable_p,
    sentence,
    verdicts,
)
from benchmarks.recipes import Budgets, RecipeStudy
from benchmarks.recipes.measure import Measured


def readable(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows as text."""
    has_factors = rows["factor"].notna().any()
    return pd.DataFrame(
        [
            {
                **({"Factor changed": row["factor"] or "none"} if has_factors else {}),
                "Recipe": row["recipe"],
                "Epochs": row["epochs"],
                "Images seen": f"{row['images_seen']:,}",
                "Steps": f"{row['steps']:,}",
                "Method": row["title"],
                "n": row["n"],
                "Top-1 (%)": readable_interval(row, "top1"),
                "Gain": readable_interval(row, "gain", "+"),
                "p (Holm)": readable_p(row["p_holm"]),
                "Behind the teacher": readable_number(row["behind_teacher"], ".2f"),
                "Teacher": row["teacher_sha256"][:8],
            }
            for _, row in rows.iterrows()
        ]
    )


def parts(study: Measured, whole: Budgets) -> list[str | list[str] | pd.DataFrame]:
    """What stands below the caption."""
    changes = pd.DataFrame(
        [
            {
                "Method": row["title"],
                "Question": row["question"],
                "Change of its gain (points)": readable_interval(row, "change", "+"),
                "By its interval alone it is": row["gain"],
                "p (Holm)": readable_p(row["p_holm"]),
            }
            for _, row in study.changes.iterrows()
        ]
    )
    return [
        readable(study.rows),
        *(_on_factors(whole) if isinstance(whole, RecipeStudy) else []),
        *([] if study.variance is None else _on_variance(study.variance)),
        "## How the gain moves",
        "Differences of gains, seed by seed; p after Holm over the methods of a question.",
        changes,
        *on_contrasts(
            study.contrasts,
            whole.experiment,
            {"recipe": "Recipe", "epochs": "Epochs"},
            "recipe and budget",
        ),
        "## In words",
        from_intervals_alone(whole.experiment.statistics.confidence),
        _in_words(study, whole),
    ]


def _on_factors(whole: RecipeStudy) -> list[str | pd.DataFrame]:
    """Every value that a factor's recipe changes, read from the recipes."""
    reference, budgets = whole.settings.reference, whole.settings.epochs
    rows = [
        {
            "Factor": arm.factor,
            "Recipe": arm.recipe,
            f"Changed in {reference}": "; ".join(
                f"{key} {_value(other)} instead of {_value(own)}"
                for key, (own, other) in whole.changes(arm.recipe).items()
            ),
            "Epochs": ", ".join(str(epochs * arm.epochs_factor) for epochs in budgets),
        }
        for arm in whole.arms
        if arm.factor
    ]
    return [
        "## What each factor changes",
        f"Budgets are in epochs of {reference}: {', '.join(map(str, budgets))}. A factor whose "
        "epochs are others sees as many times the images.",
        pd.DataFrame(rows),
    ]


def _value(value: object) -> str:
    if value is None:
        return "off"
    if isinstance(value, dict):
        return f"({', '.join(f'{key} {each}' for key, each in value.items())})"
    return str(value)


def _on_variance(shares: pd.DataFrame) -> list[str | pd.DataFrame]:
    variance = pd.DataFrame(
        [
            {
                "Factor": row["factor"],
                "Effect": row["effect"],
                "Share of the variance of top-1 (%)": readable_interval(row, "share", digits=1),
                "n": row["n"],
            }
            for _, row in shares.iterrows()
        ]
    )
    return [
        f"## {RecipeStudy.question}",
        "Shares of the sum of squares within a seed, mean and interval over seeds (cut at 0 "
        "and 100), in the grid of methods, budgets and a factor's two recipes. They are shares of "
        "this grid: other methods, factors or budgets would give others. The interaction of all "
        "three also holds the noise of single runs.",
        variance,
    ]


def _in_words(study: Measured, whole: Budgets) -> list[str]:
    """Say what the intervals decide: a line a recipe and budget, then a question."""
    experiment = whole.experiment
    baseline = experiment.method_definitions[whole.settings.baseline].title
    level = 1 - experiment.statistics.confidence
    gains = study.rows[study.rows["gain_mean"].notna()]
    labels = {arm.recipe: capital(arm.label) for arm in whole.arms}
    lines = []
    for (recipe, epochs), own in gains.groupby(["recipe", "epochs"], sort=False):
        said = verdicts(own, "gain", f"ahead of {baseline}", f"behind {baseline}", "undecided")
        corrected = after_correction(own, baseline, experiment.statistics.confidence, "title")
        lines.append(f"{labels[recipe]}, {in_epochs(epochs)}. {sentence(said)}. {corrected}")
    for question, own in study.changes.groupby("question", sort=False):
        said = verdicts(own, "change", "larger gain", "smaller gain", "undecided")
        told = own.loc[own["p_holm"] < level, "title"]
        lines.append(
            f"{capital(question)}. {sentence(said)}. Told from no change after Holm's "
            f"correction over all {len(own)} methods, at p < {level:.2g}: "
            f"{'; '.join(told) or 'none'}"
        )
    return [*lines, *_on_order(study, whole), *_on_untouched(study, whole), *_on_largest(study)]


def _on_order(study: Measured, whole: Budgets) -> list[str]:
    """How far the order of the methods at the longest budget is that of the shortest."""
    first, short, long = whole.arms[0], min(whole.settings.epochs), max(whole.settings.epochs)
    if short == long:
        return []
    own = study.seeds[study.seeds["recipe"] == first.recipe]
    orders = [
        {
            method: dict(zip(runs["seed"], runs["top1"], strict=True))
            for method, runs in own[own["budget"] == budget].groupby("method", sort=False)
        }
        for budget in (short, long)
    ]
    found = rank_agreement(*orders, whole.experiment.statistics.confidence)
    said = readable_interval(pd.Series(interval_columns("tau", found)), "tau", "+")
    return [
        f"{capital(first.label)}: the order of the {len(orders[0])} methods at {in_epochs(long)} "
        f"beside that at {in_epochs(short)}, Kendall's tau (1: the same, -1: turned round): {said}"
    ]


def _on_untouched(study: Measured, whole: Budgets) -> list[str]:
    """Name the methods that a factor does not reach: all of their runs end as the reference's."""
    top1 = study.seeds.pivot(index=["budget", "seed"], columns=["recipe", "method"], values="top1")
    first, *others = whole.arms
    lines = []
    for arm in (arm for arm in others if arm.factor):
        names = [
            whole.experiment.method_definitions[method].title
            for method in whole.settings.methods
            if (top1[arm.recipe, method] == top1[first.recipe, method]).all()
        ]
        if names:
            lines.append(
                f"{capital(arm.factor)}: does not reach {'; '.join(names)}, whose every run ends "
                f"as under {first.label}; what moves there is the baseline alone"
            )
    return lines


def _on_largest(study: Measured) -> list[str]:
    """Which effect explains most in the grid of each factor."""
    if study.variance is None:
        return []
    largest = study.variance.loc[study.variance.groupby("factor")["share_mean"].idxmax()]
    return [
        f"{capital(row['factor'])}: the largest share of the variance of top-1 in its grid: "
        f"{row['effect']}"
        for _, row in largest.iterrows()
    ]
