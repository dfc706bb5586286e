"""What two folders of results hold, row by row: read for ``benchmarks compare``.

Runs are taken from their records; where not all runs of a study have one, from the study's table of
runs, ``NAME_seeds.csv``. What cannot be used is named.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from benchmarks.evidence.folder import FILE, experiment_of, refuse_missing
from benchmarks.evidence.runs import UNSAID, Runs, hold_to_experiment, listed_runs, read_runs
from benchmarks.evidence.words import in_epochs
from manifold.errors import UserError
from manifold.settings import Experiment

NO_STUDY = "Students of no study"


class Value(Protocol):
    """A run of either kind: a ``Run`` of a record, or a ``Listed`` one of a table of runs."""

    value: float
    bits: Any
    identity: dict[str, Any]
    made_by: dict[str, Any]


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
        families: of methods, by their title.
        faults: what was left out, and why.
    """

    names: tuple[str, str]
    confidence: float
    families: dict[str, str | None]
    parts: list[Part]
    faults: list[str]


def compare(folder: Path, other: Path, given: Experiment | None = None) -> Comparison:
    """Read two folders of results.

    Args:
        given: whose studies are shown where neither folder holds a readable experiment.yaml.

    Raises:
        UserError: a folder is missing, both are one, or they have nothing to compare.
    """
    folders = (folder, other)
    for each in folders:
        refuse_missing(each)
    if folder.resolve() == other.resolve():
        raise UserError(f"{folder} and {other} are one folder; give two")
    faults: list[str] = []
    experiments = [_experiment(each, faults) for each in folders]
    runs = [read_runs(each) for each in folders]
    for each, own, found in zip(folders, experiments, runs, strict=True):
        faults += found.faults
        if own is not None:
            faults += hold_to_experiment(each, own, found)
    known = [own for own in [*experiments, given] if own is not None]
    if not known:
        raise UserError(
            f"neither {folder} nor {other} has a readable {FILE}; say what they are of, as in "
            "--config scale=mini" + "".join(f"\n{fault}" for fault in faults)
        )
    tables = _of_tables(known, folders, runs, faults)
    parts = [*_of_students(known, runs, {part.title for part in tables}), *tables]
    if not parts:
        raise UserError(
            f"{folder} and {other} have nothing to compare: neither records of runs nor a study's "
            "NAME_seeds.csv in both; let snakemake make a study in each first"
            + "".join(f"\n{fault}" for fault in faults)
        )
    names = (str(folder), str(other))
    families = {
        definition.title: definition.family
        for own in known
        for definition in own.method_definitions.values()
        if definition.family is not None
    }
    return Comparison(names, known[0].statistics.confidence, families, parts, faults)


def _experiment(folder: Path, faults: list[str]) -> Experiment | None:
    """What a folder's runs were to be; None where it cannot be told."""
    try:
        found = experiment_of(folder)
    except UserError as error:
        faults.append(str(error))
        return None
    if found is None:
        faults.append(f"What {folder} was to hold is not known: it has no {FILE}")
    return found


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
            name = f"{pair}, recipe {recipe}, {in_epochs(epochs)}"
            part.rows[name, titles.get(method, method)] = sides
    return list(parts.values())


def _of_tables(
    experiments: list[Experiment], folders: tuple[Path, Path], runs: list[Runs], faults: list[str]
) -> list[Part]:
    """The runs of studies of which a folder has some in its table alone, without their records."""
    titles, parts = _titles(experiments), []
    recorded = [{run.record["fingerprint"] for run in found} for found in runs]
    studies = {s.name: s for e in reversed(experiments) for s in e.studies.values()}
    for study in studies.values():
        paths = [each / f"{study.name}_seeds.csv" for each in folders]
        there = [path for path in paths if path.is_file()]
        tables = [listed_runs(path, study, faults) if path in there else {} for path in paths]
        part = Part(study.title, f"from {paths[0].name}, since not all of its runs have a record")
        is_recorded = True
        for row in dict.fromkeys([*tables[0], *tables[1]]):
            sides = tuple(table.get(row, {}) for table in tables)
            marks = [{run.identity[UNSAID] for run in side.values()} for side in sides]
            has_records = all(own <= of for own, of in zip(marks, recorded, strict=True))
            is_recorded &= has_records
            if not (has_records and all(sides)):  # what one side alone has is told here too
                *names, method = row
                part.rows[", ".join(names), titles.get(method, method)] = sides
        if is_recorded:
            continue
        if len(there) == 1:
            faults.append(f"{study.title}: not compared: only {there[0]} is here")
        else:
            parts.append(part)
    return parts
