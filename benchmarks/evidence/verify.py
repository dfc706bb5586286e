"""Check a run again: ``python -m benchmarks verify --config scale=mini``.

Every student that is here is evaluated from its file and held to its record, within one test image
in a thousand: another machine rounds otherwise. With ``--published FOLDER`` every table there that
the records beside it suffice for is computed anew from them alone, and held to the letter.
"""

import tempfile
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

import pandas as pd

from benchmarks.evaluate import evaluate_checkpoint
from benchmarks.evidence.merge import merge
from benchmarks.evidence.records import keys
from manifold.errors import UserError
from manifold.files import sha256
from manifold.settings import Experiment
from manifold.settings.recorded import RECORDS
from manifold.training import command
from manifold.training.cells import student_model
from manifold.training.progress import progress
from manifold.training.records import read_run

MOST = 0.1  # points of top-1: one image in a thousand


@dataclass
class Verified:
    """What was looked at, and what differs.

    Attributes:
        same: in words.
        other: in words; nothing may stand here.
        unknown: what could not be looked at, and why.
    """

    same: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def words(self) -> str:
        lines = [f"same: {line}" for line in self.same]
        lines += [f"not looked at: {line}" for line in self.unknown]
        lines += [f"DIFFERS: {line}" for line in self.other]
        return "\n".join(lines) or "there is nothing to verify"


def verify_students(experiment: Experiment, found: Verified) -> None:
    """Evaluate the students that are here, each from its file."""
    here = [key for key in keys(experiment) if experiment.cell_directory(*key).is_dir()]
    agreed = 0
    for pair, recipe, epochs, method, seed in progress(here, what="verify students", unit="cell"):
        folder = experiment.cell_directory(pair, recipe, epochs, method, seed)
        weights, record = folder / "student.safetensors", folder / "run.json"
        if not weights.is_file() or not record.is_file():
            found.unknown.append(f"{folder}: no student.safetensors or no run.json")
            continue
        try:
            run = read_run(record)
            if (digest := run["files"][weights.name]) != sha256(weights):
                found.other.append(f"{weights}: other bytes than those of its record, {digest}")
                continue
            definition = experiment.method_definitions[method]
            model = student_model(experiment.pairs[pair], pair, method, definition)
            top1 = evaluate_checkpoint(experiment, model, str(weights))["top1"]
        except (UserError, KeyError) as error:
            found.other.append(f"{folder}: {error}")
            continue
        if abs(top1 - run["result"]["top1"]) > MOST:
            said = f"{run['result']['top1']:.2f}, and its student reaches {top1:.2f}"
            found.other.append(f"{record}: says {said}")
        else:
            agreed += 1
    if agreed:
        found.same.append(f"{agreed} student(s) reach what their records say")


def verify_tables(experiment: Experiment, published: Path, found: Verified) -> None:
    """Compute the published tables anew from their records alone."""
    with tempfile.TemporaryDirectory() as folder:
        made = experiment.replaced(results=folder)
        try:
            merge(made, [published / RECORDS])
        except UserError as error:
            found.other.append(str(error))
            return
        for study in made.studies.values():
            if not (published / f"{study.name}.csv").is_file():
                continue
            if study.jobs():
                found.unknown.append(f"{study.name}: no record holds what its own jobs made")
                continue
            try:
                tables = study.build().csv
            except UserError as error:
                found.unknown.append(f"{study.name}: {error}")
                continue
            for suffix, rows in tables.items():
                _compare(published / f"{study.name}{suffix}.csv", rows, found)


def _compare(path: Path, rows: pd.DataFrame, found: Verified) -> None:
    """Hold a published file to rows that were computed anew, column by column."""
    if not path.is_file():
        found.other.append(f"{path}: is missing")
        return
    anew = pd.read_csv(StringIO(rows.to_csv(index=False)), dtype=str)
    own = pd.read_csv(path, dtype=str)
    if set(own.columns) != set(anew.columns) or len(own) != len(anew):
        columns = sorted(set(own.columns) ^ set(anew.columns))
        found.other.append(
            f"{path}: {len(own)} rows where {len(anew)} were computed anew"
            f"{f'; other columns: {columns}' if columns else ''}"
        )
        return
    anew = anew[own.columns]
    differs = (own != anew) & ~(own.isna() & anew.isna())
    if not differs.any(axis=None):
        found.same.append(f"{path} from its records")
        return
    row, column = next(zip(*differs.to_numpy().nonzero(), strict=True))
    found.other.append(
        f"{path}: {int(differs.sum(axis=None))} cell(s); the first, {own.columns[column]} of row "
        f"{row + 1}, is {own.iat[row, column]} there and {anew.iat[row, column]} anew"
    )


def main() -> None:
    parser = command.parser("benchmarks verify", __doc__)
    parser.add_argument("--published", type=Path, help="a folder of tables and their records")
    options = parser.parse_args()
    experiment, found = command.experiment(options), Verified()
    if options.published is None:
        verify_students(experiment, found)
    else:
        verify_tables(experiment, options.published, found)
    print(found.words())
    if found.other:
        raise UserError(f"{len(found.other)} thing(s) differ from what was recorded; see above")
