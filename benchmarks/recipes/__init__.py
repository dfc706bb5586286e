"""Method, recipe and budget apart: the same methods under several recipes and epoch budgets.

The study of budgets is the same table of one recipe.
"""

from pathlib import Path
from typing import ClassVar

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
    """At least two; of `budgets` at least one."""
    epochs: list[Epochs]
    """Budgets, at least two."""
    methods: list[str]
    """At least two."""
    baseline: str
    """Gains are over this method, under the same recipe and budget."""
    public_curves: WorkflowFile
    """Top-1 per epoch of public ImageNet runs, drawn next to it unless `claims` is null."""


NUMBERS = {1: "one", 2: "two"}


class RecipeStudy(Study):
    """How much is the method, how much the recipe, how much the budget?"""

    name = "recipes"
    title = "Method, recipe and budget"
    question = "How much is the method, how much the recipe, how much the budget?"
    Settings = RecipeStudySettings
    suffixes = (*FORMATS, "_variance.csv", "_changes.csv", "_seeds.csv")
    shown = ("How much is the method, how much the recipe, how much the budget?", "In words")
    section = "recipe_study"
    least: ClassVar[dict[str, int]] = {"recipes": 2, "epochs": 2, "methods": 2}
    """How many different values it compares of each key."""

    @property
    def variance(self) -> bool:
        """Whether method, recipe and budget share the variance among them."""
        return self.least["recipes"] > 1

    def check(self) -> None:
        experiment, study, section = self.experiment, self.settings, self.section
        experiment.check_known(f"{section}.pair", study.pair, experiment.pairs)
        for recipe in study.recipes:
            experiment.check_known(f"{section}.recipes", recipe, experiment.recipes)
        for method in study.methods:
            experiment.check_known(f"{section}.methods", method, experiment.method_definitions)
        experiment.check_known(f"{section}.baseline", study.baseline, study.methods)
        for key, least in self.least.items():
            values = getattr(study, key)
            if len(set(values)) != len(values) or len(values) < least:
                raise UserError(
                    f"{section}.{key} must list at least {NUMBERS[least]} different value"
                    f"{'s: the study compares them' if least > 1 else ''}; got {values}"
                )

    def students(self) -> Students:
        study = self.settings
        return {
            (study.pair, recipe, epochs): study.methods
            for recipe in study.recipes
            for epochs in study.epochs
        }

    def teachers(self) -> list[str]:
        return [self.settings.pair]

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
            parts=parts(found, self),
            csv={
                "": found.rows,
                **({} if found.variance is None else {"_variance": found.variance}),
                "_changes": found.changes,
                "_seeds": found.seeds,
            },
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


class Budgets(RecipeStudy):
    """The gain against the budget, under one recipe or several."""

    name = "budgets"
    title = "The gain against the budget"
    question = "Does a method's gain over soft KD fade as the budget grows?"
    suffixes = (*FORMATS, "_changes.csv", "_seeds.csv")
    shown = ("How the gain moves", "In words")
    section = "budgets"
    least: ClassVar[dict[str, int]] = {"recipes": 1, "epochs": 2, "methods": 2}
