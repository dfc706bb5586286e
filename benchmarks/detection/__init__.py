"""Detectors on the students' backbones, by mmdet; no other package imports it."""

import ast
import contextlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from benchmarks.dense import PATCH_EMBEDDING
from benchmarks.detection.settings import DetectionSettings
from benchmarks.evidence.document import Document
from benchmarks.evidence.results import Result, Wildcards, WithResults
from benchmarks.evidence.study import FIGURES, Job
from manifold.errors import UserError
from manifold.files import read_text
from manifold.settings import (
    CELL_FILES,
    Model,
    Students,
    check_folder_name,
    find,
    fingerprint,
    suggest,
)
from manifold.settings.messages import refuse_doubles
from manifold.settings.recorded import Key, digest_of
from manifold.settings.syntax import digest as code_digest

# In the place of a method: backbones that show what a student's training adds.
RANDOM = "random"  # none of its weights
CONTROLS = (RANDOM, PATCH_EMBEDDING)
DETECTOR_FILES = ("detector.safetensors", "predictions.bbox.json", "metrics.csv", "run.json")
RECORD = "data.json"  # about the images
VALIDATION = "validation"


def texts_of(configuration: Path, extended_by: tuple[Path, ...] = ()) -> list[str]:
    """The text of one of mmengine's configuration files, and of those beside it that it extends.

    Raises:
        UserError: a file is not UTF-8, or extends itself.
    """
    own = configuration.resolve()
    if own in extended_by:
        raise UserError(f"{configuration} extends itself by _base_; name the file that it is of")
    text = read_text(configuration)
    found = [text]
    for base in _bases(text):
        file = configuration.parent / base
        if file.is_file():  # and not mmdet::FILE
            found += texts_of(file, (*extended_by, own))
    return found


def _bases(text: str) -> list[str]:
    """What a configuration extends, in its own words."""
    bases: list[str] = []
    with contextlib.suppress(SyntaxError, ValueError):  # the check before all compute says it
        for node in ast.parse(text).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_base_":
                given = ast.literal_eval(node.value)
                bases += [given] if isinstance(given, str) else given
    return bases


@lru_cache
def _digest(text: str) -> str:
    """Of a configuration file, which comments do not change."""
    try:
        return code_digest(ast.parse(text))
    except (SyntaxError, ValueError):  # the check before all compute says it
        return fingerprint(text)


