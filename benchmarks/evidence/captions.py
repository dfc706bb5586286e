"""What captions say alike: the least difference that a study of its seeds and spread would tell.

Scale, n and the interval stand in the captions of the studies themselves.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from benchmarks.evidence.statistics import detectable_difference, spread_of
from manifold.settings.experiment import Statistics

BySeed = Mapping[int, float]
NO_SPREAD = "No comparison here has a spread over seeds, and so none says what it would tell. "


def least_difference(own: BySeed, baseline: BySeed, statistics: Statistics) -> float:
    """The paired difference that so many seeds of this spread would tell from zero.

    Args:
        own, baseline: a value a seed.
        statistics: whose confidence and power count.
    """
    spread = spread_of(dict(own), dict(baseline))
    return detectable_difference(spread, len(own), statistics.confidence, statistics.power)


def least_differences(
    seeds: pd.DataFrame,
    value: str,
    baseline: str,
    titles: Mapping[str, str],
    statistics: Statistics,
    within: Sequence[str] = (),
) -> list[tuple[float, str]]:
    """Of each method's comparison with the baseline its least difference, and its name.

    Args:
        seeds: columns method, seed, ``value`` and those of ``within``; a row a run.
        titles: of the methods that are compared.
        within: the columns of what a comparison is made within, in words; they follow the title.
    """
    groups = seeds.groupby(list(within), sort=False) if within else [((), seeds)]
    found = []
    for key, rows in groups:
        values = {
            method: dict(zip(own["seed"], own[value], strict=True))
            for method, own in rows.groupby("method", sort=False)
        }
        found += [
            (
                least_difference(own, values[baseline], statistics),
                ", ".join([titles[method], *key]),
            )
            for method, own in values.items()
            if method != baseline and method in titles
        ]
    return found


def detectable_in_words(
    least: Iterable[tuple[float | None, str]],
    statistics: Statistics,
    what: str = "gain",
    of: str = "method",
) -> str:
    """Say what such a study would tell from zero: its median, its range, and where it is widest.

    Args:
        least: of each comparison its least difference in points, and its name; None, or 0 where
            there is no spread, is left out.
        what: what is compared with zero.
        of: what there is a comparison of each.

    Returns:
        A sentence and a space behind it.
    """
    known = sorted((size, name) for size, name in least if size)
    if not known:
        return NO_SPREAD
    (smallest, _), (largest, widest) = known[0], known[-1]
    return (
        f"At this spread, {100 * statistics.power:g} % of such studies would tell a {what} of "
        f"{np.median([size for size, _ in known]):.1f} points from zero, in one comparison of the "
        f"median {of} ({smallest:.1f} to {largest:.1f}, {widest}). "
    )
