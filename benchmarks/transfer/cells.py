"""What the study makes of a student: what it is called, what shapes it, and where it is kept."""

from benchmarks.transfer import FINE_TUNING, FINE_TUNING_JOB, FINE_TUNING_METHOD, Transfer
from benchmarks.transfer.students import Student
from manifold.settings import to_plain
from manifold.training.cells import Cell, Start

ALL = "all"  # the name of "all training images" where a number of shots stands


def probes_identity(study: Transfer, name: str, student: Student, seed: int) -> dict:
    """What shapes the record of a student's probes."""
    return {
        **study.probe_identity(name, seed),
        "method": student.method,
        "student_sha256": student.sha256,
    }


def fine_tuning_cell(study: Transfer, name: str, student: Student, seed: int) -> Cell:
    """The run that fine-tunes a student."""
    identity = {
        **study.fine_tuning_identity(name, seed),
        "method": student.method,
        "model": to_plain(student.model),
        "student_sha256": student.sha256,
    }
    return Cell(
        method=student.method,
        definition=study.experiment.method_definitions[FINE_TUNING_METHOD],
        student=student.model,
        directory=study.directory(name, student.method, seed) / FINE_TUNING,
        identity=identity,
        start=Start(student.weights, student.classes),
        maker=FINE_TUNING_JOB,
    )
