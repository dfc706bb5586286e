"""Two folders of results in numbers and words: means, differences with intervals, identities."""

import math
from collections import defaultdict
from typing import Any

import pandas as pd

from benchmarks.evidence.comparison import Part, Side
from benchmarks.evidence.runs import UNSAID, Run, differing, in_words
from benchmarks.evidence.statistics import (
    Interval,
    holm,
    mean_interval,
    order_agreement,
    paired_difference,
    unpaired_difference,
)
from benchmarks.evidence.words import (
    MISSING,
    interval_columns,
    readable_interval,
    readable_p,
    sentence,
    verdicts,
)

SIDES = ("first", "second")


# ---- numbers -------------------------------------------------------------------------------------


def measured(part: Part, confidence: float) -> pd.DataFrame:
    """Of each row both means, their difference, and what the two sides differ in."""
    rows = [
        {"study": part.title, "row": name, "method": method, **_numbers(sides, confidence)}
        for (name, method), sides in part.rows.items()
    ]
    tested = {place: row["p"] for place, row in enumerate(rows) if row["p"] is not None}
    adjusted = holm(tested)
    return pd.DataFrame({**row, "p_holm": adjusted.get(place)} for place, row in enumerate(rows))


def _numbers(sides: tuple[Side, Side], confidence: float) -> dict[str, Any]:
    first, second = sides
    shared = sorted(first.keys() & second.keys())
    others = _identities(first, second)
    is_paired = len(shared) > 1 and not others
    difference = _difference(first, second, shared if is_paired else None, confidence)
    return {
        **{f"{side}_n": len(runs) for side, runs in zip(SIDES, sides, strict=True)},
        **interval_columns("first", _mean(first, confidence)),
        **interval_columns("second", _mean(second, confidence)),
        **interval_columns("difference", difference),
        "p": difference and difference.p,
        "paired_seeds": len(shared) if is_paired else 0,
        "shared_seeds": len(shared),
        "same_seeds": sum(first[seed].bits == second[seed].bits for seed in shared),
        "same_values": sum(first[seed].value == second[seed].value for seed in shared),
        "differs_in": others,
    }


def _mean(runs: Side, confidence: float) -> Interval | None:
    values = [run.value for run in runs.values()]
    if len(values) > 1:
        return mean_interval(values, confidence)
    return Interval(values[0], math.nan, math.nan, 1) if values else None


def _difference(
    first: Side, second: Side, shared: list[int] | None, confidence: float
) -> Interval | None:
    """Paired where seeds are given; else of two samples; None where a side has no run.

    Without an interval where one side has one run.
    """
    if shared is not None:
        values = ({seed: side[seed].value for seed in shared} for side in (first, second))
        return paired_difference(*values, confidence)
    own, other = ([run.value for run in side.values()] for side in (first, second))
    if not own or not other:
        return None
    if min(len(own), len(other)) < 2:
        mean = sum(own) / len(own) - sum(other) / len(other)
        return Interval(mean, math.nan, math.nan, 1)
    return unpaired_difference(own, other, confidence)


def _identities(first: Side, second: Side) -> str:
    """In which keys the runs of two sides differ, code and machine aside; nothing: in none."""
    if not first or not second:
        return ""
    shared = sorted(first.keys() & second.keys())
    pairs = [(first[seed], second[seed]) for seed in shared]
    if not pairs:  # a table's hashes are of a seed: without one in common they say nothing
        pairs = [(next(iter(first.values())), next(iter(second.values())))]
        if UNSAID in pairs[0][0].identity:
            return "unknown: no seed in common, and no record"
    for one, another in pairs:
        if UNSAID in one.identity and one.identity != another.identity:
            return UNSAID
        if said := in_words(
            differing(one.identity, another.identity), "in the first", "in the second"
        ):
            return said
    return ""


# ---- words ---------------------------------------------------------------------------------------


