"""Students held to their records: their files' bytes, their teachers', and what they reach.

On the machine of a record the student has to reach its top-1 to the last digit; elsewhere within
one test image in a thousand, since another processor or library rounds otherwise.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.evaluate import evaluate_checkpoint
from benchmarks.evidence.publish import STUDENTS
from benchmarks.evidence.records import keys
from benchmarks.evidence.runs import CELLS, Run, check_run, differing, in_words
from manifold import ranks
from manifold.errors import Faults, UserError
from manifold.files import sha256
from manifold.settings import CELL_FILES, Experiment, fingerprint, to_plain
from manifold.settings.recorded import RECORDS, Key, record_path, unpack
from manifold.training.cells import student_model
from manifold.training.data import load_splits
from manifold.training.description import describe_environment
from manifold.training.progress import progress
from manifold.training.records import (
    check_weights,
    evaluation_path,
    read_run,
    read_teacher,
)

WEIGHTS, _, RUN = CELL_FILES
ONE_IN_A_THOUSAND = 0.1  # points of top-1
SAME = ("processor", "device", "threads")  # of an environment, on one and the same machine,
SAME_PACKAGES = ("torch", "timm")  # with these of its packages
SAME_MACHINE = ("evaluation_batch_size", "channels_last", "compile")  # and of the machine's section


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
        return "\n".join(lines)


@dataclass(frozen=True)
class Student:
    """A student whose bytes are those of its record."""

    key: Key
    folder: Path
    run: dict[str, Any]


def verify_students(experiment: Experiment, found: Verified) -> None:
    """Hold the cells of an experiment's folder to their records, and evaluate their students.

    Raises:
        UserError: no cell and no record of this configuration is there, and no table.
    """
    needed = {
        key: f"{study.name}.csv"
        for study in experiment.studies.values()
        if (experiment.directory / f"{study.name}.csv").is_file()
        for key in study.needed()
    }
    students, alone, faults = [], [], Faults()
    for key in keys(experiment):
        folder = experiment.cell_directory(*key)
        record = record_path(experiment.directory / RECORDS, key)
        with faults.collected():
            if record.is_file() and not (folder / RUN).is_file():
                alone.append(Student(key, record, _recorded(experiment, key, record)))
            elif lacks := [name for name in CELL_FILES if not (folder / name).is_file()]:
                said = f"{folder} lacks {', '.join(lacks)}" if folder.is_dir() else f"no {folder}"
                if key in needed:
                    faults.add(f"{said}, which {needed[key]} is made of")
                elif folder.is_dir():
                    found.unknown.append(f"{said}; no table here is made of it")
            else:
                students.append(_cell(experiment, key, folder))
    if not (students or alone or needed or faults.found):
        raise UserError(
            f"{experiment.directory} holds no student and no record of this configuration: nothing "
            "was verified; give scale=, name=, results= and seeds= as for the run"
        )
    found.other += faults.found
    if alone:
        found.unknown.append(f"{len(alone)} student(s) of which only the record is here")
    if others := _others(experiment):
        found.unknown.append(
            f"{len(others)} cell(s) that no study of this configuration needs, as {others[0]}"
        )
    _hold_teachers(experiment, [*students, *alone], found)
    _evaluate(experiment, students, found)


def verify_published_students(experiment: Experiment, published: Path, found: Verified) -> None:
    """Evaluate the students of a published folder, and hold them to the records beside them."""
    students, faults = [], Faults()
    for path in published_runs(published):
        with faults.collected():
            students.append(_published(experiment, path, published / RECORDS))
    found.other += faults.found
    if not (students or faults.found):
        found.unknown.append(f"{published}: no student is published there")
    _hold_teachers(experiment, students, found, published)
    try:
        _ = students and load_splits(experiment.data)
    except UserError as error:
        found.unknown.append(
            f"what {len(students)} published student(s) reach; put the data there and verify "
            f"again: {error}"
        )
        return
    _evaluate(experiment, students, found)


def published_runs(published: Path) -> list[Path]:
    """The run.json beside every student of a published folder."""
    return sorted((published / STUDENTS).glob(f"*/*/*/*/seed-*/{RUN}"))


# ---- their bytes ---------------------------------------------------------------------------------


def _cell(experiment: Experiment, key: Key, folder: Path) -> Student:
    """A cell that is of this configuration, and whole.

    Raises:
        UserError: names every file that is not.
    """
    run = read_run(folder / RUN)
    check_run(folder / RUN, run)
    _hold_to_experiment(experiment, key, folder / RUN, run)
    _hold_files(folder, run, run["files"])
    return Student(key, folder, run)


def _published(experiment: Experiment, path: Path, records: Path) -> Student:
    """A published student that is of this configuration, and that of its record.

    Raises:
        UserError: it is not; or it is without its record.
    """
    run = read_run(path)
    check_run(path, run)
    key, folder = Run(path, run).key, path.parent
    if key not in set(keys(experiment)):
        raise UserError(f"{folder} is of no study of this configuration")
    record = record_path(records, key)
    if not record.is_file():
        raise UserError(f"{folder} is without its record, {record}")
    if others := list(differing(unpack(record).run, run)):
        raise UserError(f"{path} is not its record: {in_words(iter(others), 'there', 'here')}")
    _hold_to_experiment(experiment, key, path, run)
    _hold_files(folder, run, [WEIGHTS])
    return Student(key, folder, run)


def _recorded(experiment: Experiment, key: Key, path: Path) -> dict[str, Any]:
    """A record that is of this configuration.

    Raises:
        UserError: it is not, or was altered.
    """
    run = unpack(path).run
    check_run(path, run)
    _hold_to_experiment(experiment, key, path, run)
    return run


def _hold_to_experiment(experiment: Experiment, key: Key, path: Path, run: dict[str, Any]) -> None:
    """Refuse a run of another configuration; its teacher is looked at apart."""
    own = {**experiment.cell_identity(*key), "teacher_sha256": _teacher(run)}
    if run["fingerprint"] != fingerprint(own):
        others = differing(run["configuration"], to_plain(own))
        raise UserError(
            f"{path} is of another configuration: {in_words(others, 'there', 'asked for')}"
        )


def _hold_files(folder: Path, run: dict[str, Any], names: Iterable[str]) -> None:
    """Refuse files that are not those of the record beside them."""
    faults = Faults()
    for name in names:
        if not (folder / name).is_file():
            faults.add(f"{folder / name} is missing; its record names it")
        elif sha256(folder / name) != run["files"].get(name):
            faults.add(f"{folder / name}: other bytes than those of its record")
    faults.raise_any()


def _others(experiment: Experiment) -> list[Path]:
    """Cells of the folder that the configuration does not need."""
    needed = {experiment.cell_directory(*key) for key in keys(experiment)}
    here = sorted((experiment.directory / CELLS).glob("*/*/*/*/seed-*"))
    return [folder for folder in here if folder not in needed]


def _teacher(run: dict[str, Any]) -> str | None:
    """The SHA-256 of a student's teacher, by its record."""
    return run["configuration"].get("teacher_sha256")


