"""Check a run again: ``python -m benchmarks verify --config scale=mini``.

Every cell that is here is held to its record: its files' bytes, its teacher's, and what its student
reaches when it is evaluated from its file; and every table that is here to its runs. With
``--published FOLDER`` it is the folder's files that are held to its SHA256SUMS, every table that
the records there suffice for, which is computed anew from them alone and held to the letter, and
the students that were published with them; its experiment.yaml says what it is of.
"""

import tempfile
from pathlib import Path

import pandas as pd

from benchmarks.evidence import sums
from benchmarks.evidence.anew import differing
from benchmarks.evidence.folder import experiment_of, given_for
from benchmarks.evidence.merge import merge
from benchmarks.evidence.results import is_of_result, unpack_result
from benchmarks.evidence.students import Verified, verify_published_students, verify_students
from benchmarks.evidence.study import Study
from manifold.errors import UserError
from manifold.settings import Experiment
from manifold.settings.recorded import RECORDS, Key, expected_fingerprint, record_path
from manifold.training import command


def verify_tables(experiment: Experiment, published: Path, found: Verified) -> None:
    """Compute the published tables anew from their records alone."""
    if not (published / RECORDS).is_dir():
        found.unknown.append(f"{published}: no record is published there, so no table is made anew")
        return
    with tempfile.TemporaryDirectory() as folder:
        made = experiment.replaced(results=folder)
        _read_results(published / RECORDS, found)
        try:
            merged = merge(made, [published / RECORDS], with_results=False)
        except UserError as error:
            found.other.append(str(error))
            return
        if merged.foreign:
            found.unknown.append(
                f"{merged.foreign} record(s) of what no study of this configuration needs"
            )
        for study in made.studies.values():
            if not (published / f"{study.name}.csv").is_file():
                continue
            needed, taken_in = study.needed(), made.directory / RECORDS
            here = [key for key in needed if record_path(taken_in, key).is_file()]
            without = [key for key in needed if key not in here]
            if missing := _missing(study, published, here, without):
                found.other += [
                    f"{record_path(published / RECORDS, key)} is missing, of {study.name}.csv"
                    for key in missing
                ]
                continue
            if study.jobs():
                found.unknown.append(f"{study.name}: not all that its own jobs made is in records")
                continue
            if without:
                key = "/".join(map(str, without[0]))
                found.unknown.append(
                    f"{study.name}: it is made of runs without a record here; the first is {key}"
                )
                continue
            _hold_tables(study, published, "its records", found)


def _read_results(folder: Path, found: Verified) -> None:
    """Hold the records of results below a folder to their own hashes."""
    for path in sorted(folder.rglob("*.json")):
        if is_of_result(path):
            try:
                unpack_result(path)
            except UserError as error:
                found.other.append(str(error))


def verify_own_tables(experiment: Experiment, found: Verified) -> None:
    """Compute the tables of an experiment's folder anew from its runs."""
    _read_results(experiment.directory / RECORDS, found)
    for study in experiment.studies.values():
        if (experiment.directory / f"{study.name}.csv").is_file():
            _hold_tables(study, experiment.directory, "its runs", found)


def _hold_tables(study: Study, folder: Path, of: str, found: Verified) -> None:
    try:
        differences = differing(study, folder)
    except UserError as error:
        found.unknown.append(f"{study.name}: {error}")
        return
    for path, difference in differences.items():
        if difference:
            found.other.append(f"{path}: {difference}")
        else:
            found.same.append(f"{path} from {of}")


def _missing(study: Study, published: Path, here: list[Key], without: list[Key]) -> list[Key]:
    """The cells that a study lacks, where its table is made of records that are there.

    A study shares cells with others: it is of these records where its list of runs names one of
    them, and then all that it names are to be here; and so are all seeds of a row of which one is.

    Args:
        here, without: its cells of which a record is here, and the others.
    """
    if not without:
        return []
    runs, listed = published / f"{study.name}_seeds.csv", set()
    if runs.is_file():
        listed = set(pd.read_csv(runs, dtype=str).get("fingerprint", pd.Series(dtype=str)))

    def is_named(key: Key) -> bool:
        return expected_fingerprint(study.experiment, key) in listed

    is_of_these, rows = any(map(is_named, here)), {key[:-1] for key in here}
    return [key for key in without if key[:-1] in rows or (is_of_these and is_named(key))]


def verify_files(published: Path, found: Verified) -> None:
    """Hold the files of a published folder to its sums.

    Raises:
        UserError: there is no such folder, or it holds nothing.
    """
    if not published.is_dir() or not any(published.iterdir()):
        raise UserError(f"{published} is no folder with files, so nothing was verified")
    faults = sums.check(published)
    found.other += faults
    if not faults:
        found.same.append(f"every file of {published} by its {sums.SUMS}")


def main() -> None:
    parser = command.parser("benchmarks verify", __doc__)
    parser.add_argument("--published", type=Path, help="a folder of tables and their records")
    options, found = parser.parse_args(), Verified()
    if options.published is None:
        experiment = command.experiment(options)
        verify_students(experiment, found)
        verify_own_tables(experiment, found)
    else:
        given = given_for([options.published], parser, options)
        experiment = given or experiment_of(options.published)
        command.limit_threads(experiment)  # to those of the records, or all would round otherwise
        verify_files(options.published, found)
        verify_tables(experiment, options.published, found)
        verify_published_students(experiment, options.published, found)
    print(found.words())
    if found.other:
        raise UserError(f"{len(found.other)} thing(s) differ from what was recorded; see above")
