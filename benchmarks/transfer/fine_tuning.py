"""Fine-tune every student of a seed on a data set of the transfer study.

With the loop that trained the students, without distillation: all of a seed's students are one
cohort, on the same batches, with the same new classifier. Each ends as
``transfer/DATA/METHOD/seed-SEED/fine-tuning/`` in the form of a cell.
"""

import torch.distributed as dist

from benchmarks.transfer import Transfer
from benchmarks.transfer.cells import fine_tuning_cell
from benchmarks.transfer.students import Student, students_of
from manifold import ranks
from manifold.settings import Experiment, fingerprint
from manifold.training.runs import Setting
from manifold.training.train import train


def setting(
    study: Transfer, name: str, seed: int, students: list[Student], processes: tuple
) -> Setting:
    """What the students of a cohort share: the data set, its recipe and epochs."""
    experiment, entry = study.experiment, study.settings.data[name]
    company = fingerprint(sorted(student.method for student in students))[:8]
    rank, device = processes
    return Setting(
        experiment=experiment.replaced(data=study.fine_tuning_data(name)),
        pair=experiment.pairs[study.settings.pair],
        pair_name=study.settings.pair,
        recipe=experiment.recipes[entry.recipe],
        recipe_name=entry.recipe,
        epochs=entry.epochs,
        seed=seed,
        teacher_weights=None,
        state=experiment.directory / "state/transfer" / name / f"seed-{seed}-{company}.pt",
        ranks=rank,
        device=device,
    )


def run(experiment: Experiment, data: str, seed: int) -> None:
    """Fine-tune a seed's students on a data set.

    Raises:
        UserError: a student is missing or damaged, or the data set is.
    """
    study = experiment.studies["transfer"]
    processes = ranks.start(experiment.machine.device)
    students = {student.method: student for student in students_of(study, seed)}
    for methods in experiment.in_cohorts(list(students)):
        company = [students[method] for method in methods]
        cells = [fine_tuning_cell(study, data, student, seed) for student in company]
        train(setting(study, data, seed, company, processes), cells)
    if dist.is_initialized():
        dist.destroy_process_group()
