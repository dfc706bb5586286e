"""What the tables share: intervals as columns and as text, and verdicts in words."""

from collections.abc import Iterable

import pandas as pd

from benchmarks.evidence.statistics import Interval

MISSING = "—"
PARTS = ("mean", "low", "high")
CUT = "_cut"  # ends the name of the column that tells which ends of an interval are cut
CUT_MARK = " (cut)"  # follows such an end
DECIDES = "the test that decides: "  # begins a study's words on the registered test
LEAST_P = 1e-4  # below it the digits of a p-value are those of rounding


def interval_columns(key: str, interval: Interval | None) -> dict[str, float | str | None]:
    """A row's columns ``key_mean``, ``key_low``, ``key_high``, ``key_cut``; None without one.

    ``key_cut`` names the ends that lie beyond what the number can be, and are cut there.
    """
    columns = {f"{key}_{part}": interval and getattr(interval, part) for part in PARTS}
    return {**columns, f"{key}{CUT}": interval and " ".join(interval.cut)}


def cut_ends(row: pd.Series, key: str) -> list[str]:
    """Which ends of a row's interval are cut: "low", "high"."""
    ends = row.get(f"{key}{CUT}")
    return ends.split() if isinstance(ends, str) else []


def words_on_cuts(tables: Iterable[pd.DataFrame]) -> str:
    """What the mark of an end that is cut means; nothing where none is."""
    if not any(
        table[column].fillna("").astype(bool).any()
        for table in tables
        for column in table.columns
        if str(column).endswith(CUT)
    ):
        return ""
    return (
        f"{CUT_MARK.strip()}: the t interval goes on beyond what such a number can be; in figures "
        "an arrow."
    )


def capital(text: str) -> str:
    """The text with a capital at its beginning, and its other letters as they are."""
    return text[:1].upper() + text[1:]


def readable_interval(row: pd.Series, key: str, sign: str = "", digits: int = 2) -> str:
    """A row's mean and interval as text; a dash where there is none.

    Args:
        row: holds the columns of ``interval_columns``.
        sign: "+" to show the sign of what is positive.
        digits: behind the point.
    """
    mean, low, high = (row[f"{key}_{part}"] for part in PARTS)
    if pd.isna(mean):
        return MISSING
    if pd.isna(low):
        return f"{mean:{sign}.{digits}f}"
    cut = cut_ends(row, key)
    ends = (
        f"{value:{sign}.{digits}f}{CUT_MARK if end in cut else ''}"
        for end, value in (("low", low), ("high", high))
    )
    return f"{mean:{sign}.{digits}f} [{', '.join(ends)}]"


def readable_number(value: float | None, form: str) -> str:
    """A number in a format like ",.0f"; a dash where there is none."""
    return MISSING if pd.isna(value) else f"{value:{form}}"


def readable_p(p: float | None) -> str:
    """A p-value with two digits; one so small that its digits say nothing is below a bound."""
    if not pd.isna(p) and p < LEAST_P:
        return f"< {LEAST_P:g}"
    return readable_number(p, ".2g")


def in_epochs(epochs: int | str) -> str:
    """A budget in words; also of several: ``1, 2``."""
    return f"{epochs} epoch{'' if str(epochs) == '1' else 's'}"


def verdicts(
    rows: pd.DataFrame, key: str, above: str, below: str, undecided: str, names: str = "title"
) -> dict[str, list[str]]:
    """The names of the rows whose interval lies above zero, below it, or holds it.

    Args:
        rows: hold the columns of ``interval_columns``; those without an interval are left out.
        above, below, undecided: what each is called; one without rows is left out.
        names: the column that rows are named by.
    """
    known = rows[rows[f"{key}_low"].notna()]
    low, high = known[f"{key}_low"], known[f"{key}_high"]
    chosen = {above: low > 0, below: high < 0, undecided: (low <= 0) & (high >= 0)}
    return {words: list(known.loc[of, names]) for words, of in chosen.items() if of.any()}


def from_intervals_alone(confidence: float) -> str:
    """What stands before verdicts of single intervals that those of their family follow."""
    return (
        f"From the {100 * confidence:g} % intervals alone, which are not corrected for their "
        "number: where there is no difference, some of so many lie beside zero nevertheless. What "
        "is left after the correction follows."
    )


def against(other: str) -> tuple[str, str, str]:
    """What ``verdicts`` calls rows whose interval is of a gain over another."""
    return f"ahead of {other}", f"behind {other}", f"not told from {other}"


def sentence(found: dict[str, list[str]]) -> str:
    """Verdicts on one line. Names hold commas, so neither separator is one."""
    return ". ".join(f"{words}: {'; '.join(names)}" for words, names in found.items())


def after_correction(rows: pd.DataFrame, other: str, confidence: float, names: str) -> str:
    """Say which rows are told from another even after Holm's correction over all of them."""
    told = rows.loc[rows["p_holm"] < 1 - confidence, names]
    over = "the one comparison" if len(rows) == 1 else f"all {len(rows)} comparisons"
    return (
        f"told from {other} after Holm's correction over {over}, at p < {1 - confidence:.2g}: "
        f"{'; '.join(told) if len(told) else 'none'}"
    )


def before_and_after(
    said: dict[str, list[str]], rows: pd.DataFrame, other: str, confidence: float
) -> str:
    """Verdicts on one line, and which of them Holm's correction leaves.

    Args:
        said: of ``verdicts``, on the rows.
        rows: those without ``p_holm``, like controls, are of no family.
    """
    family = rows[rows["p_holm"].notna()]
    corrected = (
        [capital(after_correction(family, other, confidence, "title"))] if len(family) else []
    )
    return ". ".join([sentence(said), *corrected])
