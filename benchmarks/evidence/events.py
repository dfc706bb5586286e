"""The curves of trainings as TensorBoard shows them: ``benchmarks watch --tensorboard FOLDER``.

One run a student, named as its cell; a scalar for each column of metrics.csv, an epoch at a time.
Finished students are read from their cells or records, the others from their checkpoints, so no
training knows of it.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.evidence.cells import metrics_of
from benchmarks.evidence.runs import Run, Runs
from manifold.errors import UserError
from manifold.settings import Experiment
from manifold.settings.recorded import Key, expected_fingerprint

NO_CURVES = ("epoch", "step")
COHORT = re.compile(
    r"(?P<pair>[^/]+)/(?P<recipe>[^/]+)/(?P<epochs>\d+)-epochs/seed-(?P<seed>\d+)-[^/-]+"
)
Curves = dict[str, list[Mapping[str, Any]]]  # by the run's name, a row an epoch


class Events:
    """Event files in a folder of their own, to which every epoch is added once.

    Raises:
        UserError: the package tensorboard is missing, or the folder holds something.
    """

    def __init__(self, folder: Path):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError(
                f"--tensorboard needs a package that is not installed ({error}): pip install "
                "tensorboard"
            ) from error
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(
                f"--tensorboard {folder}: something is there, and every point would stand twice; "
                "give a folder that is new"
            )
        self._writer, self._folder = SummaryWriter, folder
        self._written: dict[str, int] = {}
        self._finished: set[Key] = set()

    def add_finished(self, experiment: Experiment, found: Runs) -> None:
        """Write the students that are done, of this configuration; each is read once."""
        for run in found:
            if run.key in self._finished or not _is_of(experiment, run):
                continue
            self.add({_name(*run.key): metrics_of(experiment, run.key)})
            self._finished.add(run.key)

    def add(self, curves: Curves) -> None:
        """Write the epochs that are new since the last call."""
        for name, rows in curves.items():
            new = rows[self._written.get(name, 0) :]
            if not new:
                continue
            with self._writer(str(self._folder / name)) as writer:
                for row in new:
                    for column, value in row.items():
                        if column not in NO_CURVES and value not in (None, ""):
                            writer.add_scalar(column, float(value), int(row["step"]))
            self._written[name] = len(rows)


def _is_of(experiment: Experiment, run: Run) -> bool:
    """Whether a run is of this configuration: others may lie in the folder, from another day."""
    pair, recipe, _, method, _ = run.key
    is_known = (
        pair in experiment.pairs
        and recipe in experiment.recipes
        and method in experiment.method_definitions
    )
    return is_known and run.record["fingerprint"] == expected_fingerprint(experiment, run.key)


def cohort_of(place: Path) -> tuple[str, str, int, int] | None:
    """Pair, recipe, epochs and seed of a cohort's checkpoint; None of one of another kind.

    Args:
        place: below the folder of states, without its suffix.
    """
    found = COHORT.fullmatch(place.as_posix())
    return found and (found["pair"], found["recipe"], int(found["epochs"]), int(found["seed"]))


def of_checkpoint(place: Path, rows: Mapping[str, list[Mapping[str, Any]]]) -> Curves:
    """The curves of the members of a cohort that is being trained.

    Args:
        place: of the checkpoint, as in ``cohort_of``.
    """
    if (cohort := cohort_of(place)) is None:  # a teacher's, or of a study's own training
        return {}
    pair, recipe, epochs, seed = cohort
    return {_name(pair, recipe, epochs, method, seed): own for method, own in rows.items()}


def _name(pair: str, recipe: str, epochs: int, method: str, seed: int) -> str:
    return f"{pair}/{recipe}/{epochs}-epochs/{method}/seed-{seed}"
