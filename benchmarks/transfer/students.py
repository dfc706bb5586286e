"""The students that are carried over to other data sets: those of the cells, and untrained ones."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.evidence.cells import collect
from benchmarks.transfer import Transfer
from manifold.errors import UserError
from manifold.files import sha256
from manifold.settings import CELL_FILES, UNTRAINED, Model
from manifold.training.cells import student_model
from manifold.training.records import check_weights, read_run, record_of


@dataclass
class Student:
    """The network of a method and a seed, and the file of its weights."""

    method: str  # or UNTRAINED
    model: Model
    weights: Path
    classes: int  # that it was trained for

    @property
    def sha256(self) -> str:
        return sha256(self.weights)


def rows_of(study: Transfer) -> dict[str, str]:
    """The rows of the table, method: title; the untrained student comes first."""
    definitions = study.experiment.method_definitions
    titles = {method: definitions[method].title for method in study.methods}
    return {UNTRAINED: "Untrained", **titles}


def students_of(study: Transfer, seed: int) -> list[Student]:
    """One student a row of the table.

    Raises:
        UserError: a student is missing, damaged, or of another configuration.
    """
    experiment = study.experiment
    ((key, methods),) = study.students().items()
    name, pair = key[0], experiment.pairs[key[0]]
    records = collect(experiment, *key, methods, [seed])
    untrained = study.untrained_student(seed)
    if not record_of(untrained).is_file():
        raise UserError(
            f"{untrained}: not there; python -m benchmarks transfer initialise seed={seed} makes it"
        )
    classes = read_run(record_of(untrained))["classes"]
    students = [Student(UNTRAINED, pair.student, untrained, classes)]
    for method, runs in records.items():
        model = student_model(pair, name, method, experiment.method_definitions[method])
        weights = experiment.cell_directory(*key, method, seed) / CELL_FILES[0]
        students.append(Student(method, model, weights, len(runs[seed]["classes"])))
    for student in students:
        if not student.weights.is_file():
            raise UserError(
                f"{student.weights}: the student of {student.method!r} is missing; snakemake makes "
                "it again"
            )
        check_weights(student.weights)
    return students
