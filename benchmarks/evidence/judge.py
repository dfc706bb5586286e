"""What a run says of a claim of others."""

from typing import Literal

from benchmarks.evidence.claims import Claim
from benchmarks.evidence.statistics import (
    Interval,
    are_equivalent,
    paired_difference,
    predicted_difference,
    prediction_interval,
)

NOT_COMPARABLE, NOT_RUN, NO_EVIDENCE = "not comparable", "not run", "no evidence"
Verdict = Literal[
    "supported",
    "consistent",
    "contradicted",
    "inconclusive",
    "not comparable",
    "not run",
    "no evidence",
]


def judge(
    claim: Claim, runs: list[dict[int, float]], confidence: float, margin: float
) -> tuple[Verdict, tuple[float, float] | None]:
    """Hold a claim to runs under its own conditions.

    What is reported is of one run, or of two: it is contradicted where one more run, or one more of
    each, would hardly end there, its rounding considered. A value is else consistent with the runs;
    a difference is supported where their own interval leaves out zero on the side that is claimed.
    That there is no difference is supported by equivalence, and by nothing else.

    Args:
        runs: a value by seed, for each side of the claim.
        margin: that a difference must be within to be called none.

    Returns:
        The verdict, and what the runs predict of one more; None where there is no number to hold.
    """
    if claim.printed is None:
        return NO_EVIDENCE, None
    claimed = float(claim.value)
    if len(runs) == 1:
        low, high = prediction_interval(list(runs[0].values()), confidence)
    else:
        low, high = predicted_difference(*runs, confidence)
    low, high = low - claim.rounding, high + claim.rounding
    if not low <= claimed <= high:
        return "contradicted", (low, high)
    if len(runs) == 1:
        return "consistent", (low, high)
    measured = paired_difference(*runs, confidence)
    if claimed == 0:
        if are_equivalent(*runs, margin, confidence):
            return "supported", (low, high)
        is_beyond = measured.low > margin or measured.high < -margin
        return ("contradicted" if is_beyond else "inconclusive"), (low, high)
    is_told = measured.low > 0 if claimed > 0 else measured.high < 0
    return ("supported" if is_told else "inconclusive"), (low, high)


def direction(first: str, second: str, measured: Interval) -> str:
    """Which of two methods is ahead in this run, from the interval of their difference."""
    if measured.low <= 0 <= measured.high:
        return "undecided"
    ahead, behind = (first, second) if measured.mean > 0 else (second, first)
    return f"{ahead} ahead of {behind}"
