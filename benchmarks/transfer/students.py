"""The students that are carried over to other data sets: those of the cells, and untrained ones."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from benchmarks.cells import collect
from manifold.config import CELL_FILES, UNTRAINED, Experiment, Model
from manifold.errors import UserError
from manifold.files import sha256
from manifold.models import create_model, load_weights
from manifold.records import check_weights, read_run, record_of
from manifold.runs import student_model


@dataclass
class Student:
    """The network of a method and a seed, and the file of its weights."""

    method: str  # or UNTRAINED
    model: Model
    weights: Path
    classes: int  # that it was trained for

    def network(self, image_shape: tuple[int, int, int]) -> nn.Module:
        """The network with its weights, in eval mode."""
        network = create_model(self.model, image_shape, self.classes)
        load_weights(network, self.weights, f"the student of {self.method!r}")
        return network.eval()

    @property
    def sha256(self) -> str:
        return sha256(self.weights)


def rows_of(experiment: Experiment) -> dict[str, str]:
    """The rows of the table, method: title; the untrained student comes first."""
    titles = {
        method: experiment.method_definitions[method].title
        for method in experiment.transfer_methods()
    }
    return {UNTRAINED: "Untrained", **titles}


def students_of(experiment: Experiment, seed: int) -> list[Student]:
    """One student a row of the table.

    Raises:
        UserError: a student is missing, damaged, or of another configuration.
    """
    transfer = experiment.transfer
    pair = experiment.pairs[transfer.pair]
    key = (transfer.pair, transfer.recipe, transfer.epochs)
    records = collect(experiment, *key, experiment.transfer_methods(), [seed])
    untrained = experiment.untrained_student(seed)
    if not record_of(untrained).is_file():
        raise UserError(f"{untrained}: not there; python -m benchmarks.transfer.prepare makes it")
    classes = read_run(record_of(untrained))["classes"]
    students = [Student(UNTRAINED, pair.student, untrained, classes)]
    for method, runs in records.items():
        definition = experiment.method_definitions[method]
        model = student_model(pair, transfer.pair, method, definition)
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
