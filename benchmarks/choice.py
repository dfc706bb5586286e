"""Validation accuracy over a grid: how a scale's batch size, rate and budget are chosen.

It asks for ``evaluation_split: validation``: the test split is never looked at, and the arms are
those whose gain nobody wants to show.
"""

from benchmarks.evidence.document import Document
from benchmarks.evidence.study import Study, StudySettings
from manifold.errors import UserError
from manifold.settings import Students
from manifold.settings.section import Epochs


class ChoiceSettings(StudySettings):
    """The grid of a scale's numbers that are chosen on the validation split."""

    pairs: list[str]
    """Pairs of the grid."""
    recipes: list[str]
    """Recipes of the grid."""
    epochs: list[Epochs]
    """Budgets of the grid."""


class Choice(Study):
    """Which numbers of a recipe are best on the validation split?"""

    name = "choice"
    title = "Choice"
    question = "Which batch size, learning rate and budget does a scale take?"
    Settings = ChoiceSettings
    suffixes = (".md", ".csv")
    is_evidence = False

    @property
    def target(self) -> str:
        return "choose"

    def check(self) -> None:
        experiment, grid = self.experiment, self.settings
        for pair in grid.pairs:
            experiment.check_known("choice.pairs", pair, experiment.pairs)
        for recipe in grid.recipes:
            experiment.check_known("choice.recipes", recipe, experiment.recipes)
        if experiment.evaluation_split != "validation":
            raise UserError(
                f"scale {experiment.scale!r} is no choice: the section 'choice' needs "
                "evaluation_split: validation"
            )

    def students(self) -> Students:
        grid = self.settings
        return {
            (pair, recipe, epochs): self.experiment.methods_of(pair)
            for pair in grid.pairs
            for recipe in grid.recipes
            for epochs in grid.epochs
        }

    def build(self) -> Document:
        import pandas as pd

        rows = pd.DataFrame(
            [
                {
                    "pair": pair,
                    "recipe": recipe,
                    "epochs": epochs,
                    "method": method,
                    "seed": seed,
                    "validation_top1": run["result"]["top1"],
                    "images_per_second": run["images_per_second"],
                }
                for (pair, recipe, epochs), methods in self.students().items()
                for method, runs in self.collect(pair, recipe, epochs, methods).items()
                for seed, run in runs.items()
            ]
        )
        means = rows.pivot_table(
            index=["pair", "recipe", "epochs"], columns="method", values="validation_top1"
        )
        means["mean of the arms"] = means.mean(axis=1)
        means = means.sort_values("mean of the arms", ascending=False)
        shown = means.map("{:.2f}".format).reset_index()
        seeds = ", ".join(map(str, self.experiment.seeds))
        return Document(
            title=f"Choice of {self.experiment.name}",
            caption=f"Validation top-1 (%), mean over seeds {seeds}; the test split was not "
            "looked at.",
            parts=[shown],
            csv={"": rows},
        )
