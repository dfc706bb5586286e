"""Detectors on the students' backbones, by mmdet; no other package imports it."""

import ast
import contextlib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from benchmarks.evidence.document import Document
from benchmarks.evidence.study import FIGURES, Job, Study, StudySettings
from manifold.errors import UserError
from manifold.settings import CELL_FILES, Section, Students, check_folder_name, find, suggest
from manifold.settings.data_files import files_digest
from manifold.settings.experiment import check_seeds
from manifold.settings.section import (
    Count,
    CountRange,
    Epochs,
    Location,
    PositiveShare,
    Rate,
    Size,
    WholeNumber,
)
from manifold.settings.stale import planned_data, read_record

RANDOM = "random"  # in the place of a method: a backbone with random weights
DETECTOR_FILES = ("detector.safetensors", "predictions.bbox.json", "metrics.csv", "run.json")
DATA_FILES = ("train.json", "test.json", "data.json")


class Photographs(Section):
    """Files that scikit-image and scikit-learn carry; none serves both splits."""

    train: list[str]
    """Backgrounds of the training scenes."""
    test: list[str]
    """Backgrounds of the test scenes."""

    @model_validator(mode="after")
    def _serve_one_split(self) -> Self:
        for split in ("train", "test"):
            if not getattr(self, split):
                raise UserError(f"{split} must name at least one photograph")
        both = sorted(set(self.train) & set(self.test))
        if both:
            raise UserError(
                f"train, test: {', '.join(both)} would stand in training and in test scenes; take "
                "it out of one"
            )
        return self


class Scenes(Section):
    """Scenes that are composed: items of the students' data set on photographs."""

    seed: WholeNumber
    """Of the composition."""
    train: Count
    """Scenes to train on."""
    test: Count
    """Scenes to test on."""
    size: Size
    """Width, height, in pixels."""
    items: CountRange
    """Fewest, most in a scene."""
    sides: CountRange
    """Smallest, largest side of an item, in pixels."""
    least_visible: PositiveShare
    """The share of every item that others leave uncovered."""
    foreground: Rate | None
    """An item is what is brighter (of 1); null: its whole rectangle."""
    photographs: Photographs
    """The backgrounds."""
    brightness: PositiveShare
    """Of the photographs: their grey values are multiplied by it."""
    tries: Count
    """Draws of an item before a scene is given up as too crowded."""

    @model_validator(mode="after")
    def _items_fit(self) -> Self:
        if min(self.size) < self.sides[1]:
            raise UserError(
                "size must be a width and a height of at least the largest of sides, "
                f"{self.sides[1]}; got {self.size}"
            )
        return self


class Ignored(Section):
    """Ids of annotations that are known to be broken, and left out; ids restart in each file."""

    train: list[WholeNumber] = Field(default_factory=list)
    """Of the training annotations."""
    test: list[WholeNumber] = Field(default_factory=list)
    """Of the test annotations."""


class CocoFolder(Section):
    """Images with annotations in COCO's format."""

    train_images: Location
    """Folder of the training images."""
    train_annotations: Location
    """JSON file of their annotations."""
    test_images: Location
    """Folder of the test images."""
    test_annotations: Location
    """JSON file of their annotations."""
    ignored: Ignored = Ignored()
    """Annotations that are left out, by the split and their ids."""


class DetectionData(Section):
    """The images of the detectors: composed scenes, or a folder."""

    scenes: Scenes | None
    """Either these."""
    folder: CocoFolder | None
    """Or those."""
    masks: bool
    """false: boxes alone, and Mask R-CNN is trained without its mask branch."""
    channels: Literal[1, 3]
    """Of the images; a student of another number is adapted."""
    verify: bool
    """Decode every image of a folder before any compute."""

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if (self.scenes is None) == (self.folder is None):
            raise UserError(
                "scenes, folder: give one of the two, and null for the other; got "
                f"{'neither' if self.scenes is None else 'both'}"
            )
        return self


class DetectionSettings(StudySettings):
    """Detectors on the students as backbones."""

    pair: str
    """Of the students."""
    recipe: str
    """Of the students."""
    epochs: Epochs
    """The students' budget."""
    methods: list[str]
    """Whose students are backbones; random weights are always there."""
    baseline: str
    """Gains are over this method's backbone."""
    data: DetectionData
    """What the detectors learn."""
    seeds: list[WholeNumber] | None
    """Of the detectors and of the students below them; null: the experiment's."""
    detectors: dict[str, Location]
    """name: mmdet's configuration file; null takes a scale's detector away."""
    options: dict[str, Any]
    """Laid over those that have such a key, as by mmengine's --cfg-options."""
    least_steps: Annotated[int, Field(ge=1, le=10_000_000)] | None
    """Few images are trained for more epochs than the file says, until the steps are as many;
    null, or train_cfg.max_epochs in the options: as many epochs as are said."""
    pictures: WholeNumber
    """Test images that are drawn."""

    @field_validator("detectors", mode="before")
    @classmethod
    def _leave_out(cls, detectors: Any) -> Any:
        if not isinstance(detectors, dict):
            return detectors
        return {k: v for k, v in detectors.items() if v not in (None, "null")}  # Snakemake's text


def texts_of(configuration: Path) -> list[str]:
    """The text of one of mmengine's configuration files, and of those beside it that it extends."""
    text = configuration.read_text(encoding="utf-8")
    found = [text]
    with contextlib.suppress(SyntaxError, ValueError):  # the check before all compute says it
        for node in ast.parse(text).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_base_":
                given = ast.literal_eval(node.value)
                for base in [given] if isinstance(given, str) else given:
                    file = configuration.parent / base
                    if file.is_file():  # and not mmdet::FILE
                        found += texts_of(file)
    return found


