"""Which detectors that are here are whole: what a record may be made of.

In a module of its own, since its code shapes no detector.
"""

from benchmarks.detection import DETECTOR_FILES
from benchmarks.detection.cells import DetectorCell
from benchmarks.detection.configuration import configure
from manifold.errors import UserError
from manifold.settings import Experiment, fingerprint
from manifold.training.records import is_complete


def is_whole(experiment: Experiment, detector: str, method: str, seed: int) -> bool:
    """Whether all files of a detector are here, unharmed, of this very configuration.

    One whose student or images are gone or damaged is of nothing that could be told.
    """
    cell = DetectorCell(experiment, detector, method, seed)
    try:
        digest = fingerprint(cell.identity(configure(cell)))
    except (UserError, OSError, ValueError):
        return False
    return is_complete(cell.directory, DETECTOR_FILES, DETECTOR_FILES[-1], digest)
