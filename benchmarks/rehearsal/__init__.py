"""A scale's rehearsal without its data: every pair and recipe for a few steps at full shapes.

What it shows is that the code paths run at the scale's shapes, what the networks weigh, and how
fast this machine is. The weights are random: no accuracy means anything.
"""

from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from benchmarks.evidence.document import Document
from benchmarks.evidence.study import Job, Study, StudySettings
from manifold.errors import UserError
from manifold.settings import find
from manifold.settings.section import Count, Processes, Size, Workers


class RehearsalSettings(StudySettings):
    """What a rehearsal makes smaller; networks, image size and methods stay."""

    training_images: Count
    """An epoch of the run that is projected."""
    classes: Count
    """Of the images that are made."""
    jpeg_size: Size
    """Width, height of the images that are made."""
    batch_size: Count
    """Images of a step, in place of the recipe's."""
    shards: Count
    """Of a batch, in place of the recipe's."""
    steps: Count
    """Of every training."""
    killed_after: Count
    """The step after whose checkpoint a process is killed."""
    evaluation_images: Count
    """Of every evaluation."""
    processes: Processes
    """Of every training."""
    workers: Workers
    """Processes that load images, for each process."""
    cohort_size: Count
    """Methods trained together: what fits into a small machine's memory."""
    methods: list[str] = Field(default_factory=list)
    """Further methods than Table 1's, with the pairs that they are for."""

    @model_validator(mode="after")
    def _can_be_run(self) -> Self:
        if not self.killed_after < self.steps:
            raise UserError(
                f"killed_after {self.killed_after} must come before the last of rehearsal.steps "
                f"{self.steps}"
            )
        if self.batch_size % self.shards or self.shards % self.processes:
            raise UserError(
                f"batch_size {self.batch_size} must be a multiple of shards {self.shards}, and "
                f"those of processes {self.processes}"
            )
        return self


class Rehearsal(Study):
    """Does the scale run, and what would it cost?"""

    name = "rehearsal"
    title = "Rehearsal"
    question = "Does every pair run at the scale's shapes, and what would the scale cost?"
    Settings = RehearsalSettings
    needs = ("table1",)
    suffixes = (".md", ".csv", "_networks.csv")
    is_evidence = False

    @property
    def target(self) -> str:
        return "rehearse"

    @property
    def folder(self) -> Path:
        return self.experiment.directory / "rehearsal"

    @property
    def images(self) -> Path:
        """The ImageFolder that the first job makes."""
        return self.folder / "images"

    def recipes(self) -> list[str]:
        """The recipes of Table 1 and of the recipe study; what an ablation varies is not."""
        study = self.experiment.studies.get("recipes")
        others = [arm.recipe for arm in study.arms] if study else []
        return list(dict.fromkeys([self.experiment.table1.recipe, *others]))

    def pairs(self) -> list[str]:
        return self.experiment.table1.pairs

    def methods(self, pair: str) -> list[str]:
        """The methods that are rehearsed with a pair."""
        own = self.experiment.methods
        others = [method for method in self.settings.methods if method not in own]
        return self.experiment.methods_of(pair, [*own, *others])

    def check(self) -> None:
        self.experiment.check_methods("rehearsal.methods", self.settings.methods)

    def record(self, pair: str, recipe: str) -> Path:
        return self.folder / pair / f"{recipe}.json"

    def jobs(self) -> list[Job]:
        return [
            Job(
                "images",
                run="benchmarks.rehearsal.images:make",
                message="Making the rehearsal's images",
                outputs=("rehearsal/images",),
                identity=self._images_identity,
                is_folder=True,
            ),
            Job(
                "pair",
                run="benchmarks.rehearsal.run:run",
                message="Rehearsing {wildcards.pair}, recipe {wildcards.recipe}",
                outputs=("rehearsal/{pair}/{recipe}.json",),
                inputs=lambda pair, recipe: [self.images],
                identity=lambda pair, recipe: [
                    self.settings.replaced(training_images=1, methods=[]),  # the table reads these
                    self.experiment.data,
                    self.experiment.pairs[pair],
                    self.experiment.recipes[recipe],
                    self.methods(pair),
                ],
                threads=self.settings.processes,
            ),
        ]

    def _images_identity(self) -> Any:
        of = self.settings
        shaping = (of.classes, of.steps, of.batch_size, of.evaluation_images, of.jpeg_size)
        return [*shaping, self.experiment.seeds[0]]

    def results(self) -> list[Path]:
        return [self.record(pair, recipe) for pair in self.pairs() for recipe in self.recipes()]

    def reads(self) -> list[Path]:
        return [find(self.experiment.networks)]

    def build(self) -> Document:
        from benchmarks.rehearsal.table import build

        return build(self)
