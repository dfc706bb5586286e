"""The detectors that are trained: where their files stand, and what they are told apart by."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from benchmarks.detection import Detection
from benchmarks.detection.data import annotation_file
from manifold.files import sha256
from manifold.settings import Experiment, to_plain


@dataclass
class DetectorCell:
    """One run: a detector on the backbone of one method's student of one seed."""

    experiment: Experiment
    detector: str
    method: str
    seed: int

    @property
    def study(self) -> Detection:
        return self.experiment.studies["detection"]

    @property
    def directory(self) -> Path:
        return self.study.directory(self.detector, self.method, self.seed)

    @property
    def state(self) -> Path:
        """Where checkpoints stand while it is trained."""
        name = f"{self.detector}-{self.method}-seed-{self.seed}"
        return self.experiment.directory / "state" / "detection" / name

    @property
    def student(self) -> Path | None:
        """The student's weights; None for random ones."""
        return self.study.student(self.method, self.seed)

    def identity(self, settings: Config) -> dict[str, Any]:
        """What shapes the detector: its configuration, the student's bytes, the data's."""
        data = {
            split: sha256(annotation_file(self.experiment, split)) for split in self.study.splits
        }
        shaping = {
            "settings": settings.to_dict(),
            "student_sha256": self.student and sha256(self.student),
            "data": data,
        }
        return to_plain(shaping)
