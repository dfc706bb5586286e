"""Differences between two methods of a table, of which neither need be the baseline."""

import pandas as pd

from benchmarks.evidence.statistics import are_equivalent, holm, paired_difference
from benchmarks.evidence.words import interval_columns, readable_interval, readable_p
from benchmarks.table1 import Table1
from manifold.settings import Experiment
from manifold.settings.experiment import Statistics

Values = dict[str, dict[int, float]]  # of a pair: method → seed → top-1


def contrasts(study: Table1, top1: dict[str, Values]) -> pd.DataFrame:
    """The paired difference of each contrast of the section; Holm's correction over a pair's.

    A contrast is left out where the table lacks one of its methods.

    Args:
        top1: by pair of networks.
    """
    statistics, rows = study.experiment.statistics, []
    for pair, values in top1.items():
        asked = [each for each in study.table.contrasts if set(each) <= values.keys()]
        found = {
            (first, second): paired_difference(values[first], values[second], statistics.confidence)
            for first, second in asked
        }
        adjusted = holm({each: interval.p for each, interval in found.items()})
        for (first, second), interval in found.items():
            both = values[first], values[second]
            rows.append(
                {
                    "pair": pair,
                    "first": first,
                    "second": second,
                    **interval_columns("difference", interval),
                    "n": interval.n,
                    "p": interval.p,
                    "p_holm": adjusted[first, second],
                    "within_margin": are_equivalent(
                        *both, statistics.margin, statistics.confidence
                    ),
                }
            )
    return pd.DataFrame(rows)


def parts(rows: pd.DataFrame, experiment: Experiment) -> list[str | pd.DataFrame]:
    """What stands of them in the table's document; nothing where there are none."""
    if not len(rows):
        return []
    statistics = experiment.statistics

    def title(method: str) -> str:
        return experiment.method_definitions[method].title

    shown = pd.DataFrame(
        {
            "Difference": f"{title(row['first'])} − {title(row['second'])}",
            **({"Pair": row["pair"]} if rows["pair"].nunique() > 1 else {}),
            "n": row["n"],
            "Top-1 (points)": readable_interval(row, "difference", "+"),
            "p (Holm)": readable_p(row["p_holm"]),
            "Decided": decided(row, statistics),
        }
        for _, row in rows.iterrows()
    )
    return [
        "## Between two methods",
        "Paired differences, seed by seed; p after Holm over these. Ahead and behind: at p < "
        f"{1 - statistics.confidence:.2g}; within {statistics.margin:g} points: by two one-sided "
        "tests.",
        shown,
    ]


def decided(row: pd.Series, statistics: Statistics) -> str:
    """What a row says of its difference, in words."""
    words = []
    if row["p_holm"] < 1 - statistics.confidence:
        words.append("ahead" if row["difference_mean"] > 0 else "behind")
    if row["within_margin"]:
        words.append(f"within {statistics.margin:g} points")
    return ", ".join(words) or "undecided"
