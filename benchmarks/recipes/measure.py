"""The recipe study's numbers: gains, how they move, and shares of the variance."""

from dataclasses import dataclass
from itertools import chain, combinations
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.evidence.between_methods import contrasts
from benchmarks.evidence.captions import detectable_in_words, least_differences
from benchmarks.evidence.cells import metrics_of
from benchmarks.evidence.gains import gain_columns
from benchmarks.evidence.statistics import (
    HIGHEST,
    Interval,
    holm,
    mean_interval,
    paired_difference,
)
from benchmarks.evidence.words import in_epochs, interval_columns
from benchmarks.recipes import Arm, Budgets
from manifold.settings import Experiment, find
from manifold.settings.recorded import Key
from manifold.training.records import read_teacher, teacher_in_words

FACTORS = ("method", "recipe", "budget")
PUBLIC_CAPTION = (
    "Last panel: public ImageNet runs of DeiT-Ti ← CaiT-S24 under the published recipe B "
    "(thy960112/Distillation-Dynamics), one run each; mid-points of one schedule, not budgets of "
    "their own."
)
# The runs that match the first and the last block; the others are in the same file.
PUBLIC_METHODS = {
    "spectralkd_first1_last1": "SpectralKD",
    "projector_first1_last1": "Projected features",
}


@dataclass
class Measured:
    """The measured study.

    Attributes:
        rows: one a recipe, budget and method: top-1 and the paired gain over the baseline.
        variance: one a factor of the recipe and effect: the share of the variance of top-1 that it
            explains with the factor's two values; None where the study has no factors.
        changes: one a question: how a method's gain differs between budgets, or between recipes.
        contrasts: one a recipe, budget and difference between two methods.
        seeds: one a run.
        public: one an epoch: the lead over soft KD in the public ImageNet runs; None where others'
            numbers are left out.
    """

    rows: pd.DataFrame
    variance: pd.DataFrame | None
    changes: pd.DataFrame
    contrasts: pd.DataFrame
    seeds: pd.DataFrame
    public: pd.DataFrame | None
    caption: str


def measure(study: Budgets) -> Measured:
    """Read the cells and compute the study."""
    experiment, settings = study.experiment, study.settings
    seeds = pd.DataFrame(
        [
            {
                "recipe": arm.recipe,
                "factor": arm.factor,
                "budget": budget,
                "epochs": epochs,
                "method": method,
                "seed": seed,
                "top1": run["result"]["top1"],
                "validation_top1": _validation_top1(
                    experiment, (settings.pair, arm.recipe, epochs, method, seed)
                ),
                "images_seen": run["images_seen"],
                "steps": run["images_seen"] // experiment.recipes[arm.recipe].batch_size,
                "teacher_sha256": run["teacher_sha256"],
                "git_commit": run["environment"]["git_commit"],
                "fingerprint": run["fingerprint"],
                "images": run["result"]["images"],
                "split": run["result"]["split"],
            }
            for arm, budget, epochs in study.trainings()
            for method, runs in study.collect(
                settings.pair, arm.recipe, epochs, settings.methods
            ).items()
            for seed, run in runs.items()
        ]
    )
    confidence = experiment.statistics.confidence
    teacher, first = read_teacher(experiment, settings.pair), seeds.iloc[0]
    return Measured(
        rows=_rows(study, seeds, teacher["top1"]),
        variance=_variance(study, seeds),
        changes=_changes(study, seeds),
        contrasts=_contrasts(study, seeds),
        seeds=seeds.drop(columns=["images", "split"]),
        public=None if experiment.claims is None else public_leads(find(settings.public_curves)),
        caption=(
            f"Scale {experiment.name}: {experiment.description}. Top-1 (%) of the last epoch on "
            f"{first['images']:,} {first['split']} images; pair "
            f"{settings.pair}, {_arms_in_words(study)}, budgets of "
            f"{in_epochs(_listed(settings.epochs))}, each with its own full schedule. "
            f"n = {len(study.seeds)} paired seeds, {100 * confidence:g} % t intervals; gains "
            f"are seed-by-seed differences to {settings.baseline} under the same recipe and "
            "budget, p after Holm over each recipe and budget; of changes, over the methods of a "
            f"question. {_detectable(study, seeds)}"
            f"{teacher_in_words(teacher, '')}"
            f"{_lead_in_words(teacher, seeds, experiment.statistics.least_lead)}"
        ),
    )


