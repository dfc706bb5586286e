"""The students of the transfer study that know nothing."""

from manifold.settings import Experiment
from manifold.training.data import load_splits
from manifold.training.untrained import write_initialised


def initialise(experiment: Experiment, seed: int) -> None:
    """Write the student of a seed as it was before its first step."""
    study = experiment.studies["transfer"]
    splits = load_splits(experiment.data)
    student = experiment.pairs[study.settings.pair].student
    write_initialised(experiment, student, splits, seed, study.untrained_student(seed))
