"""Method, recipe and budget apart: the same methods under several recipes and epoch budgets."""

from pathlib import Path

from benchmarks.evidence.document import Document
from benchmarks.evidence.study import FORMATS, Study, StudySettings
from manifold.errors import UserError
from manifold.settings import Students, find
from manifold.settings.section import Epochs, WorkflowFile


class RecipeStudySettings(StudySettings):
    """The same methods under several recipes and budgets, each budget with its own schedule."""

    pair: str
    """Of all students."""
    recipes: list[str]
    """At least two."""
    epochs: list[Epochs]
    """Budgets, at least two."""
    methods: list[str]
    """At least two."""
    baseline: str
    """Gains are over this method, under the same recipe and budget."""
    public_curves: WorkflowFile
    """Top-1 per epoch of public ImageNet runs, drawn next to it unless `claims` is null."""


class RecipeStudy(Study):
    """How much is the method, how much the recipe, how much the budget?"""

    name = "recipes"
    title = "Method, recipe and budget"
    question = "How much is the method, how much the recipe, how much the budget?"
    Settings = RecipeStudySettings
    suffixes = (*FORMATS, "_variance.csv", "_seeds.csv")
    shown = ("How much is the method, how much the recipe, how much the budget?", "In words")

    def check(self) -> None:
        experiment, study = self.experiment, self.settings
        experiment.check_known("recipe_study.pair", study.pair, experiment.pairs)
        for recipe in study.recipes:
            experiment.check_known("recipe_study.recipes", recipe, experiment.recipes)
        for method in study.methods:
            experiment.check_known("recipe_study.methods", method, experiment.method_definitions)
        experiment.check_known("recipe_study.baseline", study.baseline, study.methods)
        for key in ("recipes", "epochs", "methods"):
            values = getattr(study, key)
            if len(set(values)) != len(values) or len(values) < 2:
                raise UserError(
                    f"recipe_study.{key} must list at least two different values: the study "
                    f"compares them; got {values}"
                )

    def students(self) -> Students:
        study = self.settings
        return {
            (study.pair, recipe, epochs): study.methods
            for recipe in study.recipes
            for epochs in study.epochs
        }

    def reads(self) -> list[Path]:
        return [] if self.experiment.claims is None else [find(self.settings.public_curves)]

    def build(self) -> Document:
        from benchmarks.recipes.figure import draw
        from benchmarks.recipes.measure import PUBLIC_CAPTION, measure
        from benchmarks.recipes.text import parts, readable

        found, baseline = measure(self), self.settings.baseline
        title = self.experiment.method_definitions[baseline].title
        return Document(
            title=f"{self.title}, {self.experiment.name}",
            caption=found.caption,
            parts=parts(found, self.experiment),
            csv={"": found.rows, "_variance": found.variance, "_seeds": found.seeds},
            latex=[(readable(found.rows), "")],
            figures={
                "": lambda caption: draw(
                    found.rows,
                    found.seeds,
                    found.public,
                    baseline,
                    title,
                    caption if found.public is None else f"{caption} {PUBLIC_CAPTION}",
                )
            },
        )
