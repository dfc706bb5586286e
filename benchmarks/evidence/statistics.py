"""Means with intervals, paired differences, and Holm's correction.

All means are of percentages, or of differences of percentages: where a t interval of few seeds goes
on beyond what such a number can be, it is cut there, and says so.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtr, stdtrit  # a tenth of the time that scipy.stats takes to import

ENDS = ("low", "high")
HIGHEST = 100.0  # of a percentage, and of what two of them differ by


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval and, for differences, the p-value of "no difference".

    ``cut`` names the ends, ``low`` and ``high``, that would lie beyond what the number can be.
    """

    mean: float
    low: float
    high: float
    n: int
    p: float | None = None
    cut: tuple[str, ...] = ()


def mean_interval(
    values: list[float], confidence: float, within: tuple[float, float] = (0.0, HIGHEST)
) -> Interval:
    """Student's t interval of the mean of ``values``, one a seed; it is cut where it leaves.

    Args:
        within: the least and the most that the mean can be.

    Raises:
        ValueError: fewer than two values.
    """
    n = len(values)
    if n < 2:
        raise ValueError(f"an interval needs at least two values, got {n}")
    mean = float(np.mean(values))
    half = float(stdtrit(n - 1, (1 + confidence) / 2) * np.std(values, ddof=1) / np.sqrt(n))
    ends, limits = {"low": mean - half, "high": mean + half}, dict(zip(ENDS, within, strict=True))
    cut = tuple(end for end, value in ends.items() if not within[0] <= value <= within[1])
    low, high = (limits[end] if end in cut else ends[end] for end in ENDS)
    return Interval(mean, low, high, n, cut=cut)


def paired_difference(
    first: dict[int, float],
    second: dict[int, float],
    confidence: float,
    most: float = HIGHEST,
) -> Interval:
    """Interval and two-sided p (paired t-test) of ``first`` − ``second``, seed by seed.

    Args:
        most: what the difference can be at most, either way.

    Raises:
        ValueError: the seeds differ, or there are fewer than two.
    """
    if first.keys() != second.keys():
        raise ValueError(f"unpaired seeds: {sorted(first)} and {sorted(second)}")
    differences = [first[seed] - second[seed] for seed in sorted(first)]
    interval = mean_interval(differences, confidence, within=(-most, most))
    spread = np.std(differences, ddof=1)
    if spread == 0:  # the t statistic is 0/0 or infinite
        p = 1.0 if interval.mean == 0 else 0.0
    else:
        statistic = interval.mean / (spread / np.sqrt(interval.n))
        p = float(2 * stdtr(interval.n - 1, -abs(statistic)))
    return replace(interval, p=p)


def gains_over(
    baseline: str, values: dict[str, dict[int, float]], confidence: float
) -> dict[str, Interval]:
    """The paired difference of every method's values, by seed, to the baseline's.

    Raises:
        ValueError: the seeds differ, or there are fewer than two.
    """
    return {
        method: paired_difference(own, values[baseline], confidence)
        for method, own in values.items()
        if method != baseline
    }


def holm(p_values: dict[str, float]) -> dict[str, float]:
    """Holm's step-down correction of a family of p-values.

    Source: Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    adjusted, highest = {}, 0.0
    ranked = sorted(p_values, key=p_values.__getitem__)
    for rank, name in enumerate(ranked):
        highest = max(highest, min(1.0, (len(ranked) - rank) * p_values[name]))
        adjusted[name] = highest
    return {name: adjusted[name] for name in p_values}
