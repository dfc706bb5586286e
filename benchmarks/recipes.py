"""Method, recipe and budget apart: the same methods under several recipes and epoch budgets.

``python -m benchmarks.recipes --config scale=mini`` writes ``recipes.{md,csv,tex,png,pdf}``,
``recipes_variance.csv`` and ``recipes_seeds.csv`` from the cells that have been trained.
"""

from dataclasses import dataclass
from itertools import chain, combinations
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.cells import collect
from benchmarks.figures import draw_recipes
from benchmarks.reporting import (
    after_correction,
    interval_columns,
    latex,
    readable_interval,
    readable_p,
    sentence,
    verdicts,
    write_figure,
)
from manifold import command
from manifold.config import Experiment
from manifold.files import write_text
from manifold.statistics import Interval, gains_over, holm, mean_interval, paired_difference

FACTORS = ("method", "recipe", "epochs")
PUBLIC_CAPTION = (
    "Last panel: public ImageNet runs of DeiT-Ti ← CaiT-S24 under recipe B (thy960112/"
    "Distillation-Dynamics), one run each; mid-points of one schedule, not budgets of their own."
)
# The runs that match the first and the last block; the others are in the same file.
PUBLIC_METHODS = {
    "spectralkd_first1_last1": "SpectralKD",
    "projector_first1_last1": "Projected features",
}


@dataclass
class Recipes:
    """The measured study.

    Attributes:
        rows: one a recipe, budget and method: top-1 and the paired gain over the baseline.
        variance: one an effect: the share of the variance of top-1 that it explains.
        changes: one a question: how a method's gain differs between budgets, or between recipes.
        seeds: one a run.
        public: one an epoch: the lead over soft KD in the public ImageNet runs.
    """

    rows: pd.DataFrame
    variance: pd.DataFrame
    changes: pd.DataFrame
    seeds: pd.DataFrame
    public: pd.DataFrame
    caption: str


def build(experiment: Experiment) -> Recipes:
    """Read the cells and compute the study."""
    study = experiment.recipe_study
    records = {
        (recipe, epochs): collect(experiment, pair, recipe, epochs, methods)
        for (pair, recipe, epochs), methods in experiment.recipe_study_cells().items()
    }
    seeds = pd.DataFrame(
        [
            {
                "recipe": recipe,
                "epochs": epochs,
                "method": method,
                "seed": seed,
                "top1": run["result"]["top1"],
                "images_seen": run["images_seen"],
                "steps": run["images_seen"] // experiment.recipes[recipe].batch_size,
                "teacher_sha256": run["teacher_sha256"],
                "git_commit": run["environment"]["git_commit"],
                "fingerprint": run["fingerprint"],
            }
            for (recipe, epochs), runs_of in records.items()
            for method, runs in runs_of.items()
            for seed, run in runs.items()
        ]
    )
    confidence = experiment.statistics.confidence
    first = next(iter(records[study.recipes[0], study.epochs[0]][study.baseline].values()))
    return Recipes(
        rows=_rows(experiment, seeds),
        variance=variance_shares(seeds, confidence),
        changes=_changes(experiment, seeds),
        seeds=seeds,
        public=public_leads(Path(study.public_curves)),
        caption=(
            f"Scale {experiment.name}: {experiment.description}. Top-1 (%) of the last epoch on "
            f"{first['result']['images']:,} {first['result']['split']} images; pair {study.pair}, "
            f"recipes {', '.join(study.recipes)}, budgets of "
            f"{', '.join(map(str, study.epochs))} epochs, each with its own full schedule. "
            f"n = {len(experiment.seeds)} paired seeds, {100 * confidence:g} % t intervals; gains "
            f"are seed-by-seed differences to {study.baseline} under the same recipe and budget, p "
            "after Holm over each recipe and budget."
        ),
    )


def _by_seed(seeds: pd.DataFrame, recipe: str, epochs: int, method: str) -> dict[int, float]:
    chosen = (seeds["recipe"] == recipe) & (seeds["epochs"] == epochs) & (seeds["method"] == method)
    return dict(zip(seeds.loc[chosen, "seed"], seeds.loc[chosen, "top1"], strict=True))