def _validation_top1(experiment: Experiment, key: Key) -> float | None:
    """Of the last epoch; None where no images are held out."""
    last = metrics_of(experiment, key)[-1].get("validation_top1")
    return float(last) if last else None


def _detectable(study: Budgets, seeds: pd.DataFrame) -> str:
    """What the gains under each recipe and budget would have to be."""
    named = seeds.assign(recipe="recipe " + seeds["recipe"], epochs=seeds["epochs"].map(in_epochs))
    experiment, settings = study.experiment, study.settings
    titles = {method: experiment.method_definitions[method].title for method in settings.methods}
    least = least_differences(
        *(named, "top1", settings.baseline, titles, experiment.statistics), ("recipe", "epochs")
    )
    return detectable_in_words(least, experiment.statistics, of="method, recipe and budget")


def _listed(values: list) -> str:
    """At least two values, with "and" before the last."""
    *first, last = map(str, values)
    return f"{', '.join(first)} and {last}"


def _arms_in_words(study: Budgets) -> str:
    if any(arm.factor for arm in study.arms):
        return f"{study.arms[0].label} and one factor of it changed at a time"
    return f"recipe{'' if len(study.arms) == 1 else 's'} {', '.join(a.recipe for a in study.arms)}"


def _lead_in_words(teacher: dict, seeds: pd.DataFrame, least: float) -> str:
    """How far ahead of its best single student at the longest budget the teacher is."""
    longest = seeds[seeds["budget"] == seeds["budget"].max()]
    leads = {
        split: value - longest[column].max()
        for split, column, value in (
            (teacher["split"], "top1", teacher["top1"]),
            ("validation", "validation_top1", teacher.get("validation_top1")),
        )
        if value is not None and longest[column].notna().all()
    }
    if not leads:
        return ""
    shown = " and ".join(
        f"{lead:+.2f} points on the {split} split" for split, lead in leads.items()
    )
    points = f"{least:g} point{'' if least == 1 else 's'}"
    near = min(leads.values()) < least
    more = f", so that it does not stay {points} ahead of every student" if near else ""
    return f" Its lead over the best single run of a student at the longest budget: {shown}{more}."


def _by_seed(seeds: pd.DataFrame, recipe: str, epochs: int, method: str) -> dict[int, float]:
    chosen = (seeds["recipe"] == recipe) & (seeds["epochs"] == epochs) & (seeds["method"] == method)
    return dict(zip(seeds.loc[chosen, "seed"], seeds.loc[chosen, "top1"], strict=True))


def _rows(whole: Budgets, seeds: pd.DataFrame, teacher: float | None) -> pd.DataFrame:
    experiment, study = whole.experiment, whole.settings
    confidence = experiment.statistics.confidence
    rows = []
    for arm, own_budget, epochs in whole.trainings():
        recipe = arm.recipe
        top1 = {method: _by_seed(seeds, recipe, epochs, method) for method in study.methods}
        columns = gain_columns("top1", top1, study.baseline, confidence)
        runs = seeds[(seeds["recipe"] == recipe) & (seeds["epochs"] == epochs)].iloc[0]
        for method, own in columns.items():
            rows.append(
                {
                    "recipe": recipe,
                    "factor": arm.factor,
                    "budget": own_budget,
                    "epochs": epochs,
                    "images_seen": runs["images_seen"],
                    "steps": runs["steps"],
                    "method": method,
                    "title": experiment.method_definitions[method].title,
                    **own,
                    "behind_teacher": None if teacher is None else teacher - own["top1_mean"],
                    "teacher_sha256": runs["teacher_sha256"],
                }
            )
    return pd.DataFrame(rows)