class Detection(Study):
    """Do a method's students make better backbones?"""

    name = "detection"
    title = "Detection"
    question = "Is a method's student ahead of soft KD's as the backbone of a detector?"
    Settings = DetectionSettings
    taken_away_by_null = ("detectors",)
    measured = "ap"

    # ---- what it needs -----------------------------------------------------------------------

    def check(self) -> None:
        experiment, detection = self.experiment, self.settings
        experiment.check_known("detection.pair", detection.pair, experiment.pairs)
        experiment.check_known("detection.recipe", detection.recipe, experiment.recipes)
        experiment.check_methods("detection.methods", detection.methods)
        experiment.check_known("detection.baseline", detection.baseline, detection.methods)
        if RANDOM in detection.methods:
            raise UserError(
                f"detection.methods: {RANDOM!r} stands for random weights, which are always "
                "there; rename the method"
            )
        if not detection.detectors:
            raise UserError(
                "detection.detectors must name at least one detector and its configuration file"
            )
        for detector in detection.detectors:
            check_folder_name(detector)
            self.configuration_file(detector)
        if detection.seeds is not None:
            check_seeds("detection.seeds", detection.seeds)

    def preflight(self) -> None:
        from benchmarks.detection.check import check  # imports mmdet

        check(self)

    def students(self) -> Students:
        """The methods whose students become backbones."""
        detection = self.settings
        return {(detection.pair, detection.recipe, detection.epochs): detection.methods}

    @property
    def seeds(self) -> list[int]:
        return self.settings.seeds or self.experiment.seeds

    @property
    def backbones(self) -> list[str]:
        """What detectors are trained on: random weights, and the students of the methods."""
        return [RANDOM, *self.settings.methods]

    # ---- folders -----------------------------------------------------------------------------

    @property
    def data_folder(self) -> Path:
        return self.experiment.directory / "detection" / "data"

    def directory(self, detector: str, method: str, seed: int) -> Path:
        of = self.settings
        students = self.experiment.directory / "detection" / of.pair / of.recipe
        return students / f"{of.epochs}-epochs" / detector / method / f"seed-{seed}"

    def student(self, method: str, seed: int) -> Path | None:
        """The weights that a backbone starts from; None for random ones."""
        if method == RANDOM:
            return None
        of = self.settings
        key = (of.pair, of.recipe, of.epochs, method, seed)
        return self.experiment.cell_directory(*key) / CELL_FILES[0]

    # ---- jobs --------------------------------------------------------------------------------

    def jobs(self) -> list[Job]:
        """A detector is a job: starting mmdet costs less than a killed detector's work."""
        data = tuple(f"detection/data/{name}" for name in DATA_FILES)
        of = self.settings
        cell = f"detection/{of.pair}/{of.recipe}/{of.epochs}-epochs/{{detector}}/{{method}}"
        return [
            Job(
                "prepare",
                run="benchmarks.detection.prepare:prepare",
                message="Preparing the images of the detectors",
                outputs=data,
                identity=self._prepared,
                priority=100,  # errors in the data come before the training of students
            ),
            Job(
                "train",
                run="benchmarks.detection.train:run",
                message="Training {wildcards.detector} on {wildcards.method}, seed"
                " {wildcards.seed}",
                outputs=tuple(f"{cell}/seed-{{seed}}/{file}" for file in DETECTOR_FILES),
                inputs=self._inputs,
                identity=lambda detector, method, seed: self.settings_of(detector),
                processes="as trainings",
            ),
        ]

    def _prepared(self) -> Any:
        """What shapes the prepared data: the files too, of a folder as far as that is quick."""
        data, experiment = self.settings.data, self.experiment
        if data.scenes is None:
            from benchmarks.detection.data import found_in_folder  # only where there is one

            return [data, found_in_folder(data.folder)]
        record = read_record(self.data_folder / DATA_FILES[-1])
        files = planned_data(record, files_digest(experiment.data, experiment.results))
        return [data, experiment.data, *([] if files is None else [files])]

    def _inputs(self, detector: str, method: str, seed: int) -> list[Path]:
        student = self.student(method, seed)
        data = [self.data_folder / name for name in DATA_FILES]
        return data if student is None else [*data, student]

    def configuration_file(self, detector: str) -> Path:
        """mmdet's configuration of a detector.

        Raises:
            UserError: there is no such file.
        """
        file = find(self.settings.detectors[detector])
        if not file.is_file():
            beside = [path.name for path in file.parent.glob("*.py")]
            raise UserError(
                f"detection.detectors.{detector}: no file {file}.{suggest(file.name, beside)} Give "
                "the path of a configuration of mmdet, as those in config/detection/; null takes "
                "the detector away"
            )
        return file

    def settings_of(self, detector: str) -> Any:
        """What the scale's files say of a detector.

        Raises:
            UserError: its configuration is missing.
        """
        text, of = texts_of(self.configuration_file(detector)), self.settings
        data = {key: getattr(of.data, key) for key in ("scenes", "folder", "masks", "channels")}
        return [text, of.options, of.least_steps, data]

    def results(self) -> list[Path]:
        return [
            *(self.data_folder / name for name in DATA_FILES),
            *(
                self.directory(detector, method, seed) / file
                for detector in self.settings.detectors
                for method in self.backbones
                for seed in self.seeds
                for file in DETECTOR_FILES
            ),
        ]

    def files(self) -> list[Path]:
        pictures = [self.experiment.directory / f"detection_pictures{suffix}" for suffix in FIGURES]
        return super().files() + (pictures if self.settings.pictures else [])

    # ---- what it gives -----------------------------------------------------------------------

    def build(self) -> Document:
        from benchmarks.detection.table import build

        return build(self)
