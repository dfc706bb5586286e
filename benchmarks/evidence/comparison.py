"""What two folders of results hold, row by row: read for ``benchmarks compare``.

Runs are taken from their records; where not all runs of a study have one, from the study's table of
runs, ``NAME_seeds.csv``. What cannot be used is named.
"""

import csv
import math
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from benchmarks.evidence.records import keys
from benchmarks.evidence.runs import Row, Runs, read_runs
from manifold.errors import UserError
from manifold.settings import Experiment, read_experiment

NO_STUDY = "Students of no study"
UNSAID = "configuration (a hash; no record says in which keys)"
NOT_SHOWN = "not compared: "


class Value(Protocol):
    """A run of either kind: a ``Run`` of a record, or a ``Listed`` one of a table of runs."""

    value: float
    bits: Any
    identity: dict[str, Any]
    made_by: dict[str, Any]


@dataclass(frozen=True)
class Listed:
    """A run of which nothing is here but its line in a table of runs."""

    value: float
    identity: dict[str, Any]
    made_by: dict[str, Any]

    @property
    def bits(self) -> float:
        return self.value


Side = dict[int, Value]  # the runs of a row, by seed


@dataclass
class Part:
    """The rows of a study, from one kind of source.

    Attributes:
        source: what they were read from, in words.
        rows: by the words that name the row and its method, both sides.
    """

    title: str
    source: str
    rows: dict[tuple[str, str], tuple[Side, Side]] = field(default_factory=dict)


@dataclass
class Comparison:
    """What two folders say.

    Attributes:
        names: of the two, as they were given.
        faults: what was left out, and why.
    """

    names: tuple[str, str]
    confidence: float
    parts: list[Part]
    faults: list[str]


def compare(folder: Path, other: Path, fallback: Experiment) -> Comparison:
    """Read two folders of results.

    Args:
        fallback: whose studies are shown where neither folder holds a readable experiment.yaml.

    Raises:
        UserError: a folder is missing, both are one, or they have nothing to compare.
    """
    folders = (folder, other)
    for each in folders:
        if not each.is_dir():
            raise UserError(f"{each}: no such folder of results")
    if folder.resolve() == other.resolve():
        raise UserError(f"{folder} and {other} are one folder; give two")
    faults: list[str] = []
    experiments = [_experiment(each, faults) for each in folders]
    runs = [read_runs(each) for each in folders]
    for each, own, found in zip(folders, experiments, runs, strict=True):
        faults += found.faults
        if own is not None:
            faults += _hold_to_experiment(each, own, found)
    known = [own for own in experiments if own is not None] or [fallback]
    tables = _of_tables(known, folders, runs, faults)
    parts = [*_of_students(known, runs, {part.title for part in tables}), *tables]
    if not parts:
        raise UserError(
            f"{folder} and {other} have nothing to compare: neither records of runs nor a study's "
            "NAME_seeds.csv in both; let snakemake make a study in each first"
            + "".join(f"\n{fault}" for fault in faults)
        )
    names = (str(folder), str(other))
    return Comparison(names, known[0].statistics.confidence, parts, faults)


def _experiment(folder: Path, faults: list[str]) -> Experiment | None:
    """What a folder's runs were to be; None where this version of the suite cannot tell."""
    try:
        return read_experiment(folder / "experiment.yaml")
    except UserError as error:
        faults.append(f"What {folder} was to hold is not known: {error}")
        return None


def _hold_to_experiment(folder: Path, experiment: Experiment, runs: Runs) -> list[str]:
    """Take out runs that no study of a folder needs, and name them and those that are missing."""
    faults, needed = [], dict.fromkeys(keys(experiment))
    here = {run.key for run in runs}
    foreign = [run for run in runs if run.key not in needed]
    for run in foreign:
        del runs.rows[run.key[:4]][run.key[4]]
        faults.append(
            f"{folder / run.path} is of no study of {folder / 'experiment.yaml'}: left out"
        )
    runs.rows = {row: seeds for row, seeds in runs.rows.items() if seeds}
    missing: dict[Row, list[int]] = defaultdict(list)
    for key in needed:
        if key[:4] in runs.rows and key not in here:
            missing[key[:4]].append(key[4])
    for row, seeds in missing.items():
        said = ", ".join(map(str, seeds))
        faults.append(f"{folder}: {'/'.join(map(str, row))} is without seed {said}")
    return faults