def _changes(whole: Budgets, seeds: pd.DataFrame) -> pd.DataFrame:
    """How each gain moves: longest against shortest budget, and recipe against the first."""
    experiment, study = whole.experiment, whole.settings
    short, long = min(study.epochs), max(study.epochs)
    first, *others = whole.arms

    def at(arm: Arm, epochs: int) -> tuple[str, int]:
        return arm.recipe, epochs * arm.epochs_factor

    questions = [
        (f"{arm.label}: {in_epochs(longest[1])} against {shortest[1]}", longest, shortest)
        for arm in whole.arms
        for longest, shortest in [(at(arm, long), at(arm, short))]
    ] + [
        (f"{in_epochs(each)}: {_at_budget(arm, each)} against {first.label}", at(arm, each), own)
        for each in study.epochs
        for own in [at(first, each)]
        for arm in others
    ]

    def gain(where: tuple[str, int], method: str) -> dict[int, float]:
        values = _by_seed(seeds, *where, method)
        baseline = _by_seed(seeds, *where, study.baseline)
        return {seed: value - baseline[seed] for seed, value in values.items()}

    rows = []
    for method in study.methods:
        for question, one, other in questions if method != study.baseline else []:
            change = paired_difference(
                *(gain(one, method), gain(other, method), experiment.statistics.confidence),
                most=2 * HIGHEST,  # of two differences
            )
            rows.append(
                {
                    "method": method,
                    "title": experiment.method_definitions[method].title,
                    "question": question,
                    **interval_columns("change", change),
                    "n": change.n,
                    "p": change.p,
                    "gain": _movement(change),
                }
            )
    changes = pd.DataFrame(rows)
    families = changes.groupby("question", sort=False)["p"]
    return changes.assign(p_holm=families.transform(lambda own: pd.Series(holm(own.to_dict()))))


def _contrasts(whole: Budgets, seeds: pd.DataFrame) -> pd.DataFrame:
    """The differences between two methods, under each recipe and budget."""
    study = whole.settings
    groups = {
        (arm.recipe, epochs): {
            method: _by_seed(seeds, arm.recipe, epochs, method) for method in study.methods
        }
        for arm, _, epochs in whole.trainings()
    }
    return contrasts(study.contrasts, groups, ("recipe", "epochs"), whole.experiment.statistics)


def _at_budget(arm: Arm, epochs: int) -> str:
    """A factor, with its epochs where they are others than the budget's."""
    own = epochs * arm.epochs_factor
    return arm.label if own == epochs else f"{arm.label} ({in_epochs(own)})"


def _movement(change: Interval) -> str:
    if change.low > 0:
        return "larger"
    return "smaller" if change.high < 0 else "undecided"


def _variance(study: Budgets, seeds: pd.DataFrame) -> pd.DataFrame | None:
    """The shares of method, budget and each factor, in the grid of the factor's two values."""
    first, *others = study.arms
    confidence = study.experiment.statistics.confidence
    tables = [
        variance_shares(seeds[seeds["recipe"].isin((first.recipe, arm.recipe))], confidence, factor)
        for arm in others
        if (factor := arm.factor) is not None
    ]
    return pd.concat(tables, ignore_index=True) if tables else None


def variance_shares(seeds: pd.DataFrame, confidence: float, factor: str) -> pd.DataFrame:
    """The share of the variance of top-1 that method, a factor of the recipe and budget explain.

    Within a seed the runs are a complete factorial design without replicates; its total sum of
    squares is the sum over all effects, main effects and interactions, each orthogonal to the
    others. The decomposition is made seed by seed, so that a share has an interval over seeds. The
    interaction of all three factors also holds the noise of single runs.

    Source: analysis of variance of a balanced design, eta squared = SS(effect) / SS(total).

    Args:
        seeds: columns seed, method, recipe, budget and top1, one row a run.
        factor: in words, what the recipes differ in.

    Returns:
        Columns factor, effect, share_mean, share_low, share_high, share_cut (in %), n.

    Raises:
        ValueError: the runs are not a complete design, or all have the same top-1.
    """
    effects = list(chain.from_iterable(combinations(FACTORS, size) for size in (1, 2, 3)))
    shares: dict[tuple[str, ...], list[float]] = {effect: [] for effect in effects}
    expected = np.prod([seeds[column].nunique() for column in FACTORS])
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
                "factor": factor,
                "effect": " × ".join(factor if part == "recipe" else part for part in effect),
                **interval_columns("share", share),
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
