"""Semantic segmentation on the students' backbones: frozen, and fine-tuned with a small decoder."""

from pathlib import Path
from typing import Any

from benchmarks.dense import PATCH_EMBEDDING
from benchmarks.evidence.document import Document
from benchmarks.evidence.study import FIGURES, FORMATS, Job
from benchmarks.evidence.untrained import WithUntrained
from benchmarks.segmentation.settings import HeadRecipe, SegmentationSettings
from manifold.errors import UserError
from manifold.image_folders import IMAGE_SUFFIXES
from manifold.settings import CELL_FILES, UNTRAINED, Students, data_files, fingerprint

CONTROLS = {  # what is no method, and what it is called
    UNTRAINED: "Untrained",
    PATCH_EMBEDDING: "Patch embedding alone",
}
FROZEN, FINE_TUNED = "frozen", "fine-tuned"
PROTOCOLS = (FROZEN, FINE_TUNED)
BACKGROUND = "background"  # of scenes, the class 0
SEGMENTER_FILES = ("segmenter.safetensors", "predictions.zip", "metrics.csv", "run.json")
MASK_SUFFIXES = (".png",)


class Segmentation(WithUntrained):
    """Do a method's students make better backbones of segmentation?"""

    name = "segmentation"
    title = "Segmentation"
    question = "Is a method's student ahead of soft KD's as the backbone of segmentation?"
    Settings = SegmentationSettings
    suffixes = (*FORMATS, "_seeds.csv", "_classes.csv")
    measured = "miou"

    # ---- what it needs -----------------------------------------------------------------------

    def check(self) -> None:
        experiment, own = self.experiment, self.settings
        experiment.check_known("segmentation.pair", own.pair, experiment.pairs)
        experiment.check_known("segmentation.recipe", own.recipe, experiment.recipes)
        experiment.check_methods("segmentation.methods", own.methods)
        experiment.check_known("segmentation.baseline", own.baseline, own.methods)
        kind = experiment.method_definitions[own.baseline].student
        if kind != "student":
            raise UserError(
                f"segmentation.baseline: {own.baseline!r} trains the pair's {kind}; the control "
                f"{PATCH_EMBEDDING!r} puts the baseline's patch embedding into the pair's student: "
                "name a method that trains 'student'"
            )
        for control in CONTROLS:
            if control in own.methods:
                raise UserError(
                    f"segmentation.methods: {control!r} stands for a control, which is always "
                    "there; rename the method"
                )
        if own.data.folder is not None and experiment.evaluation_split == "validation":
            raise UserError(
                "segmentation.data.folder: nothing is held out from a folder; name the images that "
                "choices are made on as its test, and set evaluation_split: test"
            )
        if self.evaluated == "validation":
            self._check_validation()

    def _check_validation(self) -> None:
        if not self.experiment.data.validation:
            raise UserError(
                "evaluation_split 'validation': data.validation is 0, and the validation scenes of "
                "segmentation are of the images that it holds out; raise it, or set segmentation "
                "to null"
            )
        if self.settings.data.scenes.validation is None:
            raise UserError(
                "evaluation_split 'validation': segmentation has no such images; give "
                "segmentation.data.scenes.validation a number, or set segmentation to null"
            )

    def preflight(self) -> dict[str, Any]:
        from benchmarks.segmentation.check import check

        return check(self)

    def students(self) -> Students:
        own = self.settings
        return {(own.pair, own.recipe, own.epochs): own.methods}

    @property
    def backbones(self) -> dict[str, str]:
        """The rows of the table, and their titles: the controls, and the students of methods."""
        definitions = self.experiment.method_definitions
        return CONTROLS | {method: definitions[method].title for method in self.settings.methods}

    @property
    def evaluated(self) -> str:
        """The split whose mIoU stands in the table."""
        return self.experiment.evaluation_split

    @property
    def splits(self) -> tuple[str, str]:
        """Of the images: those to train on, and those to measure on."""
        return "train", self.evaluated

    def recipe_of(self, protocol: str) -> HeadRecipe:
        return self.settings.frozen if protocol == FROZEN else self.settings.fine_tuned

    # ---- folders -----------------------------------------------------------------------------

    @property
    def data_folder(self) -> Path:
        return self.experiment.directory / "segmentation" / "data"

    @property
    def found(self) -> Path:
        """What was found of the data, or made, before anything was trained."""
        return self.data_folder / "data.json"

    def directory(self, protocol: str, method: str, seed: int) -> Path:
        of = self.settings
        students = self.experiment.directory / "segmentation" / of.pair / of.recipe
        return students / f"{of.epochs}-epochs" / protocol / method / f"seed-{seed}"

    def weights(self, method: str, seed: int) -> tuple[Path, Path | None]:
        """The weights that a backbone starts from, and those whose patch embedding it takes."""
        of = self.settings
        trained = of.baseline if method in CONTROLS else method
        key = (of.pair, of.recipe, of.epochs, trained, seed)
        student = self.experiment.cell_directory(*key) / CELL_FILES[0]
        if method in CONTROLS:
            return self.untrained_student(seed), student if method == PATCH_EMBEDDING else None
        return student, None

    # ---- jobs --------------------------------------------------------------------------------

    def jobs(self) -> list[Job]:
        """A backbone and a seed is a job: its frozen features are computed once."""
        of = self.settings
        cells = [
            f"segmentation/{of.pair}/{of.recipe}/{of.epochs}-epochs/{protocol}/{{method}}"
            for protocol in PROTOCOLS
        ]
        return [
            Job(
                "prepare",
                run="benchmarks.segmentation.prepare:prepare",
                message="Preparing the images of the segmenters",
                outputs=("segmentation/data/data.json",),
                identity=self._prepared,
                is_local=True,
                priority=100,  # errors in the data come before the training of students
            ),
            self.untrained_job("benchmarks.segmentation.untrained:initialise"),
            Job(
                "train",
                run="benchmarks.segmentation.train:run",
                message="Segmenting with {wildcards.method}, seed {wildcards.seed}",
                outputs=tuple(
                    f"{cell}/seed-{{seed}}/{file}" for cell in cells for file in SEGMENTER_FILES
                ),
                inputs=lambda method, seed: [self.found, *self._networks_of(method, seed)],
                identity=lambda method, seed: [self.shaping(protocol) for protocol in PROTOCOLS],
                processes="one",
            ),
        ]

    def _networks_of(self, method: str, seed: int) -> list[Path]:
        weights = [path for path in self.weights(method, seed) if path is not None]
        untrained = self.untrained_files(seed)
        return list(dict.fromkeys([*weights, *(untrained if untrained[0] in weights else [])]))

    def shaping(self, protocol: str) -> dict[str, Any]:
        """What of the settings shapes a segmenter."""
        data, own = self.settings.data, self.experiment.data
        return {
            "protocol": protocol,
            "recipe": self.recipe_of(protocol),
            "size": data.size,
            "channels": data.channels,
            "mean": own.mean,
            "std": own.std,
        }

    def folder_digest(self) -> str | None:
        """The digest of a folder's images and masks; None where one is not there, or of scenes."""
        folder, found = self.settings.data.folder, []
        for part in () if folder is None else (folder.train, folder.test):
            for path in (part.images, part.masks):
                root = Path(path).resolve()
                below, results = (root.name,), self.experiment.results
                digest = data_files.digest_of_folders(root.parent, below, IMAGE_SUFFIXES, results)
                found.append(digest)
        return None if None in found or not found else fingerprint(found)

    def _prepared(self) -> Any:
        """What shapes the prepared data: the files too, of a folder as far as that is quick."""
        data, experiment = self.settings.data, self.experiment
        files = self.planned_files(self.found)
        return [data, experiment.data, experiment.evaluation_split, self.folder_digest(), *files]

    def results(self) -> list[Path]:
        return [
            self.found,
            *(
                self.directory(protocol, method, seed) / file
                for protocol in PROTOCOLS
                for method in self.backbones
                for seed in self.seeds
                for file in SEGMENTER_FILES
            ),
        ]

    def files(self) -> list[Path]:
        folder = self.experiment.directory
        pictures = [folder / f"segmentation_pictures{suffix}" for suffix in FIGURES]
        return super().files() + (pictures if self.settings.pictures else [])

    # ---- what it gives -----------------------------------------------------------------------

    def build(self) -> Document:
        from benchmarks.segmentation.table import build

        return build(self)