def _rows(experiment: Experiment, seeds: pd.DataFrame) -> pd.DataFrame:
    study, confidence = experiment.recipe_study, experiment.statistics.confidence
    rows = []
    for recipe in study.recipes:
        for epochs in study.epochs:
            top1 = {method: _by_seed(seeds, recipe, epochs, method) for method in study.methods}
            gains = gains_over(study.baseline, top1, confidence)
            adjusted = holm({method: gain.p for method, gain in gains.items()})
            runs = seeds[(seeds["recipe"] == recipe) & (seeds["epochs"] == epochs)].iloc[0]
            for method, values in top1.items():
                mean, gain = mean_interval(list(values.values()), confidence), gains.get(method)
                rows.append(
                    {
                        "recipe": recipe,
                        "epochs": epochs,
                        "images_seen": runs["images_seen"],
                        "steps": runs["steps"],
                        "method": method,
                        "title": experiment.method_definitions[method].title,
                        "n": mean.n,
                        **interval_columns("top1", mean),
                        **interval_columns("gain", gain),
                        "p_holm": adjusted.get(method),
                        "teacher_sha256": runs["teacher_sha256"],
                    }
                )
    return pd.DataFrame(rows)


def _changes(experiment: Experiment, seeds: pd.DataFrame) -> pd.DataFrame:
    """How each gain moves: longest against shortest budget, and recipe against recipe."""
    study = experiment.recipe_study
    short, long = min(study.epochs), max(study.epochs)
    questions = [
        (f"recipe {recipe}: {_budget(long)} against {short}", (recipe, long), (recipe, short))
        for recipe in study.recipes
    ] + [
        (f"{_budget(epochs)}: recipe {other} against {study.recipes[0]}", (other, epochs), first)
        for epochs in study.epochs
        for first in [(study.recipes[0], epochs)]
        for other in study.recipes[1:]
    ]

    def gain(where: tuple[str, int], method: str) -> dict[int, float]:
        values = _by_seed(seeds, *where, method)
        baseline = _by_seed(seeds, *where, study.baseline)
        return {seed: value - baseline[seed] for seed, value in values.items()}

    rows = []
    for method in study.methods:
        for question, one, other in questions if method != study.baseline else []:
            change = paired_difference(
                gain(one, method), gain(other, method), experiment.statistics.confidence
            )
            rows.append(
                {
                    "method": method,
                    "title": experiment.method_definitions[method].title,
                    "question": question,
                    **interval_columns("change", change),
                    "n": change.n,
                    "gain": _movement(change),
                }
            )
    return pd.DataFrame(rows)


def _budget(epochs: int) -> str:
    return "1 epoch" if epochs == 1 else f"{epochs} epochs"


def _movement(change: Interval) -> str:
    if change.low > 0:
        return "larger"
    return "smaller" if change.high < 0 else "undecided"


def variance_shares(seeds: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """The share of the variance of top-1 that method, recipe and budget explain.

    Within a seed the runs are a complete factorial design without replicates; its total sum of
    squares is the sum over all effects, main effects and interactions, each orthogonal to the
    others. The decomposition is made seed by seed, so that a share has an interval over seeds. The
    interaction of all three factors also holds the noise of single runs.

    Source: analysis of variance of a balanced design, eta squared = SS(effect) / SS(total).

    Args:
        seeds: columns seed, method, recipe, epochs and top1, one row a run.

    Returns:
        Columns effect, share_mean, share_low, share_high (in %), n; intervals are cut at 0 and 100.

    Raises:
        ValueError: the runs are not a complete design, or all have the same top-1.
    """
    effects = list(chain.from_iterable(combinations(FACTORS, size) for size in (1, 2, 3)))
    shares: dict[tuple[str, ...], list[float]] = {effect: [] for effect in effects}
    expected = np.prod([seeds[factor].nunique() for factor in FACTORS])
    for seed, runs in seeds.groupby("seed"):
        if len(runs) != expected or runs.duplicated(list(FACTORS)).any():
            raise ValueError(f"seed {seed} has {len(runs)} runs, a complete design {expected}")
        total = ((runs["top1"] - runs["top1"].mean()) ** 2).sum()
        if total == 0:
            raise ValueError(f"seed {seed}: every run has the same top-1, nothing to explain")
        explained: dict[tuple[str, ...], pd.Series] = {(): runs["top1"] * 0 + runs["top1"].mean()}
        for effect in effects:
            cell_mean = runs.groupby(list(effect))["top1"].transform("mean")
            below = [part for part in explained if set(part) < set(effect)]
            explained[effect] = cell_mean - sum(explained[part] for part in below)
            shares[effect].append(100 * float((explained[effect] ** 2).sum() / total))
    rows = []
    for effect, values in shares.items():
        share = mean_interval(values, confidence)
        rows.append(
            {
                "effect": " × ".join("budget" if part == "epochs" else part for part in effect),
                "share_mean": share.mean,
                "share_low": max(0.0, share.low),
                "share_high": min(100.0, share.high),
                "n": share.n,
            }
        )
    return pd.DataFrame(rows)


def public_leads(path: Path) -> pd.DataFrame:
    """The lead over soft KD at each epoch of the public 300-epoch runs, in points of top-1.

    Source: thy960112/Distillation-Dynamics, logs at commit 5086c56.
    """
    curves = pd.read_csv(path)
    curves = curves[curves["schedule_epochs"] == 300]
    top1 = curves.pivot(index="epoch", columns="method", values="top1")
    leads = [
        pd.DataFrame(
            {
                "method": name,
                "title": title,
                "epoch": top1.index,
                "lead": top1[name] - top1["soft_kd"],
            }
        )
        for name, title in PUBLIC_METHODS.items()
    ]
    return pd.concat(leads, ignore_index=True).dropna()


# ---- writing ---------------------------------------------------------------------------------


def write(study: Recipes, experiment: Experiment) -> None:
    """Write every format into the experiment's folder."""
    directory = experiment.directory
    readable = _readable(study.rows)
    write_text(directory / "recipes.csv", study.rows.to_csv(index=False))
    write_text(directory / "recipes_variance.csv", study.variance.to_csv(index=False))
    write_text(directory / "recipes_seeds.csv", study.seeds.to_csv(index=False))
    write_text(directory / "recipes.md", _markdown(study, readable, experiment))
    write_text(directory / "recipes.tex", latex(readable, study.caption))
    baseline = experiment.method_definitions[experiment.recipe_study.baseline].title
    figure = draw_recipes(
        study.rows,
        study.seeds,
        study.public,
        experiment.recipe_study.baseline,
        baseline,
        f"{study.caption} {PUBLIC_CAPTION}",
    )
    write_figure(figure, directory, "recipes")


def _readable(rows: pd.DataFrame) -> pd.DataFrame:
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
                "Teacher": row["teacher_sha256"][:8],
            }
            for _, row in rows.iterrows()
        ]
    )


