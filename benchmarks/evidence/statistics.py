"""Means with intervals, paired differences, and what a run to come, or a claim, is held to.

All means are of percentages, or of differences of percentages: where a t interval of few seeds goes
on beyond what such a number can be, it is cut there, and says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import nctdtr, stdtr, stdtrit  # scipy.stats takes ten times as long to import

ENDS = ("low", "high")
NO_TAIL = 7.5  # standard deviations: below 1e-13
MOST_SEEDS = 10_000  # more, nobody runs
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
    return cut_to(Interval(mean, mean - half, mean + half, n), *within)


def cut_to(interval: Interval, least: float, most: float) -> Interval:
    """An interval that ends where the number does, and says so."""
    cut = tuple(end for end in ENDS if not least <= getattr(interval, end) <= most)
    limits = dict(zip(ENDS, (least, most), strict=True))
    return replace(interval, cut=cut, **{end: limits[end] for end in cut})


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
    differences = _paired(first, second)
    interval = mean_interval(differences, confidence, within=(-most, most))
    spread = np.std(differences, ddof=1)
    if spread == 0:  # the t statistic is 0/0 or infinite
        p = 1.0 if interval.mean == 0 else 0.0
    else:
        statistic = interval.mean / (spread / np.sqrt(interval.n))
        p = float(2 * stdtr(interval.n - 1, -abs(statistic)))
    return replace(interval, p=p)


def unpaired_difference(first: list[float], second: list[float], confidence: float) -> Interval:
    """Interval and two-sided p of the difference of two means, ``first`` − ``second``.

    The spreads need not be equal. ``n`` is the smaller number of values.

    Source: Welch 1947, Biometrika 34, with Satterthwaite's degrees of freedom.

    Raises:
        ValueError: fewer than two values on a side.
    """
    counts = len(first), len(second)
    if min(counts) < 2:
        raise ValueError(f"an interval needs at least two values, got {counts[0]} and {counts[1]}")
    mean = float(np.mean(first) - np.mean(second))
    noise = [np.var(values, ddof=1) / len(values) for values in (first, second)]
    error = float(np.sqrt(sum(noise)))
    if error == 0:  # the t statistic is 0/0 or infinite
        return Interval(mean, mean, mean, min(counts), p=1.0 if mean == 0 else 0.0)
    degrees = sum(noise) ** 2 / sum(own**2 / (n - 1) for own, n in zip(noise, counts, strict=True))
    half = float(stdtrit(degrees, (1 + confidence) / 2) * error)
    p = float(2 * stdtr(degrees, -abs(mean / error)))
    return cut_to(Interval(mean, mean - half, mean + half, min(counts), p=p), -HIGHEST, HIGHEST)


def spread_of(first: dict[int, float], second: dict[int, float]) -> float:
    """The standard deviation of the paired differences.

    Raises:
        ValueError: the seeds differ, or there are fewer than two.
    """
    return float(np.std(_paired(first, second), ddof=1))


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


# ---- one run beside another, one order beside another ------------------------------------------


def share_ahead(first: dict[int, float], second: dict[int, float]) -> float:
    """The share of all pairs of one run each, of any seeds, in which ``first`` is ahead; percent.

    Ties count half. It describes these runs: an estimate, without an interval, of the probability
    that a single run of the one ends ahead of a single run of the other.

    Source: Mann and Whitney 1947, whose U over n·m it is; asked for in comparisons of methods by
    Bouthillier et al. 2021, Accounting for Variance in Machine Learning Benchmarks.
    """
    own, other = (np.array(list(values.values())) for values in (first, second))
    differences = own[:, None] - other[None, :]
    return float(100 * ((differences > 0) + 0.5 * (differences == 0)).mean())


def rank_agreement(
    first: dict[str, dict[int, float]], second: dict[str, dict[int, float]], confidence: float
) -> Interval:
    """The agreement of the order of the methods in two settings, seed by seed.

    Args:
        first, second: method → seed → value; the same methods and seeds.

    Returns:
        The mean of Kendall's τ-b over seeds, with its interval.

    Raises:
        ValueError: the seeds differ, or there are fewer than two.
    """
    seeds = sorted(next(iter(first.values())))
    if any(sorted(runs) != seeds for runs in [*first.values(), *second.values()]):
        raise ValueError("unpaired seeds: every method needs the same ones in both settings")
    found = [
        order_agreement(*([each[method][seed] for method in first] for each in (first, second)))
        for seed in seeds
    ]
    return mean_interval(found, confidence, within=(-1.0, 1.0))


def order_agreement(first: Sequence[float], second: Sequence[float]) -> float:
    """Kendall's τ-b of two lists of values: 1 is one order, −1 its reverse, 0 where all are tied.

    Source: Kendall 1945, The treatment of ties in ranking problems, by scipy.stats.kendalltau.
    """
    from scipy.stats import kendalltau

    return float(np.nan_to_num(kendalltau(first, second).statistic))


# ---- what others report ------------------------------------------------------------------------


def prediction_interval(values: list[float], confidence: float) -> tuple[float, float]:
    """Where one more run of the same kind ends: mean ± t·s·√(1 + 1/n).

    Raises:
        ValueError: fewer than two values.
    """
    half = _t_of(values, confidence) * np.sqrt(np.var(values, ddof=1) * (1 + 1 / len(values)))
    return float(np.mean(values) - half), float(np.mean(values) + half)


def predicted_difference(
    first: dict[int, float], second: dict[int, float], confidence: float
) -> tuple[float, float]:
    """Where the difference of two more runs ends, one of each kind and of any two seeds.

    The noise of both runs counts, and that of the mean of the paired differences d:
    mean(d) ± t·√(s₁² + s₂² + s_d²/n).

    Raises:
        ValueError: the seeds differ, or there are fewer than two.
    """
    differences = _paired(first, second)
    noise = sum(np.var(list(values.values()), ddof=1) for values in (first, second))
    noise += np.var(differences, ddof=1) / len(differences)
    half = _t_of(differences, confidence) * np.sqrt(noise)
    return float(np.mean(differences) - half), float(np.mean(differences) + half)


def are_equivalent(
    first: dict[int, float], second: dict[int, float], margin: float, confidence: float
) -> bool:
    """Whether the mean paired difference is within ± ``margin``, by two one-sided t tests.

    So the interval of twice the error, 1 − 2·(1 − confidence), lies inside the margin.

    Source: Schuirmann 1987, Journal of Pharmacokinetics and Biopharmaceutics 15(6).

    Raises:
        ValueError: the seeds differ, or there are fewer than two.
    """
    differences = _paired(first, second)
    half = _t_of(differences, 2 * confidence - 1) * _standard_error(differences)
    return bool(abs(np.mean(differences)) + half < margin)


def detectable_difference(spread: float, n: int, confidence: float, power: float) -> float:
    """The mean paired difference that a two-sided t test tells from zero with this power.

    Args:
        spread: standard deviation of the paired differences.

    Raises:
        ValueError: fewer than two pairs.
    """
    if n < 2:
        raise ValueError(f"a test needs at least two pairs, got {n}")
    if spread == 0:
        return 0.0
    low, high = 0.0, 1.0
    while power_of(high, n, confidence) < power:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if power_of(middle, n, confidence) < power else (low, middle)
    return float(high * spread)


def seeds_to_detect(
    difference: float, spread: float, confidence: float, power: float
) -> int | None:
    """The fewest seeds that tell a paired difference from zero; None beyond ``MOST_SEEDS``."""
    if spread == 0:
        return 2
    low, high = 1, 2
    while power_of(abs(difference) / spread, high, confidence) < power:
        low, high = high, 2 * high
        if low > MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        if power_of(abs(difference) / spread, middle, confidence) < power:
            low = middle
        else:
            high = middle
    return high if high <= MOST_SEEDS else None


def power_of(effect: float, n: int, confidence: float) -> float:
    """The power of a two-sided paired t test.

    Args:
        effect: mean of the differences over their standard deviation.

    Source: the noncentral t distribution, as in Cohen 1988, chapter 2.
    """
    limit = stdtrit(n - 1, (1 + confidence) / 2)
    shift = effect * np.sqrt(n)
    # The other side has at most the normal tail beyond the shift, of which scipy makes a nan.
    other_side = nctdtr(n - 1, shift, -limit) if shift < NO_TAIL else 0.0
    return float(1 - nctdtr(n - 1, shift, limit) + other_side)


def _paired(first: dict[int, float], second: dict[int, float]) -> list[float]:
    if first.keys() != second.keys():
        raise ValueError(f"unpaired seeds: {sorted(first)} and {sorted(second)}")
    return [first[seed] - second[seed] for seed in sorted(first)]


def _t_of(values: list[float], confidence: float) -> float:
    if len(values) < 2:
        raise ValueError(f"an interval needs at least two values, got {len(values)}")
    return float(stdtrit(len(values) - 1, (1 + confidence) / 2))


def _standard_error(values: list[float]) -> float:
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))
