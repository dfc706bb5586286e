"""What the paper and others report, with evidence marks."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from manifold.errors import UserError
from manifold.files import read_text
from manifold.settings import Experiment, find, suggest

EVIDENCE = ("verbatim", "second-hand", "derived", "remembered")
JUDGED = "top1"  # the metric of the claims that runs are held to
ROUNDING = 1e-9  # of sums of decimals


@dataclass(frozen=True)
class Side:
    """What a value, or one of the two that a difference is of, was measured with."""

    method: str
    student: str
    teacher: str
    recipe: str


@dataclass(frozen=True)
class Claim:
    """A row of claims.csv; ``method`` is a method's name, or ``a - b`` for a difference.

    ``other_student``, ``other_teacher`` and ``other_recipe`` are of a difference's second method,
    where they are not those of the first. An empty recipe, or budget, is one that nobody has said.
    """

    id: str
    student: str
    teacher: str
    method: str
    dataset: str
    epochs: str
    recipe: str
    other_student: str
    other_teacher: str
    other_recipe: str
    metric: str
    value: str
    unit: str
    evidence: str
    source: str

    @property
    def sides(self) -> tuple[Side, ...]:
        """One for a value, two for a difference."""
        first, separator, second = self.method.partition(" - ")
        sides = [Side(first, self.student, self.teacher, self.recipe)]
        if separator:
            other = (self.other_student, self.other_teacher, self.other_recipe)
            own = (self.student, self.teacher, self.recipe)
            sides.append(Side(second, *(new or old for new, old in zip(other, own, strict=True))))
        return tuple(sides)

    @property
    def rounding(self) -> float:
        """By how much the printed value may be off, half a unit of its last digit for each side."""
        digits = len(self.value.partition(".")[2])
        return len(self.sides) * 0.5 * 10**-digits + ROUNDING

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
        if claim.metric == JUDGED and not _is_number(claim.value):
            raise UserError(
                f"{path}, line {line}: a value of {JUDGED} must be a number, got {claim.value!r}"
            )
        if claim.id in claims:
            raise UserError(f"{path}, line {line}: id {claim.id!r} stands twice")
        claims[claim.id] = claim
    if not claims:
        raise UserError(f"{path} holds no claim; where there is none, claims: null says so")
    for name in wanted:
        if name not in claims:
            raise UserError(f"{path} has no claim {name!r}.{suggest(name, claims)}")
    return claims


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def is_of_pair(experiment: Experiment, side: Side, name: str) -> bool:
    """Whether a side of a claim speaks of a pair's networks."""
    pair = experiment.pairs[name]
    asked = experiment.method_definitions[side.method].student
    student = getattr(pair, asked) or pair.student
    teacher = pair.teacher.model.name.partition(".")[0]
    return side.student == student.name and side.teacher in ("", teacher)