def _hold_teachers(
    experiment: Experiment, students: list[Student], found: Verified, published: Path | None = None
) -> None:
    """Hold the teachers' files to what their students, and their own records, say of them.

    Args:
        published: a folder whose own teacher it is, where it holds one.
    """
    by_teacher: dict[str, list[Student]] = {}
    for student in students:
        by_teacher.setdefault(student.key[0], []).append(student)
    for pair, own in by_teacher.items():
        weights = experiment.teacher_weights(pair)
        if published and (own_file := published / weights.parent.name / weights.name).is_file():
            weights = own_file
        if not weights.is_file():
            found.other.append(f"{weights} is missing, the teacher of {len(own)} student(s)")
            continue
        digest = sha256(weights)
        others = [student for student in own if _teacher(student.run) != digest]
        faults = Faults()
        if others:
            faults.add(
                f"{weights}: other bytes than those of the teacher of {len(others)} student(s), as "
                f"{others[0].folder}"
            )
        with faults.collected():
            check_weights(weights)
        if evaluation_path(experiment, pair).is_file():
            with faults.collected():
                read_teacher(experiment, pair)
        found.other += faults.found
        if not faults.found:
            found.same.append(f"{weights}, the teacher of {len(own)} student(s)")


# ---- what they reach -----------------------------------------------------------------------------


def _evaluate(experiment: Experiment, students: list[Student], found: Verified) -> None:
    """Evaluate students, and hold each to its record by the rule of the machine that made it."""
    if not students:
        return
    _, device = ranks.start(experiment.machine.device)
    here = _machine(describe_environment(device) | {"machine": to_plain(experiment.machine)})
    agreed = {True: 0, False: 0}
    for student in progress(students, what="verify students", unit="student"):
        pair, _, _, method, _ = student.key
        recorded, there = student.run["result"], _machine(student.run.get("environment", {}))
        try:
            definition = experiment.method_definitions[method]
            model = student_model(experiment.pairs[pair], pair, method, definition)
            weights = str(student.folder / WEIGHTS)
            top1 = evaluate_checkpoint(experiment, model, weights, split=recorded["split"])["top1"]
        except UserError as error:
            found.other.append(f"{student.folder}: {error}")
            continue
        is_same = there == here
        if abs(top1 - recorded["top1"]) > (0 if is_same else ONE_IN_A_THOUSAND):
            found.other.append(
                f"{student.folder / RUN}: says {recorded['top1']!r}, and its student reaches "
                f"{top1!r} {'on the same machine' if is_same else 'on another machine'}"
            )
        else:
            agreed[is_same] += 1
    for is_same, count in agreed.items():
        rule = (
            "to the last digit, on the machine of their records"
            if is_same
            else "within one test image in a thousand; they are of another machine or libraries"
        )
        if count:
            found.same.append(f"{count} student(s) reach what their records say {rule}")


def _machine(environment: dict[str, Any]) -> list[Any]:
    """What of an environment decides how an evaluation rounds."""
    packages, machine = environment.get("packages", {}), environment.get("machine", {})
    return [
        *(environment.get(key) for key in SAME),
        *(packages.get(name) for name in SAME_PACKAGES),
        *(machine.get(key) for key in SAME_MACHINE),
    ]
