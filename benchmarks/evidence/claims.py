"""What the paper and others report, with evidence marks, and what a measurement says of it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from manifold.errors import UserError
from manifold.files import read_text
from manifold.settings import Experiment, find, suggest

if TYPE_CHECKING:  # which imports SciPy, and a claim is read to plan
    from benchmarks.evidence.statistics import Interval

EVIDENCE = ("verbatim", "second-hand", "derived", "remembered")
Verdict = Literal["supported", "contradicted", "inconclusive", "not run"]


@dataclass(frozen=True)
class Claim:
    """A row of claims.csv; ``method`` is a method's name, or ``a - b`` for a difference."""

    id: str
    student: str
    teacher: str
    method: str
    dataset: str
    epochs: str
    recipe: str
    metric: str
    value: str
    unit: str
    evidence: str
    source: str

    @property
    def difference(self) -> tuple[str, str] | None:
        first, separator, second = self.method.partition(" - ")
        return (first, second) if separator else None

    @property
    def printed(self) -> str | None:
        """The value as a table may print it: a remembered one never is."""
        return None if self.evidence == "remembered" else self.value


def claims_of(experiment: Experiment, wanted: Iterable[str] = ()) -> dict[str, Claim]:
    """The claims that a run is held to; none where the key ``claims`` is null.

    Raises:
        UserError: as ``read_claims`` raises it.
    """
    return {} if experiment.claims is None else read_claims(find(experiment.claims), wanted)


def read_claims(path: Path, wanted: Iterable[str] = ()) -> dict[str, Claim]:
    """Read claims.csv, by id.

    Raises:
        UserError: a missing file, wrong columns, an unknown evidence mark, a doubled id, or an id
            of ``wanted`` that is not there.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(path))))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file of claims; correct the key 'claims'") from None
    columns = [field.name for field in fields(Claim)]
    claims: dict[str, Claim] = {}
    for line, row in enumerate(rows, start=2):
        if list(row) != columns or None in row.values():
            raise UserError(f"{path}, line {line}: expected the columns {','.join(columns)}")
        claim = Claim(**row)
        if claim.evidence not in EVIDENCE:
            raise UserError(
                f"{path}, line {line}: evidence {claim.evidence!r} is none of {', '.join(EVIDENCE)}"
            )
        if claim.id in claims:
            raise UserError(f"{path}, line {line}: id {claim.id!r} stands twice")
        claims[claim.id] = claim
    for name in wanted:
        if name not in claims:
            raise UserError(f"{path} has no claim {name!r}.{suggest(name, claims)}")
    return claims


def judge_value(claim: Claim, measured: Interval | None) -> Verdict:
    """Whether a measurement under the claim's own conditions agrees with its value.

    A value is contradicted where it lies outside the interval. A claimed difference is supported
    by an interval that holds it and not zero.
    """
    if measured is None or claim.printed is None:
        return "not run"
    if not measured.low <= float(claim.value) <= measured.high:
        return "contradicted"
    if claim.difference and measured.low <= 0 <= measured.high:
        return "inconclusive"
    return "supported"


def judge_direction(claimed: float, measured: Interval | None) -> Verdict:
    """Whether a measured paired difference has the claimed sign; from its interval alone.

    A claim of no difference can be contradicted, never supported, by an interval.
    """
    if measured is None:
        return "not run"
    if measured.low <= 0 <= measured.high:
        return "inconclusive"
    if claimed == 0:
        return "contradicted"
    return "supported" if (measured.mean > 0) == (claimed > 0) else "contradicted"
