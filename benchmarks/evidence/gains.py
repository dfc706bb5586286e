"""The columns that tables of methods share: mean, paired gain over a baseline, Holm's p."""

from collections.abc import Collection
from typing import Any

from benchmarks.evidence.statistics import gains_over, holm, mean_interval
from benchmarks.evidence.words import interval_columns


def gain_columns(
    key: str,
    values: dict[str, dict[int, float]],
    baseline: str,
    confidence: float,
    controls: Collection[str] = (),
) -> dict[str, dict[str, Any]]:
    """Of each method ``n``, its mean and its gain with their intervals, and ``p_holm``.

    The family of the correction is these methods; controls are no methods, and have a gain alone.

    Args:
        key: what is measured; begins the names of the mean's columns.
        values: method → seed → what was measured.

    Raises:
        ValueError: the seeds differ, or there are fewer than two.
    """
    gains = gains_over(baseline, values, confidence)
    adjusted = holm({method: gain.p for method, gain in gains.items() if method not in controls})
    columns = {}
    for method, own in values.items():
        mean = mean_interval(list(own.values()), confidence)
        columns[method] = {
            "n": mean.n,
            **interval_columns(key, mean),
            **interval_columns("gain", gains.get(method)),
            "p_holm": adjusted.get(method),
        }
    return columns
