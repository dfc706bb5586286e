"""The job that writes a student which knows nothing.

It imports no study, so that the hash of a study's job covers it.
"""

from pathlib import Path

from manifold.settings import Experiment
from manifold.training.data import load_splits
from manifold.training.untrained import write_initialised


def write_untrained(experiment: Experiment, pair: str, seed: int, path: Path) -> None:
    """Write a pair's student as it was before a seed's first step, and its record."""
    student = experiment.pairs[pair].student
    write_initialised(experiment, student, load_splits(experiment.data), seed, path)
