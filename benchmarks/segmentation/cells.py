"""The segmenters that are trained: where their files stand, and what they are told apart by."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.segmentation import CONTROLS, Segmentation
from manifold.errors import UserError
from manifold.files import sha256
from manifold.settings import Experiment, Model, fingerprint, to_plain
from manifold.training.cells import student_model


@dataclass(frozen=True)
class SegmenterCell:
    """One run: a protocol on one backbone of one seed."""

    experiment: Experiment
    protocol: str
    method: str
    seed: int

    @property
    def study(self) -> Segmentation:
        return self.experiment.studies["segmentation"]

    @property
    def directory(self) -> Path:
        return self.study.directory(self.protocol, self.method, self.seed)

    @property
    def state(self) -> Path:
        """Where its checkpoint stands while it is trained; frozen tokens stand beside it."""
        name = f"{self.protocol}-{self.method}-seed-{self.seed}.pt"
        return self.experiment.directory / "state" / "segmentation" / name

    @property
    def model(self) -> Model:
        """The network of the backbone: that of the pair's students which the method trains.

        Raises:
            UserError: the pair has none of that kind.
        """
        name = self.study.settings.pair
        pair = self.experiment.pairs[name]
        if self.method in CONTROLS:
            return pair.student
        definition = self.experiment.method_definitions[self.method]
        return student_model(pair, name, self.method, definition)

    def identity(self, data: str) -> dict[str, Any]:
        """What shapes the segmenter: its settings, the backbone's bytes, the data's.

        Args:
            data: the fingerprint of what was prepared.

        Raises:
            UserError: the backbone is missing.
        """
        weights = self.study.weights(self.method, self.seed)
        for path in filter(None, weights):
            if not path.is_file():
                raise UserError(f"{path} is missing; snakemake makes it")
        student, patch_embedding = (path and sha256(path) for path in weights)
        shaping = {
            **self.study.shaping(self.protocol),
            "student": self.model,
            "student_sha256": student,
            "patch_embedding_sha256": patch_embedding,
            "data": data,
            "seed": self.seed,
        }
        return to_plain(shaping)

    def fingerprint(self, data: str) -> str:
        return fingerprint(self.identity(data))