def _markdown(study: Recipes, readable: pd.DataFrame, experiment: Experiment) -> str:
    variance = pd.DataFrame(
        [
            {
                "Effect": row["effect"],
                "Share of the variance of top-1 (%)": f"{row['share_mean']:.1f} "
                f"[{row['share_low']:.1f}, {row['share_high']:.1f}]",
                "n": row["n"],
            }
            for _, row in study.variance.iterrows()
        ]
    )
    changes = pd.DataFrame(
        [
            {
                "Method": row["title"],
                "Question": row["question"],
                "Change of its gain (points)": readable_interval(row, "change", "+"),
                "The gain is": row["gain"],
            }
            for _, row in study.changes.iterrows()
        ]
    )
    return "\n".join(
        [
            f"# Method, recipe and budget, {experiment.name}",
            "",
            study.caption,
            "",
            readable.to_markdown(index=False),
            "",
            "## How much is the method, how much the recipe, how much the budget?",
            "",
            "Shares of the sum of squares within a seed, mean and interval over seeds (cut at 0 "
            "and 100). They are shares of this grid: other methods, recipes or budgets would give "
            "others. The interaction of all three also holds the noise of single runs.",
            "",
            variance.to_markdown(index=False),
            "",
            "## How the gain moves",
            "",
            "Differences of gains, seed by seed, not corrected for their number.",
            "",
            changes.to_markdown(index=False),
            "",
            "## In words",
            "",
            *_in_words(study, experiment),
            "",
        ]
    )


def _in_words(study: Recipes, experiment: Experiment) -> list[str]:
    """Say what the intervals decide: a line a recipe and budget, then a question."""
    baseline = experiment.method_definitions[experiment.recipe_study.baseline].title
    gains = study.rows[study.rows["gain_mean"].notna()]
    lines = []
    for (recipe, epochs), own in gains.groupby(["recipe", "epochs"], sort=False):
        said = verdicts(own, "gain", f"ahead of {baseline}", f"behind {baseline}", "undecided")
        corrected = after_correction(own, baseline, experiment.statistics.confidence, "title")
        lines.append(f"- Recipe {recipe}, {_budget(epochs)}. {sentence(said)}. {corrected}")
    for question, own in study.changes.groupby("question", sort=False):
        said = verdicts(own, "change", "larger gain", "smaller gain", "undecided")
        lines.append(f"- {question[0].upper()}{question[1:]}. {sentence(said)}")
    largest = study.variance.loc[study.variance["share_mean"].idxmax(), "effect"]
    return [*lines, f"- The largest share of the variance of top-1 in this grid: {largest}"]


def main() -> None:
    experiment = command.experiment(command.parser("benchmarks.recipes", __doc__).parse_args())
    write(build(experiment), experiment)


if __name__ == "__main__":
    command.run(main)
