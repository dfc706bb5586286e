"""The students of the segmentation study that know nothing."""

from benchmarks.evidence.initialised import write_untrained
from manifold.settings import Experiment


def initialise(experiment: Experiment, seed: int) -> None:
    """Write the student of a seed as it was before its first step."""
    study = experiment.studies["segmentation"]
    write_untrained(experiment, study.settings.pair, seed, study.untrained_student(seed))
