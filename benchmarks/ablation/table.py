"""The rows of the ablation, and their words."""

from dataclasses import dataclass

import pandas as pd

from benchmarks.ablation import REFERENCE, Ablation, Variant
from benchmarks.evidence.captions import detectable_in_words, least_difference
from benchmarks.evidence.statistics import holm, mean_interval, paired_difference
from benchmarks.evidence.words import (
    after_correction,
    against,
    in_epochs,
    interval_columns,
    readable_interval,
    readable_p,
    sentence,
    verdicts,
)
from manifold.training.records import read_teacher


@dataclass
class Measured:
    """The measured ablation.

    Attributes:
        rows: the reference, then one a variant: top-1, the paired gain over the baseline under the
            same pair and recipe, and the paired change of top-1 against the reference.
        seeds: one a variant and seed.
    """

    rows: pd.DataFrame
    seeds: pd.DataFrame
    caption: str


def measure(study: Ablation) -> Measured:
    """Read the cells and compute the ablation."""
    experiment, ablation = study.experiment, study.settings
    confidence, cells = experiment.statistics.confidence, study.students()
    records = {
        (pair, recipe, method): runs
        for (pair, recipe, epochs), methods in cells.items()
        for method, runs in study.collect(pair, recipe, epochs, methods).items()
    }
    teachers = {pair: read_teacher(experiment, pair) for pair, _, _ in cells}
    top1 = {
        key: {seed: run["result"]["top1"] for seed, run in runs.items()}
        for key, runs in records.items()
    }
    reference = study.reference
    variants = {REFERENCE: [reference], **study.variants()}
    changes = {
        key: paired_difference(top1[key], top1[reference], confidence)
        for keys in variants.values()
        for key in keys
        if key != reference
    }
    adjusted = holm({key: change.p for key, change in changes.items()})
    rows, seeds = [], []
    for group, keys in variants.items():
        for key in keys:
            pair, recipe, method = key
            baseline = top1[pair, recipe, ablation.baseline]
            mean = mean_interval(list(top1[key].values()), confidence)
            gain, change = paired_difference(top1[key], baseline, confidence), changes.get(key)
            run = next(iter(records[key].values()))
            names = {"group": group, "variant": _title(study, key)}
            names |= {"pair": pair, "recipe": recipe, "method": method}
            rows.append(
                {
                    **names,
                    "epochs": ablation.epochs,
                    "images_seen": run["images_seen"],
                    "n": mean.n,
                    **interval_columns("top1", mean),
                    **interval_columns("change", change),
                    "p_holm": adjusted.get(key),
                    "baseline_mean": sum(baseline.values()) / len(baseline),
                    **interval_columns("gain", gain),
                    "teacher_top1": teachers[pair]["top1"],
                    "teacher_sha256": run["teacher_sha256"],
                }
            )
            seeds += [
                {
                    **names,
                    "seed": seed,
                    "top1": value,
                    "change": value - top1[reference][seed],
                    "gain": value - baseline[seed],
                    "git_commit": records[key][seed]["environment"]["git_commit"],
                    "fingerprint": records[key][seed]["fingerprint"],
                }
                for seed, value in top1[key].items()
            ]
    result = next(iter(records[reference].values()))["result"]
    least = [
        (least_difference(top1[key], top1[reference], experiment.statistics), _title(study, key))
        for key in changes
    ]
    return Measured(
        rows=pd.DataFrame(rows),
        seeds=pd.DataFrame(seeds),
        caption=(
            f"Scale {experiment.name}: {experiment.description}. Top-1 (%) of the last epoch on "
            f"{result['images']:,} {result['split']} images. The reference is {ablation.reference} "
            f"with pair {ablation.pair}, recipe {ablation.recipe}, {in_epochs(ablation.epochs)}; "
            f"each variant changes one thing. n = {len(study.seeds)} paired seeds, "
            f"{100 * confidence:g} % t intervals. Change: seed-by-seed difference of top-1 to the "
            "reference, p after Holm over all variants. "
            f"{detectable_in_words(least, experiment.statistics, what='change', of='variant')}"
            f"Gain: seed-by-seed difference to {ablation.baseline} under the variant's own pair "
            "and recipe."
        ),
    )


def _title(study: Ablation, key: Variant) -> str:
    """A variant is called by what differs from the reference."""
    pair, recipe, method = key
    ablation = study.settings
    if pair != ablation.pair:
        return f"Pair {pair}"
    if recipe != ablation.recipe:
        return f"Recipe {recipe}"
    return study.experiment.method_definitions[method].title


# ---- as text --------------------------------------------------------------------------------


def readable(rows: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """The rows as text."""
    return pd.DataFrame(
        [
            {
                "Group": row["group"],
                "Variant": row["variant"],
                "n": row["n"],
                "Top-1 (%)": readable_interval(row, "top1"),
                "Change": readable_interval(row, "change", "+"),
                "p (Holm)": readable_p(row["p_holm"]),
                f"{baseline}, same pair and recipe": f"{row['baseline_mean']:.2f}",
                f"Gain over {baseline}": readable_interval(row, "gain", "+"),
                "Epochs": row["epochs"],
                "Images seen": f"{row['images_seen']:,}",
                "Recipe": row["recipe"],
                "Teacher": _teacher(row),
            }
            for _, row in rows.iterrows()
        ]
    )


def _teacher(row: pd.Series) -> str:
    """Its file, and its accuracy where it has a classifier."""
    name = row["teacher_sha256"][:8]
    return name if pd.isna(row["teacher_top1"]) else f"{name} ({row['teacher_top1']:.2f} %)"


def in_words(rows: pd.DataFrame, baseline: str, confidence: float) -> list[str]:
    """Say what the intervals decide, group by group, without a number; and what is corrected."""
    lines = []
    for group, own in rows.groupby("group", sort=False):
        said = {}
        if group != REFERENCE:
            said |= verdicts(
                own,
                "change",
                "better than the reference",
                "worse than the reference",
                "not told from it",
                names="variant",
            )
        said |= verdicts(own, "gain", *against(baseline), names="variant")
        lines.append(f"{group}. {sentence(said)}")
    variants = rows[rows["change_mean"].notna()]
    return [
        *lines,
        after_correction(variants, "the reference", confidence, "variant"),
        f"Gains over {baseline} are of single intervals, and corrected for nothing.",
    ]
