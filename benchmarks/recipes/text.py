"""The recipe study as text."""

import pandas as pd

from benchmarks.evidence.words import (
    after_correction,
    readable_interval,
    readable_number,
    readable_p,
    sentence,
    verdicts,
)
from benchmarks.recipes import RecipeStudy
from benchmarks.recipes.measure import Measured, budget


def readable(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows as text."""
    return pd.DataFrame(
        [
            {
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


def parts(study: Measured, whole: RecipeStudy) -> list[str | list[str] | pd.DataFrame]:
    """What stands below the caption."""
    changes = pd.DataFrame(
        [
            {
                "Method": row["title"],
                "Question": row["question"],
                "Change of its gain (points)": readable_interval(row, "change", "+"),
                "The gain is": row["gain"],
                "p (Holm)": readable_p(row["p_holm"]),
            }
            for _, row in study.changes.iterrows()
        ]
    )
    return [
        readable(study.rows),
        *([] if study.variance is None else _on_variance(study.variance)),
        "## How the gain moves",
        "Differences of gains, seed by seed; p after Holm over the methods of a question.",
        changes,
        "## In words",
        _in_words(study, whole),
    ]


def _on_variance(shares: pd.DataFrame) -> list[str | pd.DataFrame]:
    variance = pd.DataFrame(
        [
            {
                "Effect": row["effect"],
                "Share of the variance of top-1 (%)": readable_interval(row, "share", digits=1),
                "n": row["n"],
            }
            for _, row in shares.iterrows()
        ]
    )
    return [
        "## How much is the method, how much the recipe, how much the budget?",
        "Shares of the sum of squares within a seed, mean and interval over seeds (cut at 0 "
        "and 100). They are shares of this grid: other methods, recipes or budgets would give "
        "others. The interaction of all three also holds the noise of single runs.",
        variance,
    ]


def _in_words(study: Measured, whole: RecipeStudy) -> list[str]:
    """Say what the intervals decide: a line a recipe and budget, then a question."""
    experiment = whole.experiment
    baseline = experiment.method_definitions[whole.settings.baseline].title
    level = 1 - experiment.statistics.confidence
    gains = study.rows[study.rows["gain_mean"].notna()]
    lines = []
    for (recipe, epochs), own in gains.groupby(["recipe", "epochs"], sort=False):
        said = verdicts(own, "gain", f"ahead of {baseline}", f"behind {baseline}", "undecided")
        corrected = after_correction(own, baseline, experiment.statistics.confidence, "title")
        lines.append(f"Recipe {recipe}, {budget(epochs)}. {sentence(said)}. {corrected}")
    for question, own in study.changes.groupby("question", sort=False):
        said = verdicts(own, "change", "larger gain", "smaller gain", "undecided")
        told = own.loc[own["p_holm"] < level, "title"]
        lines.append(
            f"{question[0].upper()}{question[1:]}. {sentence(said)}. After Holm's correction over "
            f"all {len(own)} methods, at p < {level:.2g}: {'; '.join(told) or 'none'}"
        )
    if study.variance is not None:
        largest = study.variance.loc[study.variance["share_mean"].idxmax(), "effect"]
        lines.append(f"The largest share of the variance of top-1 in this grid: {largest}")
    return lines
