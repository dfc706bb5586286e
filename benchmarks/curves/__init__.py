"""Training curves: what each method's loss is made of, epoch by epoch. Records suffice for it."""

from benchmarks.evidence.document import Document
from benchmarks.evidence.study import SeededSettings, Study
from manifold.settings import Students
from manifold.settings.section import Epochs


class CurvesSettings(SeededSettings):
    """Validation accuracy, terms of the loss and their gradients, epoch by epoch."""

    pair: str
    """Of all students."""
    recipe: str
    """Of all students."""
    epochs: Epochs
    """The budget of all students."""
    methods: list[str] | None
    """null: Table 1's."""
    baseline: str
    """The method whose accuracy is drawn beside every other's."""


class Curves(Study):
    """How do accuracy and losses move while a student is trained?"""

    name = "curves"
    title = "Training curves"
    question = "How do a method's accuracy, its losses and their gradients move in training?"
    Settings = CurvesSettings

    def check(self) -> None:
        experiment, curves = self.experiment, self.settings
        experiment.check_known("curves.pair", curves.pair, experiment.pairs)
        methods = self.methods
        experiment.check_known("curves.recipe", curves.recipe, experiment.recipes)
        experiment.check_methods("curves.methods", methods)
        experiment.check_known("curves.baseline", curves.baseline, methods)

    @property
    def methods(self) -> list[str]:
        """The methods whose curves are drawn, the baseline's among them."""
        curves = self.settings
        return self.listed_or_table1s(curves.methods, curves.pair, curves.baseline)

    def students(self) -> Students:
        curves = self.settings
        return {(curves.pair, curves.recipe, curves.epochs): self.methods}

    def build(self) -> Document:
        from benchmarks.curves.table import build

        return build(self)
