"""Which finished cells stay as they are: those of the code and data that they are to be of."""

import sys

from manifold.settings import Experiment
from manifold.settings.data_files import is_other
from manifold.training import records
from manifold.training.cells import Cell


def is_kept(experiment: Experiment, cell: Cell, files: str | None) -> bool:
    """Whether a cell is complete, and of the code and data that it is to be of.

    Args:
        experiment: with the data that the cell is trained on.
        files: the digest of these data's files.
    """
    if not cell.is_complete():
        return False
    record = records.read_run(cell.directory / "run.json")
    if is_other(record.get("data_digest"), files):
        print(
            f"{cell.directory} was trained on other files than now stand in "
            f"{experiment.data.folder}: it is made anew",
            file=sys.stderr,
        )
        return False
    if cell.is_outdated(experiment, record.get("source_hash")):
        return False
    if record.get("source_hash") != cell.source_hash:
        print(
            f"{cell.directory} was made by other code than now stands; --config stale=retrain "
            "makes it anew",
            file=sys.stderr,
        )
    return True
