"""The runs of a folder of results, from their records alone: no weights, no configuration.

What cannot be used is named and left out: a record that is damaged, that was altered, that lacks
something, that stands in another run's place, or that is of another configuration than the other
seeds of its row.
"""

import csv
import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.evidence.records import TEACHERS, keys
from manifold.errors import UserError
from manifold.settings import Experiment, fingerprint
from manifold.settings.recorded import METRICS, RECORDS, Key, record_path, unpack

CELLS = "cells"  # the folder of whole cells
WEIGHTS = "student.safetensors"
Row = tuple[str, str, int, str]  # pair, recipe, epochs, method
UNSAID = "configuration (a hash; no record says in which keys)"
SHOWN = 3  # of a list of differences


@dataclass(frozen=True)
class Run:
    """A run as it was recorded.

    Attributes:
        path: of its record, below the folder.
        record: its run.json.
    """

    path: Path
    record: dict[str, Any]

    @property
    def key(self) -> Key:
        run = self.record
        return run["pair"], run["recipe_name"], run["epochs"], run["method"], run["seed"]

    @property
    def value(self) -> float:
        """Top-1 in percent."""
        return self.record["result"]["top1"]

    @property
    def bits(self) -> str:
        """The SHA-256 of its student's file."""
        return self.record["files"][WEIGHTS]

    @property
    def identity(self) -> dict[str, Any]:
        """What shapes it beside its seed and the code."""
        configuration = {**self.record["configuration"]}
        configuration.pop("seed", None)
        return {**configuration, "data_digest": self.record.get("data_digest")}

    @property
    def made_by(self) -> dict[str, Any]:
        """The code, the libraries and the machine."""
        environment = self.record.get("environment", {})
        return {
            "commit": (environment.get("git_commit") or "unknown")[:7],
            "training code": (self.record.get("training_hash") or "unknown")[:8],
            "method's code": (self.record.get("source_hash") or "unknown")[:8],
            "torch": environment.get("packages", {}).get("torch", "unknown"),
            "machine": f"{environment.get('device')} ({environment.get('processor')})",
        }


@dataclass(frozen=True)
class Listed:
    """A run of which nothing is here but its line in a table of runs."""

    value: float
    identity: dict[str, Any]
    made_by: dict[str, Any]

    @property
    def bits(self) -> float:
        return self.value


