"""Take records in: ``python -m benchmarks merge FOLDER … --config scale=mini``.

They are of other machines and earlier days, as ``python -m benchmarks records`` wrote them, and
come to ``results/mini/records``. What is missing is trained, and a table is made of both.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.evidence.records import TEACHERS, finished, keys, studies_with_results
from benchmarks.evidence.results import (
    Result,
    WithResults,
    is_of_result,
    pack_result,
    unpack_result,
)
from benchmarks.evidence.runs import WEIGHTS, check_run, differing, in_words
from manifold.errors import Faults, UserError
from manifold.files import sha256, write_text
from manifold.settings import Experiment, to_plain
from manifold.settings.recorded import (
    RECORDS,
    Recorded,
    expected_fingerprint,
    is_outdated_cell,
    pack,
    record_path,
    unpack,
    unpacked,
)
from manifold.training import command
from manifold.training.records import evaluation_path

NOT_KEPT = (
    "than now stands and is not kept (a file of yours was edited, or stale=retrain asks so); leave "
    "it out, or put that code back"
)


@dataclass
class Merged:
    """What became of the records that were given."""

    taken: int = 0
    known: int = 0  # the same cell, or result, was here
    foreign: int = 0  # of what no study of this configuration needs

    def words(self) -> str:
        return (
            f"{self.taken} record(s) taken in, {self.known} already here, {self.foreign} of what "
            "no study of this configuration needs"
        )


def merge(experiment: Experiment, folders: Iterable[Path], with_results: bool = True) -> Merged:
    """Take records into the experiment's folder: all of them, or none where one is refused.

    Args:
        with_results: also those of results, beside cells.

    Raises:
        UserError: names every record that is damaged, altered, in another's place, of another
            identity than the cell or result that it would stand for, or of other numbers than are
            here; and every folder of another run in whose place it would stand. Those of results
            are looked at where those of cells are all in order.
    """
    faults, merged, new, teachers, of_jobs = Faults(), Merged(), {}, {}, []
    needed, target = set(keys(experiment)), experiment.directory / RECORDS
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder of records")
        for path in sorted(folder.rglob("*.json")):
            with faults.collected():
                if path.relative_to(folder).parts[:-1] == (TEACHERS,):
                    teachers |= _measured(experiment, path)
                    continue
                if is_of_result(path):
                    of_jobs.append((folder, path))
                    continue
                found = unpack(path)
                check_run(path, found.run)
                if found.key not in needed:
                    merged.foreign += 1
                    continue
                _hold_to_identity(experiment, path, found)
                place = record_path(target, found.key)
                here = finished(experiment, found.key)
                if here is None and place not in new:
                    _refuse_beside(path, experiment.cell_directory(*found.key))
                    merged.taken += 1
                    new[place] = found
                else:
                    merged.known += 1
                    _refuse_other_results(path, found, here or new[place])
    faults.raise_any()
    results = _merge_results(experiment, of_jobs if with_results else [], new, merged)
    for place, found in new.items():
        write_text(place, pack(found))
    for place, result in results.items():
        write_text(place, pack_result(result))
    for place, measured in teachers.items():
        write_text(place, json.dumps(measured, indent=2) + "\n")
    return merged


def _hold_to_identity(experiment: Experiment, path: Path, found: Recorded) -> None:
    """Refuse a record of another configuration or teacher than the cell's, or of code not to keep.

    Raises:
        UserError: names the keys that differ, with both values; or the method.
    """
    expected = expected_fingerprint(experiment, found.key)
    weights = experiment.teacher_weights(found.key[0])
    if expected is None:
        raise UserError(
            f"{path} needs the teacher {weights}, which is not here; put it there first"
        )
    if found.run["fingerprint"] == expected:
        if is_outdated_cell(experiment, found):
            raise UserError(
                f"{path} was made by other code of method {found.run['method']!r} {NOT_KEPT}"
            )
        return
    own = {**experiment.cell_identity(*found.key), "teacher_sha256": sha256(weights)}
    others = differing(found.run["configuration"], to_plain(own))
    raise UserError(
        f"{path} is of another configuration: {in_words(others, 'there', 'here')}; leave it "
        "out, or give the configuration that it was made with"
    )


def _refuse_beside(path: Path, folder: Path) -> None:
    """Refuse a record whose cell would be trained all the same.

    Raises:
        UserError: names the folder that stands in its way.
    """
    if (folder / "run.json").is_file():
        raise UserError(
            f"{path} cannot stand for {folder}, where a run of another configuration, code or "
            "data is, or a damaged one; delete that folder to take the record in, or leave the "
            "record out"
        )


def _refuse_other_results(path: Path, found: Recorded, here: Recorded) -> None:
    """Refuse a second result of one cell: which of two was meant, nobody can say.

    Raises:
        UserError: names both.
    """
    if found.run["result"] != here.run["result"]:
        cell = "/".join(map(str, found.key))
        raise UserError(
            f"{path}: cell {cell} is here with top-1 {here.run['result']['top1']:.2f}, and this "
            f"record says {found.run['result']['top1']:.2f}; leave one of the two out"
        )


def _merge_results(
    experiment: Experiment,
    paths: Iterable[tuple[Path, Path]],
    cells: dict[Path, Recorded],
    merged: Merged,
) -> dict[Path, Result]:
    """The records of results that are taken in, by their place.

    Args:
        paths: folders of records, and of each the records of results.
        cells: those that are taken in with them.
        merged: where they are counted.

    Raises:
        UserError: as ``merge``.
    """
    studies = {study.name: study for study in studies_with_results(experiment)}
    faults, new = Faults(), {}
    for folder, path in paths:
        with faults.collected():
            found = unpack_result(path)
            study = studies.get(found.study)
            if study is None or found.wildcards not in study.needed_results():
                merged.foreign += 1
                continue
            if path != study.result_path(folder, found.wildcards):
                raise UserError(f"{path} is of another result: {found.in_words()}")
            _hold_result_to_identity(study, path, found, cells)
            place = study.own_result_path(found.wildcards)
            run = study.run_of(found.wildcards) or (new[place].run if place in new else None)
            if run is None:
                merged.taken += 1
                new[place] = found
            else:
                merged.known += 1
                if run["result"] != found.run["result"]:
                    here = study.outputs(found.wildcards)[-1].parent
                    raise UserError(
                        f"{path} says {found.run['result']} where {run['result']} is here "
                        f"({here if here.is_dir() else place}); leave one of the two out"
                    )
    faults.raise_any()
    return new


def _hold_result_to_identity(
    study: WithResults, path: Path, found: Result, cells: dict[Path, Recorded]
) -> None:
    """Refuse a result of another configuration, of code not to keep, or of other inputs.

    Raises:
        UserError: names the keys that differ, with both values; the code; the images; the student.
    """
    if not study.is_of_this_configuration(found):
        others = differing(found.identity, study.identity_of(found.wildcards))
        said = in_words(others, "there", "here") or "a key is null here, or a number written else"
        raise UserError(
            f"{path} is of another configuration: {said}; leave it out, or give the configuration "
            "that it was made with"
        )
    if study.is_outdated(found):
        raise UserError(f"{path} was made by other code {NOT_KEPT}")
    if others := study.other_inputs(found):
        raise UserError(f"{path} was made of others than {others}; leave it out")
    for key, digest in study.students_of(found).items():
        cell = cells.get(record_path(study.experiment.directory / RECORDS, key))
        given = None if cell is None else cell.run["files"][WEIGHTS]
        here = study.student_digest(key) or given
        if here != digest:
            student = f"the student {'/'.join(map(str, key))}"
            raise UserError(
                f"{path} was made of {student}, of which neither file nor record is here; give "
                "the folder with its record too"
                if here is None
                else f"{path} was made of another file of {student} than is here: SHA-256 {digest} "
                f"there and {here} here; leave it out"
            )


def _measured(experiment: Experiment, path: Path) -> dict[Path, dict[str, Any]]:
    """What was measured of a teacher and where it is to stand; nothing where it is known here.

    Raises:
        UserError: it is of other weights, or stands in another's place.
    """
    content = unpacked(path, {"pair", "evaluation"})
    pair, measured = content["pair"], content["evaluation"]
    if pair != path.stem:
        raise UserError(f"{path} is of the teacher of another pair: {pair}")
    if pair not in experiment.pairs:
        return {}
    weights, place = experiment.teacher_weights(pair), evaluation_path(experiment, pair)
    if not weights.is_file() or sha256(weights) != measured["sha256"]:
        raise UserError(
            f"{path} was measured of other weights than {weights}; put that teacher there, or "
            "leave the record out"
        )
    return {} if place.is_file() else {place: measured}


def main() -> None:
    parser = command.parser("benchmarks merge", __doc__)
    parser.add_argument("folders", type=Path, nargs="+", help="folders of records")
    options = parser.parse_args()
    print(merge(command.experiment(options), options.folders).words())
