"""Differences between two methods of a table, of which neither need be the baseline."""

from typing import Any

import pandas as pd

from benchmarks.evidence.contrasts import Contrast, contrasted
from benchmarks.evidence.statistics import are_equivalent, holm, paired_difference
from benchmarks.evidence.words import interval_columns, readable_interval, readable_p
from manifold.settings import Experiment
from manifold.settings.experiment import Statistics

Values = dict[str, dict[int, float]]  # method → seed → top-1


def contrasts(
    asked: list[Contrast],
    groups: dict[tuple, Values],
    names: tuple[str, ...],
    statistics: Statistics,
) -> pd.DataFrame:
    """The paired difference of each contrast in each group; Holm's correction within a group.

    A contrast is left out where a group lacks one of its methods.

    Args:
        groups: what is compared within, by its key.
        names: the columns that such a key stands in.
    """
    rows = []
    for key, values in groups.items():
        found = {
            (first, second): paired_difference(values[first], values[second], statistics.confidence)
            for first, second in contrasted(asked, list(values))
        }
        adjusted = holm({each: interval.p for each, interval in found.items()})
        for (first, second), interval in found.items():
            both = values[first], values[second]
            rows.append(
                {
                    **dict(zip(names, key, strict=True)),
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


def parts(
    rows: pd.DataFrame, experiment: Experiment, names: dict[str, str], group: str
) -> list[str | pd.DataFrame]:
    """What stands of them in a table's document; nothing where there are none.

    Args:
        names: of the columns that a group's key stands in; shown where there are several values.
        group: what a group is called.
    """
    if not len(rows):
        return []
    statistics = experiment.statistics
    several = {key: name for key, name in names.items() if rows[key].nunique() > 1}
    within = f", within each {group}" if several else ""

    def title(method: str) -> str:
        return experiment.method_definitions[method].title

    def shown(row: pd.Series) -> dict[str, Any]:
        return {
            "Difference": f"{title(row['first'])} − {title(row['second'])}",
            **{name: row[key] for key, name in several.items()},
            "n": row["n"],
            "Top-1 (points)": readable_interval(row, "difference", "+"),
            "p (Holm)": readable_p(row["p_holm"]),
            "Decided": decided(row, statistics),
        }

    return [
        "## Between two methods",
        f"Paired differences, seed by seed; p after Holm over these{within}. Ahead and behind: at "
        f"p < {1 - statistics.confidence:.2g}; within {statistics.margin:g} points: by two "
        "one-sided tests.",
        pd.DataFrame(shown(row) for _, row in rows.iterrows()),
    ]


def decided(row: pd.Series, statistics: Statistics) -> str:
    """What a row says of its difference, in words."""
    words = []
    if row["p_holm"] < 1 - statistics.confidence:
        words.append("ahead" if row["difference_mean"] > 0 else "behind")
    if row["within_margin"]:
        words.append(f"within {statistics.margin:g} points")
    return ", ".join(words) or "undecided"
