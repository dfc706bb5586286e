"""The detectors' rehearsal without their data: one step at full shapes, tested, weighed.

What it shows is that the code paths run at the scale's shapes, that a gradient reaches every
parameter, what the detectors weigh, and what this machine takes for them. The weights are random:
no AP means anything.
"""

from pathlib import Path
from typing import Any

from benchmarks.detection import Detection
from benchmarks.evidence.document import Document
from benchmarks.evidence.study import Job, Study, StudySettings
from manifold.settings import find, fingerprint
from manifold.settings.section import Count, Processes, ShareRange, Size, WorkflowFile

PARTS = ("backbone", "pyramid", "heads")  # of a detector; each is weighed


class DetectionRehearsalSettings(StudySettings):
    """What the detectors are rehearsed on, and what is counted; networks and sizes stay."""

    training_images: Count
    """An epoch of the run that is projected."""
    train: Count
    """Images that are made to train on."""
    test: Count
    """Images that are made to test on."""
    jpeg_size: Size
    """Width, height of the images that are made."""
    objects: Count
    """An image, beside a crowd."""
    sides: ShareRange
    """Smallest, largest object, as shares of the image's height."""
    counted_size: Size
    """Width, height of the image whose FLOPs are counted."""
    threads: Processes
    """Of one detector's process."""
    options: dict[str, Any]
    """Laid over the detectors' own."""
    published: WorkflowFile
    """Parameters and FLOPs that others publish."""


class DetectionRehearsal(Study):
    """Do the detectors run, and what would they cost?"""

    name = "rehearsal_detection"
    title = "Rehearsal of detection"
    question = "Does every detector run at the scale's shapes, and what would it cost?"
    Settings = DetectionRehearsalSettings
    suffixes = (".md", ".csv")
    is_evidence = False
    needs = ("detection", "rehearsal")

    @property
    def target(self) -> str:
        return "rehearse_detection"

    @property
    def detection(self) -> Detection:
        """The study that is rehearsed."""
        return self.experiment.studies["detection"]

    @property
    def folder(self) -> Path:
        return self.experiment.directory / "rehearsal" / "detection"

    @property
    def coco(self) -> Path:
        """The images and annotations that the first job makes."""
        return self.folder / "coco"

    def pairs(self) -> list[str]:
        """The first pair of each different student of Table 1."""
        first: dict[str, str] = {}
        for pair in self.experiment.table1.pairs:
            first.setdefault(fingerprint(self.experiment.pairs[pair].student), pair)
        return list(first.values())

    def record(self, pair: str, detector: str) -> Path:
        return self.folder / pair / f"{detector}.json"

    def jobs(self) -> list[Job]:
        return [
            Job(
                "folder",
                run="benchmarks.detection.rehearsal.folder:make",
                message="Making the images and annotations of detection's rehearsal",
                outputs=("rehearsal/detection/coco",),
                identity=self._folder_identity,
                is_folder=True,
            ),
            Job(
                "detector",
                run="benchmarks.detection.rehearsal.run:run",
                message="Rehearsing {wildcards.detector} on the student of {wildcards.pair}",
                outputs=("rehearsal/detection/{pair}/{detector}.json",),
                inputs=lambda pair, detector: [self.coco],
                identity=lambda pair, detector: [
                    self.settings.replaced(published=""),  # which the table reads
                    self.experiment.data,
                    self.experiment.pairs[pair].student,
                    self.detection.settings_of(detector),
                ],
                threads=self.settings.threads,
            ),
        ]

    def _folder_identity(self) -> Any:
        of = self.settings
        return [of.train, of.test, of.jpeg_size, of.objects, of.sides, self.experiment.seeds[0]]

    def results(self) -> list[Path]:
        detectors = self.detection.settings.detectors
        return [self.record(pair, detector) for pair in self.pairs() for detector in detectors]

    def reads(self) -> list[Path]:
        return [find(self.experiment.networks), find(self.settings.published)]

    def build(self) -> Document:
        from benchmarks.detection.rehearsal.table import build

        return build(self)