class Detection(WithResults):
    """Do a method's students make better backbones?"""

    name = "detection"
    title = "Detection"
    question = "Is a method's student ahead of soft KD's as the backbone of a detector?"
    Settings = DetectionSettings
    taken_away_by_null = ("detectors",)
    measured = "ap"
    recorded_job = "train"

    # ---- what it needs -----------------------------------------------------------------------

    def check(self) -> None:
        experiment, detection = self.experiment, self.settings
        experiment.check_known("detection.pair", detection.pair, experiment.pairs)
        experiment.check_known("detection.recipe", detection.recipe, experiment.recipes)
        experiment.check_methods("detection.methods", detection.methods)
        experiment.check_known("detection.baseline", detection.baseline, detection.methods)
        for name in set(CONTROLS) & set(detection.methods):
            raise UserError(
                f"detection.methods: {name!r} stands for one of detection.controls; rename the "
                "method"
            )
        refuse_doubles("detection.controls", detection.controls)
        if not detection.detectors:
            raise UserError(
                "detection.detectors must name at least one detector and its configuration file"
            )
        for detector in detection.detectors:
            check_folder_name(detector)
            self.configuration_file(detector)
        if self.evaluated not in self.splits:
            raise UserError(
                f"evaluation_split {self.evaluated!r}: detection has no such images; give "
                "detection.data.scenes.validation a number, or set detection to null"
            )

    def preflight(self) -> None:
        from benchmarks.detection.check import check  # imports mmdet

        check(self)

    def students(self) -> Students:
        """The methods whose students become backbones."""
        detection = self.settings
        return {(detection.pair, detection.recipe, detection.epochs): detection.methods}

    @property
    def backbones(self) -> list[str]:
        """What detectors are trained on: the controls, and the students of the methods."""
        return [*self.settings.controls, *self.settings.methods]

    @property
    def splits(self) -> list[str]:
        """Of the images; validation scenes are of the images that the students' data hold out."""
        scenes = self.settings.data.scenes
        asked = scenes is not None and scenes.validation is not None
        has_validation = asked and self.experiment.data.validation > 0
        return ["train", *([VALIDATION] if has_validation else []), "test"]

    @property
    def evaluated(self) -> str:
        """The split whose AP stands in the table."""
        return self.experiment.evaluation_split

    @property
    def shows_curve(self) -> bool:
        """Whether AP on validation images is drawn: there are some, and the table is of others."""
        return VALIDATION in self.splits and self.evaluated != VALIDATION

    # ---- folders -----------------------------------------------------------------------------

    @property
    def data_folder(self) -> Path:
        return self.experiment.directory / "detection" / "data"

    def directory(self, detector: str, method: str, seed: int) -> Path:
        of = self.settings
        students = self.experiment.directory / "detection" / of.pair / of.recipe
        return students / f"{of.epochs}-epochs" / detector / method / f"seed-{seed}"

    @property
    def data_files(self) -> list[Path]:
        """Each split's annotations, and what is known of the images."""
        return [self.data_folder / name for name in (*map("{}.json".format, self.splits), RECORD)]

    def source(self, backbone: str) -> str | None:
        """The method whose student a backbone takes weights of; None for random ones."""
        of_a_control = {RANDOM: None, PATCH_EMBEDDING: self.settings.baseline}
        return of_a_control.get(backbone, backbone)

    def student(self, backbone: str, seed: int) -> Path | None:
        """The file of the weights that a backbone starts from; None for random ones."""
        key = self.student_key(backbone, seed)
        return None if key is None else self.experiment.cell_directory(*key) / CELL_FILES[0]

    def student_key(self, backbone: str, seed: int) -> Key | None:
        """The cell of that file."""
        method, of = self.source(backbone), self.settings
        return None if method is None else (of.pair, of.recipe, of.epochs, method, seed)

    # ---- jobs --------------------------------------------------------------------------------

    def jobs(self) -> list[Job]:
        """A detector is a job: starting mmdet costs less than a killed detector's work."""
        data = tuple(f"detection/data/{path.name}" for path in self.data_files)
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
                identity=lambda detector, method, seed: {
                    "detector": self.settings_of(detector),
                    "student": self.student_model,  # of random weights too, which no file tells
                    "evaluated": self.evaluated,
                    "images": self._seen_images(),
                },
                processes="as trainings",
            ),
        ]

    def _prepared(self) -> Any:
        """What shapes the prepared data: the files too, of a folder as far as that is quick."""
        data, experiment = self.settings.data, self.experiment
        if data.scenes is None:
            from benchmarks.detection.data import found_in_folder  # only where there is one

            return [data, found_in_folder(data.folder)]
        return [data, experiment.data, *self.planned_files(self.data_folder / RECORD)]

    def _inputs(self, detector: str, method: str, seed: int) -> list[Path]:
        student = self.student(method, seed)
        return [*self.data_files, *([] if student is None else [student])]

    def _seen_images(self) -> dict[str, Any]:
        """How the students' images, and so a detector's, are normalised and sized."""
        keys = ("image_size", "channels", "mean", "std")
        return {key: getattr(self.experiment.data, key) for key in keys}

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

    @property
    def student_model(self) -> Model:
        """The network of all backbones."""
        return self.experiment.pairs[self.settings.pair].student

    def settings_of(self, detector: str) -> Any:
        """What the scale's files say of a detector.

        Raises:
            UserError: its configuration is missing.
        """
        texts, of = texts_of(self.configuration_file(detector)), self.settings
        folder = of.data.folder
        return {
            "files": [_digest(text) for text in texts],
            "options": of.options,
            "least_steps": of.least_steps,
            "data": {key: getattr(of.data, key) for key in ("scenes", "masks", "channels")},
            # Where a folder stands shapes nothing; its annotations are inputs.
            "ignored": None if folder is None else folder.ignored,
        }

    def results(self) -> list[Path]:
        return [*self.data_files, *self.result_files()]

    def files(self) -> list[Path]:
        more = [f"_pictures{suffix}" for suffix in FIGURES if self.settings.pictures]
        if self.shows_curve:
            more += [f"_curve{suffix}" for suffix in (".csv", *FIGURES)]
        return [*super().files(), *(self.experiment.directory / f"{self.name}{s}" for s in more)]

    # ---- records of detectors ----------------------------------------------------------------

    def needed_results(self) -> Iterator[Wildcards]:
        for detector in self.settings.detectors:
            for method in self.backbones:
                for seed in self.seeds:
                    yield {"detector": detector, "method": method, "seed": seed}

    def students_of(self, result: Result) -> dict[Key, str]:
        key = self.student_key(result.wildcards["method"], result.wildcards["seed"])
        return {} if key is None else {key: result.run["configuration"]["student_sha256"]}

    def other_inputs(self, result: Result) -> str:
        for split, digest in result.run["configuration"]["data"].items():
            file = self.data_folder / f"{split}.json"
            if file.is_file() and digest_of(file) != digest:
                return f"the {split} images that are here ({file})"
        return ""

    def is_whole(self, wildcards: Wildcards) -> bool:
        from benchmarks.detection.whole import is_whole  # imports mmdet

        return is_whole(self.experiment, **wildcards)

    # ---- what it gives -----------------------------------------------------------------------

    def build(self) -> Document:
        from benchmarks.detection.table import build

        return build(self)
