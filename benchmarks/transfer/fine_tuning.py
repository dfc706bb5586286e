"""Fine-tune every student of a seed on the data sets of the transfer study.

``python -m benchmarks.transfer.fine_tuning --config scale=mini --seed 0`` trains with the loop that
trained the students, without distillation: all of a seed's students are one cohort, on the same
batches, with the same new classifier. It writes ``transfer/DATA/METHOD/seed-SEED/fine-tuning/`` in
the form of a cell, resumes after a kill, and leaves alone what is complete.
"""

import dataclasses

import torch.distributed as dist

from benchmarks.transfer.students import Student, students_of
from manifold import command, ranks
from manifold.config import Experiment, fingerprint
from manifold.runs import Cell, Setting, Start
from manifold.train import train

METHOD = "none"  # the distiller: cross-entropy alone


def identity(experiment: Experiment, name: str, student: Student, seed: int) -> dict:
    """What shapes a fine-tuned student's weights."""
    return {
        **experiment.fine_tuning_identity(name, seed),
        "method": student.method,
        "model": dataclasses.asdict(student.model),
        "student_sha256": student.sha256,
    }


def cell(experiment: Experiment, name: str, student: Student, seed: int) -> Cell:
    """The run that fine-tunes a student."""
    return Cell(
        method=student.method,
        definition=experiment.method_definitions[METHOD],
        student=student.model,
        directory=experiment.transfer_directory(name, student.method, seed) / "fine-tuning",
        identity=identity(experiment, name, student, seed),
        start=Start(student.weights, student.classes),
    )


def setting(
    experiment: Experiment, name: str, seed: int, students: list[Student], processes: tuple
) -> Setting:
    """What the students of a cohort share: the data set, its recipe and epochs."""
    transfer, entry = experiment.transfer, experiment.transfer.data[name]
    company = fingerprint(sorted(student.method for student in students))[:8]
    rank, device = processes
    return Setting(
        experiment=dataclasses.replace(experiment, data=experiment.fine_tuning_data(name)),
        pair=experiment.pairs[transfer.pair],
        pair_name=transfer.pair,
        recipe=experiment.recipes[entry.recipe],
        recipe_name=entry.recipe,
        epochs=entry.epochs,
        seed=seed,
        teacher_weights=None,
        state=experiment.directory / "state/transfer" / name / f"seed-{seed}-{company}.pt",
        ranks=rank,
        device=device,
    )


def run(experiment: Experiment, seed: int) -> None:
    """Fine-tune on every data set that asks for it.

    Raises:
        UserError: a student is missing or damaged, or a data set is.
    """
    processes = ranks.start(experiment.machine.device)
    students = {student.method: student for student in students_of(experiment, seed)}
    for name, entry in experiment.transfer.data.items():
        if "fine-tuning" not in entry.protocols:
            continue
        for methods in experiment.in_cohorts(list(students)):
            company = [students[method] for method in methods]
            cells = [cell(experiment, name, student, seed) for student in company]
            train(setting(experiment, name, seed, company, processes), cells)
    if dist.is_initialized():
        dist.destroy_process_group()


def main() -> None:
    command.for_seed("benchmarks.transfer.fine_tuning", __doc__, run)


if __name__ == "__main__":
    command.run(main)