# ---- rows ----------------------------------------------------------------------------------------


def _titles(experiments: list[Experiment]) -> dict[str, str]:
    return {
        name: definition.title
        for experiment in reversed(experiments)
        for name, definition in experiment.method_definitions.items()
    }


def _of_students(
    experiments: list[Experiment], runs: list[Runs], in_tables: set[str]
) -> list[Part]:
    """Every student that a folder has a record of, below the first study that shows it.

    Args:
        in_tables: studies that are compared by their tables of runs too: what has records on one
            side alone is compared there.
    """
    titles, order = _titles(experiments), {}
    for experiment in experiments:
        for study in experiment.studies.values():
            for key, methods in study.students().items():
                for method in methods:
                    order.setdefault((*key, method), study.title)
    for row in (row for found in runs for row in found.rows):
        order.setdefault(row, NO_STUDY)
    parts: dict[str, Part] = {}
    for row, study in order.items():
        sides = tuple(dict(found.rows.get(row, {})) for found in runs)
        if any(sides) and (all(sides) or study not in in_tables):
            part = parts.setdefault(study, Part(study, "from the records of the runs"))
            pair, recipe, epochs, method = row
            name = f"{pair}, recipe {recipe}, {epochs} epochs"
            part.rows[name, titles.get(method, method)] = sides
    return list(parts.values())


def _of_tables(
    experiments: list[Experiment], folders: tuple[Path, Path], runs: list[Runs], faults: list[str]
) -> list[Part]:
    """The runs of studies of which there are no records on one of the sides."""
    titles, parts = _titles(experiments), []
    recorded = {run.record["fingerprint"] for found in runs for run in found}
    studies = {s.name: s for e in reversed(experiments) for s in e.studies.values()}
    for study in studies.values():
        paths = [each / f"{study.name}_seeds.csv" for each in folders]
        there = [path for path in paths if path.is_file()]
        tables = [_table(path, study, faults) if path in there else {} for path in paths]
        part = Part(study.title, f"from {paths[0].name}, since not all of its runs have a record")
        for row in dict.fromkeys([*tables[0], *tables[1]]):
            sides = tuple(table.get(row, {}) for table in tables)
            marks = {run.identity[UNSAID] for side in sides for run in side.values()}
            if not marks <= recorded:
                *names, method = row
                part.rows[", ".join(names), titles.get(method, method)] = sides
        if part.rows and len(there) == 1:
            faults.append(f"{study.title}: {NOT_SHOWN}only {there[0]} is here")
        elif part.rows:
            parts.append(part)
    return parts


def _table(path: Path, study: Any, faults: list[str]) -> dict[tuple[str, ...], Side]:
    """The runs of a ``NAME_seeds.csv`` by the names of their row; the method is the last."""
    found: dict[tuple[str, ...], Side] = defaultdict(dict)
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    except (OSError, ValueError, csv.Error) as error:
        faults.append(f"{path}: {NOT_SHOWN}{error}")
        return {}
    for line, row in enumerate(rows, start=2):
        try:
            of = tuple(row[name] for name in study.row_names if name in row)
            seed, value = int(row["seed"]), float(row[study.measured])
            run = Listed(value, {UNSAID: row["fingerprint"]}, {"commit": row["git_commit"][:7]})
        except (KeyError, TypeError, ValueError) as error:
            faults.append(f"{path}, line {line}: left out ({type(error).__name__}: {error})")
            continue
        if not math.isfinite(value):
            faults.append(f"{path}, line {line}: left out, since {study.measured} is {value}")
        elif found[of].setdefault(seed, run) is not run:
            faults.append(f"{path}, line {line}: left out, a second run of its row and seed")
    return {row: side for row, side in found.items() if side}
