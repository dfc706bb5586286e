"""Relation maps of teacher and students on test images, and how far both agree.

No student is trained for it: the students are those of other studies' cells, with weights.
"""

from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import Field

from benchmarks.evidence.document import Document
from benchmarks.evidence.study import FIGURES, FORMATS, Job, SeededSettings, Study
from manifold.errors import UserError
from manifold.files import sha256
from manifold.settings import CELL_FILES, UNTRAINED, StudentKey, Students, to_plain
from manifold.settings.data_files import files_digest
from manifold.settings.section import Count, Epochs, WholeNumber

MAPS, RECORD = FILES = ("maps.safetensors", "maps.json")
TEACHER = "teacher"  # in the place of a method
PARTS = ("intra", "inter", "random", "full", "other")  # of the distances of maps; other: images
BATCH, BEFORE_AFTER = "_batch", "_before_after"  # end the names of the two figures of maps


class MapsSettings(SeededSettings):
    """Relation maps of teacher and students on test images, and how far both agree."""

    pair: str
    """Of the students."""
    recipe: str
    """Of the students."""
    epochs: Epochs
    """The students' budget."""
    methods: list[str] | None
    """null: Table 1's."""
    baseline: str
    """Differences are to this method."""
    layers: str
    """The pair's layer map whose blocks are compared."""
    seed: WholeNumber
    """Of the order of the images and of the random tokens, which all students share."""
    images: Annotated[int, Field(ge=2, le=1_000_000_000)] | None
    """Test images that are measured; null: all."""
    batch: Annotated[int, Field(ge=2, le=4096)]
    """Images of a relational batch; of fewer test images, all."""
    samples: Count
    """K, the random tokens of a batch; of fewer tokens, all."""
    shown_layers: WholeNumber
    """Which of the layer map's pairs of blocks the figures show, counted from 0."""
    shown_batch: Annotated[int, Field(ge=2, le=16)]
    """Images of the batch in the figure of the method."""
    shown_samples: Annotated[int, Field(ge=2, le=4096)]
    """K in that figure; of fewer tokens, all."""
    shown_images: Annotated[int, Field(ge=1, le=12)]
    """Test images in the figure of the maps before and after training."""
    shown_methods: list[str]
    """Whose students that figure shows, of those that are measured; the last one is in both."""


class Maps(Study):
    """Did the teacher's relation maps reach the student, and does the student agree with it?"""

    name = "maps"
    title = "Relation maps and agreement"
    question = "Are the teacher's relation maps in the students, and do both agree more for it?"
    Settings = MapsSettings
    measured = "agreement"
    suffixes = (
        *FORMATS,
        *(f"{figure}{suffix}" for figure in (BATCH, BEFORE_AFTER) for suffix in FIGURES),
        "_layers.csv",
        "_seeds.csv",
    )

    # ---- what it needs -----------------------------------------------------------------------

    def check(self) -> None:
        experiment, maps = self.experiment, self.settings
        experiment.check_known("maps.pair", maps.pair, experiment.pairs)
        methods = self.methods
        experiment.check_known("maps.recipe", maps.recipe, experiment.recipes)
        experiment.check_methods("maps.methods", methods)
        if taken := {UNTRAINED, TEACHER} & set(methods):
            raise UserError(
                f"maps.methods: {taken.pop()!r} is a row of the table that no method makes; rename "
                "the method"
            )
        experiment.check_known("maps.baseline", maps.baseline, methods)
        experiment.check_methods("maps.shown_methods", maps.shown_methods)
        experiment.check_known("maps.layers", maps.layers, experiment.pairs[maps.pair].layers)

    def preflight(self) -> None:
        maps = self.settings
        pair = self.experiment.pairs[maps.pair]
        count = len(pair.layers[maps.layers].student)
        if maps.shown_layers >= count:
            raise UserError(
                f"maps.shown_layers must be below {count}, the pairs of blocks of layer map "
                f"{maps.layers!r}, counted from 0; got {maps.shown_layers}"
            )
        if pair.teacher.model.is_headless:
            raise UserError(
                f"maps.pair: the teacher of {maps.pair!r} has no classifier (num_classes 0) to "
                "agree with; take another pair, or maps: null"
            )
        from benchmarks.maps.measure import check_networks

        check_networks(self)

    @property
    def methods(self) -> list[str]:
        """The methods whose students are measured, the baseline's among them."""
        maps = self.settings
        return self.listed_or_table1s(maps.methods, maps.pair, maps.baseline)

    @property
    def drawn(self) -> list[str]:
        """Those whose maps the figures show."""
        methods = self.methods
        return [method for method in self.settings.shown_methods if method in methods] or methods

    def students(self) -> Students:
        maps = self.settings
        return {(maps.pair, maps.recipe, maps.epochs): self.methods}

    def directory(self, seed: int) -> Path:
        return self.experiment.directory / "maps" / f"seed-{seed}"

    def jobs(self) -> list[Job]:
        return [
            Job(
                "measure",
                run="benchmarks.maps.measure:run",
                message="Comparing teacher and students of seed {wildcards.seed}",
                outputs=tuple(f"maps/seed-{{seed}}/{name}" for name in FILES),
                inputs=lambda seed: [*self._students_of(seed), self._teacher],
                identity=self.measure_identity,
                data_files=lambda seed: self.data_files(),
                processes="one",
            )
        ]

    def results(self) -> list[Path]:
        return [self.directory(seed) / name for seed in self.seeds for name in FILES]

    def data_files(self) -> str | None:
        """The digest of the images' files, where they may change."""
        return files_digest(self.experiment.data, self.experiment.results)

    @property
    def _teacher(self) -> Path:
        return self.experiment.teacher_weights(self.settings.pair)

    def _students_of(self, seed: int) -> list[Path]:
        ((key, methods),) = self.students().items()
        folders = [self.experiment.cell_directory(*key, method, seed) for method in methods]
        return [folder / name for folder in folders for name in CELL_FILES]

    def measure_identity(self, seed: int) -> dict[str, Any]:
        """What shapes a seed's numbers and maps, except the bytes of the networks' files."""
        experiment, maps = self.experiment, self.settings
        pair = experiment.pairs[maps.pair]
        drawn_by_the_figures = ("study", "baseline", "methods", "shown_methods", "seeds")
        shaping = {
            "settings": {k: v for k, v in vars(maps).items() if k not in drawn_by_the_figures},
            "methods": sorted(self.methods),
            "data": experiment.data,
            "students": {
                key: getattr(pair, key)
                for key in get_args(StudentKey)
                if any(experiment.method_definitions[m].student == key for m in self.methods)
            },
            "teacher": pair.teacher,
            "layers": pair.layers[maps.layers],
            "most_tokens": pair.most_tokens,
            "split": experiment.evaluation_split,
            "seed": seed,
        }
        return to_plain(shaping)

    def record_identity(self, seed: int) -> dict[str, Any]:
        """What shapes a seed's record, with the bytes of the networks' files.

        Raises:
            UserError: one of them is missing.
        """
        paths = [self._teacher, *sorted(self._students_of(seed))]
        weights = [path for path in paths if path.suffix == ".safetensors"]
        for path in weights:
            if not path.is_file():
                raise UserError(f"{path}: no weights there; snakemake makes them")
        return {**self.measure_identity(seed), "sha256": [sha256(path) for path in weights]}

    # ---- what it gives -----------------------------------------------------------------------

    def build(self) -> Document:
        from benchmarks.maps.table import build

        return build(self)