def readable(rows: pd.DataFrame, names: tuple[str, str]) -> pd.DataFrame:
    """The table as it is shown."""
    is_of_rows = rows["row"].nunique() > 1
    return pd.DataFrame(
        {
            **({"Row": row["row"]} if is_of_rows else {}),
            "Method": row["method"],
            names[0]: _with_n(row, "first"),
            names[1]: _with_n(row, "second"),
            "Difference": readable_interval(row, "difference", "+"),
            "By": _test(row),
            "p (Holm)": readable_p(row["p_holm"]),
            "Same runs": f"{row['same_seeds']} of {row['shared_seeds']}",
            "Differs in": row["differs_in"] or MISSING,
        }
        for _, row in rows.iterrows()
    )


def _with_n(row: pd.Series, side: str) -> str:
    shown = readable_interval(row, side)
    return shown if shown == MISSING else f"{shown}, n = {row[f'{side}_n']}"


def _test(row: pd.Series) -> str:
    if row["paired_seeds"]:
        return f"{row['paired_seeds']} pairs"
    return MISSING if pd.isna(row["p"]) else "two samples"


def lines(part: Part, rows: pd.DataFrame, names: tuple[str, str], confidence: float) -> list[str]:
    """What the intervals carry, without a number but counts of runs and the order's agreement."""
    named = rows.assign(
        title=[
            f"{r.method} [{r.row}]" if rows["row"].nunique() > 1 else r.method
            for r in rows.itertuples()
        ]
    )
    both = named[(named["first_n"] > 0) & (named["second_n"] > 0)]
    is_recorded = any(isinstance(r, Run) for s in part.rows.values() for e in s for r in e.values())
    how = "bit of the student's weights" if is_recorded else "digit of the value"
    said = [
        f"{int(rows['same_seeds'].sum())} of {int(rows['shared_seeds'].sum())} runs that both have "
        f"are the same to the last {how}"
    ]
    is_same = (both["same_seeds"] == both["shared_seeds"]) & (both["paired_seeds"] > 0)
    said += _named("the same in all runs that both have", both[is_same])
    others = both[~is_same]
    decided = verdicts(
        others,
        "difference",
        f"higher in {names[0]}",
        f"higher in {names[1]}",
        "not told apart (the interval holds zero)",
    )
    said += [sentence({words: titles}) for words, titles in decided.items()]
    told = others[others["p_holm"] < 1 - confidence]
    if others["p"].notna().any():
        said += [
            f"told apart after Holm's correction over all {int(rows['p'].notna().sum())} "
            f"differences of this table: {'; '.join(told['title']) or 'none'}"
        ]
    if len(both) > 2:
        tau = order_agreement(both["first_mean"], both["second_mean"])
        said.append(
            f"the order of the {len(both)} rows that both have, by their means: Kendall's tau "
            f"{tau:.2f} (1: the same order, -1: turned round)"
        )
    said += _named(f"only in {names[0]}", named[named["second_n"] == 0])
    said += _named(f"only in {names[1]}", named[named["first_n"] == 0])
    for words, own in both[both["differs_in"] != ""].groupby("differs_in", sort=False):
        said += _named(f"another configuration ({words})", own)
    return said + _code(part, names)


def _named(words: str, rows: pd.DataFrame) -> list[str]:
    return [f"{words}: {'; '.join(rows['title'])}"] if len(rows) else []


def _code(part: Part, names: tuple[str, str]) -> list[str]:
    """Code, libraries and machines that the two sides were not both made with."""
    found = [defaultdict(set), defaultdict(set)]
    for sides in part.rows.values():
        for kinds, runs in zip(found, sides, strict=True):
            for run in runs.values():
                for kind, value in run.made_by.items():
                    kinds[kind].add(value)
    return [
        f"{kind}: "
        + "; ".join(
            f"{', '.join(sorted(kinds[kind])) or 'none'} in {name}"
            for kinds, name in zip(found, names, strict=True)
        )
        for kind in found[0] | found[1]
        if found[0][kind] != found[1][kind]
    ]
