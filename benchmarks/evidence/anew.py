"""A study's tables computed anew from the runs behind them, and held to the files that stand."""

from io import StringIO
from itertools import zip_longest
from pathlib import Path

import pandas as pd

from benchmarks.evidence.study import Study


def differing(study: Study, folder: Path) -> dict[Path, str]:
    """What of a study's csv, md and tex files is not what its runs give, in words.

    Returns:
        By every such file: what differs first; nothing where it is as its runs give it.

    Raises:
        UserError: a run is missing, or cannot be read.
    """
    return {
        folder / name: _difference(folder / name, text)
        for name, text in study.document().texts(study.name).items()
    }


def _difference(path: Path, anew: str) -> str:
    if not path.is_file():
        return "is missing"
    own = path.read_text(encoding="utf-8", errors="replace")
    if own == anew:
        return ""
    if path.suffix == ".csv":
        return _differing_cell(own, anew)
    lines = enumerate(zip_longest(own.splitlines(), anew.splitlines(), fillvalue=""), start=1)
    others = ((n, pair) for n, pair in lines if pair[0] != pair[1])
    number, (there, here) = next(others, (0, ("", "")))
    if not number:
        return "has other ends of lines"
    place = next(i for i, (a, b) in enumerate(zip_longest(there, here)) if a != b)
    start = max(0, place - 20)
    return (
        f"line {number} has {there[start : place + 20]!r} there and {here[start : place + 20]!r} "
        "anew"
    )


def _differing_cell(own: str, anew: str) -> str:
    """The first cell of a table that differs; columns may stand in another order."""
    try:
        there, here = (pd.read_csv(StringIO(text), dtype=str) for text in (own, anew))
    except ValueError as error:
        return f"cannot be read as a table: {error}"
    if set(there.columns) != set(here.columns) or len(there) != len(here):
        columns = sorted(set(there.columns) ^ set(here.columns))
        return f"{len(there)} rows where {len(here)} were computed anew" + (
            f"; other columns: {columns}" if columns else ""
        )
    here = here[there.columns]
    differs = (there != here) & ~(there.isna() & here.isna())
    if not differs.any(axis=None):
        return ""
    row, column = next(zip(*differs.to_numpy().nonzero(), strict=True))
    return (
        f"{int(differs.sum(axis=None))} cell(s); the first, {there.columns[column]} of row "
        f"{row + 1}, is {there.iat[row, column]} there and {here.iat[row, column]} anew"
    )
