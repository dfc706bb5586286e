"""The students of the transfer study that know nothing."""

from manifold.settings import Experiment


def initialise(experiment: Experiment, seed: int) -> None:
    """Write the student of a seed as it was before its first step."""
    experiment.studies["transfer"].write_untrained(seed)
