"""Gains from all methods together: the randomised-block model, and Dunnett's comparison to one.

A seed is a block: y = mean + method + seed + residual. With k methods and n seeds the residual has
(k − 1)(n − 1) degrees of freedom where a paired difference has n − 1. The price is an assumption,
that it spreads equally for every method; ``blocks`` looks, and leaves out what breaks it.
"""

from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from scipy.special import fdtr, fdtrc, ndtr, stdtrit

from benchmarks.evidence.statistics import HIGHEST, Interval, cut_to

NODES = 48  # of each quadrature: six digits of the probability
DECIMALS = 10  # of a p: those after them differ from processor to processor


@dataclass(frozen=True)
class Blocks:
    """What the model says.

    Attributes:
        gains: method → gain over the baseline; its p is Dunnett's, of all these comparisons.
        residual: standard deviation of the residual, in points.
        degrees: of freedom of the residual.
        left_out: methods whose spread is another; their gains are not here.
    """

    gains: dict[str, Interval]
    residual: float
    degrees: int
    left_out: tuple[str, ...]


def blocks(
    values: dict[str, dict[int, float]], baseline: str, confidence: float, spread_level: float
) -> Blocks:
    """Fit the model to every method's values by seed.

    An interval is of one comparison; the p-values are of the family of all of them.

    Args:
        values: method → seed → value.
        spread_level: of the tests of equal spread, over the number of methods.

    Raises:
        ValueError: fewer than two seeds or methods, or seeds that differ.
    """
    _check(values, baseline)
    left_out = _of_another_spread(values, baseline, spread_level)
    kept = {name: own for name, own in values.items() if name not in left_out}
    table = _table(kept)
    methods, seeds = table.shape
    degrees = (methods - 1) * (seeds - 1)
    residual = float(np.sqrt(np.square(residuals(table)).sum() / degrees))
    error = residual * np.sqrt(2 / seeds)
    half = float(stdtrit(degrees, (1 + confidence) / 2) * error)
    own = dict(zip(kept, table.mean(axis=1), strict=True))
    gains = {}
    for name in kept:
        if name == baseline:
            continue
        gain = float(own[name] - own[baseline])
        p = _p(gain, float(error), methods - 1, degrees)
        gains[name] = cut_to(Interval(gain, gain - half, gain + half, seeds, p), -HIGHEST, HIGHEST)
    return Blocks(gains, residual, degrees, tuple(left_out))


def residuals(table: np.ndarray) -> np.ndarray:
    """What neither method nor seed explains of (methods, seeds) values."""
    return table - table.mean(1, keepdims=True) - table.mean(0, keepdims=True) + table.mean()


def dunnett_probability(distance: float, comparisons: int, degrees: int) -> float:
    """P(max |t| ≤ ``distance``) of so many comparisons to one and the same baseline, at equal n.

    Two gains over one baseline correlate by 1/2. Given z, that of the baseline, and the estimate of
    the spread s = √(χ²/ν), the comparisons are independent: the probability is the mean over both
    of (Φ(z + √2·d·s) − Φ(z − √2·d·s)) to the power of their number.

    Source: Dunnett 1955, Journal of the American Statistical Association 50(272).
    """
    z, z_weights = _baseline()
    s, s_weights = _spread_of_estimates(degrees)
    reach = np.sqrt(2) * distance * s[:, None]
    inside = (ndtr(z + reach) - ndtr(z - reach)) ** comparisons
    return float(s_weights @ inside @ z_weights)


@cache
def _baseline() -> tuple[np.ndarray, np.ndarray]:
    """Nodes z and weights of the normal distribution."""
    z, weights = np.polynomial.hermite_e.hermegauss(NODES)
    return z, weights / weights.sum()


@lru_cache
def _spread_of_estimates(degrees: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes s and weights of the distribution of √(χ²/ν)."""
    nodes, weights = np.polynomial.legendre.leggauss(4 * NODES)
    width = 8 / np.sqrt(2 * degrees)
    low, high = max(0.0, 1 - width), 1 + width
    s = low + (high - low) * (nodes + 1) / 2
    with np.errstate(divide="ignore"):
        density = np.exp((degrees - 1) * np.log(s) - degrees * (np.square(s) - 1) / 2)
    weights = weights * density
    return s, weights / weights.sum()


def _p(gain: float, error: float, comparisons: int, degrees: int) -> float:
    if error == 0:
        return 1.0 if gain == 0 else 0.0
    p = 1 - dunnett_probability(abs(gain) / error, comparisons, degrees)
    return round(max(0.0, p), DECIMALS)


def _of_another_spread(
    values: dict[str, dict[int, float]], baseline: str, spread_level: float
) -> list[str]:
    """Methods that spread otherwise than all others together, the oddest first.

    Each is held, one after another, to the rest that is left: an F test of the spread of its
    distance to the others' mean, over the others' own residual, at ``spread_level`` over the number
    of methods. The baseline, which all are held to, stays.

    With k methods and n seeds the distance of one to the mean of the k − 1 others has, seed by
    seed, a variance of k / (k − 1) times that of one run, and is independent of how the others
    spread about their mean; so the ratio is F with n − 1 and (k − 2)(n − 1) degrees of freedom.
    """
    kept, odd = dict(values), []
    while len(kept) > 2:
        table, worst, worst_p = _table(kept), None, 1.0
        methods, seeds = table.shape
        for row, name in enumerate(kept):
            rest = np.delete(table, row, axis=0)
            distance = table[row] - rest.mean(axis=0)
            own = distance.var(ddof=1) * (methods - 1) / methods
            degrees = (methods - 2) * (seeds - 1)
            others = np.square(residuals(rest)).sum() / degrees
            if name != baseline and others > 0:
                p = _p_of_ratio(own / others, seeds - 1, degrees)
                worst, worst_p = (name, p) if p < worst_p else (worst, worst_p)
        if worst is None or worst_p >= spread_level / len(values):
            break
        odd.append(worst)
        del kept[worst]
    return odd


def _p_of_ratio(ratio: float, above: int, below: int) -> float:
    """The two-sided p of a ratio of variances."""
    return float(2 * min(fdtr(above, below, ratio), fdtrc(above, below, ratio)))


def _table(values: dict[str, dict[int, float]]) -> np.ndarray:
    seeds = sorted(next(iter(values.values())))
    return np.array([[own[seed] for seed in seeds] for own in values.values()])


def _check(values: dict[str, dict[int, float]], baseline: str) -> None:
    if baseline not in values or len(values) < 2:
        raise ValueError(f"blocks need the baseline {baseline!r} and another method")
    seeds = set(values[baseline])
    if len(seeds) < 2:
        raise ValueError(f"blocks need at least two seeds, got {len(seeds)}")
    for name, own in values.items():
        if set(own) != seeds:
            raise ValueError(
                f"unpaired seeds: {baseline} has {sorted(seeds)}, {name} {sorted(own)}"
            )