@dataclass
class Runs:
    """The runs of a folder.

    Attributes:
        rows: of each row its runs by seed.
        faults: what was left out, and why.
    """

    rows: dict[Row, dict[int, Run]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[Run]:
        return (run for seeds in self.rows.values() for run in seeds.values())


def read_runs(folder: Path) -> Runs:
    """Read every record below a folder of results, or of records alone.

    A whole cell comes before a record of it, as in the tables.
    """
    found = Runs()
    for path in _records(folder):
        try:
            run = Run(path.relative_to(folder), _read(path))
        except UserError as error:
            found.faults.append(str(error))
            continue
        seeds = found.rows.setdefault(run.key[:4], {})
        known = seeds.setdefault(run.key[4], run)
        if known is not run and known.value != run.value:
            found.faults.append(
                f"{path} says top-1 {run.value:.2f} of a cell that is here with {known.value:.2f}; "
                "the cell counts"
            )
    for row, seeds in found.rows.items():
        found.faults += _leave_out_others(folder, row, seeds)
    found.rows = {row: dict(sorted(seeds.items())) for row, seeds in found.rows.items() if seeds}
    return found


def hold_to_experiment(folder: Path, experiment: Experiment, runs: Runs) -> list[str]:
    """Take out runs that no study of a folder needs, and name them and those that are missing.

    Missing are those of the studies whose tables are there, or, where none is, of all studies.
    """
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
    studies = experiment.studies.values()
    shown = [s for s in studies if s.needed() and (folder / f"{s.name}.md").is_file()] or studies
    for key in dict.fromkeys(key for study in shown for key in study.needed()):
        if key[:4] in runs.rows and key not in here:
            missing[key[:4]].append(key[4])
    for row, seeds in missing.items():
        said = ", ".join(map(str, seeds))
        faults.append(f"{folder}: {'/'.join(map(str, row))} is without seed {said}")
    return faults


def listed_runs(
    path: Path, study: Any, faults: list[str]
) -> dict[tuple[str, ...], dict[int, Listed]]:
    """The runs of a ``NAME_seeds.csv`` by the names of their row; the method is the last.

    Args:
        faults: what is left out is added here.
    """
    found: dict[tuple[str, ...], dict[int, Listed]] = defaultdict(dict)
    if study.measured is None:
        return {}
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    except (OSError, ValueError, csv.Error) as error:
        faults.append(f"{path}: left out: {error}")
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


def differing(own: Any, other: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two plain values differ: key by key the path and both values."""
    if isinstance(own, dict) and isinstance(other, dict):
        for key in [*own, *(key for key in other if key not in own)]:
            yield from differing(own.get(key), other.get(key), f"{path}.{key}".lstrip("."))
    elif own != other:
        yield path, own, other


def _records(folder: Path) -> Iterator[Path]:
    """Every file that is to be a record."""
    cells, records = folder / CELLS, folder / RECORDS
    yield from sorted(cells.glob("*/*/*/*/seed-*/run.json"))
    alone = not (cells.is_dir() or records.is_dir())
    root = folder if alone else records
    for path in sorted(root.glob("*/*/*/*/seed-*.json")):
        if path.relative_to(root).parts[0] != TEACHERS:
            yield path


def _read(path: Path) -> dict[str, Any]:
    """A run.json that is whole, or that of a record.

    Raises:
        UserError: it is damaged, was altered, or lacks something.
    """
    if path.name == "run.json":
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is damaged ({error})") from error
        metrics = path.with_name(METRICS)
        if not metrics.is_file():
            raise UserError(f"{path} is without its {METRICS}")
        digest = hashlib.sha256(metrics.read_bytes()).hexdigest()
    else:
        record, digest = unpack(path).run, None
    check_run(path, record)
    if digest not in (None, record["files"][METRICS]):
        raise UserError(f"{path} is not of the {METRICS} beside it")
    return record


def check_run(path: Path, record: dict[str, Any]) -> None:
    """Hold the record of a run to itself and to its place, PAIR/RECIPE/N-epochs/METHOD/seed-SEED.

    Args:
        path: of the run.json in a cell of that place, or of the record, a .json of that name.

    Raises:
        UserError: it lacks something, was altered, or is of another run than stands there.
    """
    try:
        top1, configuration = record["result"]["top1"], record["configuration"]
        named = [record[key] for key in ("pair", "recipe_name", "method", "epochs", "seed")]
        files = record["files"]
        is_altered = record["fingerprint"] != fingerprint(configuration)
        is_whole = (
            all(isinstance(value, (str, int)) for value in named)
            and {WEIGHTS, METRICS} <= files.keys()
        )
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} lacks {error}, and is no whole record of a run") from error
    if not is_whole or not isinstance(top1, (int, float)) or not math.isfinite(top1):
        raise UserError(f"{path} is no whole record of a run (top-1 {top1!r})")
    if is_altered:
        raise UserError(f"{path} was altered: its configuration is not that of its fingerprint")
    run = Run(path, record)
    place = path.parent if path.name == "run.json" else path.with_suffix("")
    own = record_path(Path(), run.key).with_suffix("")
    if place.parts[-len(own.parts) :] != own.parts:
        raise UserError(f"{path} is of another run: {'/'.join(map(str, run.key))}")


def _leave_out_others(folder: Path, row: Row, seeds: dict[int, Run]) -> list[str]:
    """Take runs of another configuration than most of their row out, and name them."""
    kinds = {seed: fingerprint(run.identity) for seed, run in seeds.items()}
    usual = max(reversed(kinds.values()), key=list(kinds.values()).count, default=None)
    likely = next((run for seed, run in seeds.items() if kinds[seed] == usual), None)
    faults = []
    for seed in [seed for seed, kind in kinds.items() if kind != usual]:
        odd = seeds.pop(seed)
        said = in_words(differing(likely.identity, odd.identity), "in the row's others", "in it")
        faults.append(f"{folder / odd.path} is not of one kind with its row: {said}")
    return faults


def in_words(found: Iterator[tuple[str, Any, Any]], own: str, other: str) -> str:
    """What differs in words, the first few.

    Args:
        own, other: where each of the two values stands.
    """
    listed = list(found)
    said = [f"{path} is {first!r} {own} and {second!r} {other}" for path, first, second in listed]
    more = f" and {len(said) - SHOWN} more" if len(said) > SHOWN else ""
    return "; ".join(said[:SHOWN]) + more
