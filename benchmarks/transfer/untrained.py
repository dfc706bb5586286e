"""The students of the transfer study that know nothing."""

from benchmarks.evidence.initialised import write_untrained
from manifold.settings import Experiment


def initialise(experiment: Experiment, seed: int) -> None:
    """Write the student of a seed as it was before its first step."""
    study = experiment.studies["transfer"]
    write_untrained(experiment, study.settings.pair, seed, study.untrained_student(seed))
