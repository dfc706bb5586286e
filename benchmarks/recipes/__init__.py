"""Method, recipe and budget apart: the same methods under recipes that differ in one factor.

The study of budgets is the same table without factors.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, model_validator

from benchmarks.evidence.contrasts import CONTRASTS, Contrast, check_contrasts, contrasted
from benchmarks.evidence.document import Document
from benchmarks.evidence.study import FORMATS, SeededSettings, Study
from manifold.errors import UserError
from manifold.settings import Students, find, to_plain
from manifold.settings.section import Count, Epochs, Section, WorkflowFile


class BudgetStudySettings(SeededSettings):
    """The same methods at several budgets, each with its own schedule."""

    pair: str
    """Of all students."""
    epochs: list[Epochs]
    """Budgets, at least two."""
    methods: list[str]
    """At least two."""
    baseline: str
    """Gains are over this method, under the same recipe and budget."""
    contrasts: list[Contrast] = Field(default_factory=list)
    """Differences to show beside the gains, first method minus second, where both are there."""
    public_curves: WorkflowFile
    """Top-1 per epoch of public ImageNet runs, drawn next to it unless `claims` is null."""


class BudgetsSettings(BudgetStudySettings):
    """The gain against the budget."""

    recipes: list[str]
    """At least one."""


class Factor(Section):
    """A recipe that changes one thing of the reference, which the factor is named by."""

    recipe: str
    """The reference with that change."""
    epochs_factor: Count
    """Epochs of one of the budget: 4 leaves four times the batch as many updates."""


class RecipeStudySettings(BudgetStudySettings):
    """The reference recipe, and others that change one factor of it each."""

    reference: str
    """The recipe that the factors change."""
    factors: dict[str, Factor]
    """In words; null takes a scale's factor away."""

    @model_validator(mode="before")
    @classmethod
    def _without_what_is_taken_away(cls, content: Any) -> Any:
        factors = content.get("factors") if isinstance(content, dict) else None
        if not isinstance(factors, dict):
            return content
        kept = {name: entry for name, entry in factors.items() if entry not in (None, "null")}
        return {**content, "factors": kept}


@dataclass(frozen=True)
class Arm:
    """One recipe of the table, at every budget.

    Attributes:
        factor: what it changes in the reference, in words; None: nothing.
        epochs_factor: epochs of one of the budget.
    """

    recipe: str
    factor: str | None = None
    epochs_factor: int = 1

    @property
    def label(self) -> str:
        return f"recipe {self.recipe}" if self.factor is None else self.factor


class Budgets(Study):
    """The gain against the budget, under one recipe or several."""

    name = "budgets"
    title = "The gain against the budget"
    question = "Does a method's gain over soft KD fade as the budget grows?"
    Settings = BudgetsSettings
    measured = "top1"
    suffixes = (*FORMATS, "_changes.csv", CONTRASTS, "_seeds.csv")
    shown = ("How the gain moves", "Between two methods", "In words")
    section: ClassVar[str] = "budgets"

    @property
    def arms(self) -> list[Arm]:
        """The recipes; others are compared with the first."""
        return [Arm(recipe) for recipe in self.settings.recipes]

    def check(self) -> None:
        experiment, study, section = self.experiment, self.settings, self.section
        experiment.check_known(f"{section}.pair", study.pair, experiment.pairs)
        self.check_arms()
        for method in study.methods:
            experiment.check_known(f"{section}.methods", method, experiment.method_definitions)
        of_pair = experiment.methods_of(study.pair, study.methods)
        if others := [method for method in study.methods if method not in of_pair]:
            raise UserError(
                f"{section}.methods: pair {study.pair!r} is not for {', '.join(others)}; its "
                f"methods are {', '.join(experiment.pairs[study.pair].methods)}; list those, or "
                f"give {section}: null"
            )
        experiment.check_known(f"{section}.baseline", study.baseline, study.methods)
        check_contrasts(experiment, section, study.contrasts)
        for key in ("epochs", "methods"):
            self._refuse_fewer(key, getattr(study, key), 2)

    def check_arms(self) -> None:
        """Refuse recipes that the table cannot show.

        Raises:
            UserError: names the key.
        """
        for recipe in self.settings.recipes:
            self.experiment.check_known(f"{self.section}.recipes", recipe, self.experiment.recipes)
        self._refuse_fewer("recipes", self.settings.recipes, 1)

    def _refuse_fewer(self, key: str, values: list, least: int) -> None:
        if len(set(values)) != len(values) or len(values) < least:
            raise UserError(
                f"{self.section}.{key} must list at least {({1: 'one', 2: 'two'})[least]} "
                f"different value{'s: the study compares them' if least > 1 else ''}; got {values}"
            )

    def trainings(self) -> Iterator[tuple[Arm, int, int]]:
        """Arm, budget, and the arm's epochs at that budget."""
        for arm in self.arms:
            for budget in self.settings.epochs:
                yield arm, budget, budget * arm.epochs_factor

    def students(self) -> Students:
        study = self.settings
        return {
            (study.pair, arm.recipe, epochs): study.methods for arm, _, epochs in self.trainings()
        }

    def teachers(self) -> list[str]:
        return [self.settings.pair]

    def reads(self) -> list[Path]:
        return [] if self.experiment.claims is None else [find(self.settings.public_curves)]

    def absent(self) -> set[str]:
        has_contrasts = contrasted(self.settings.contrasts, self.settings.methods)
        return set() if has_contrasts else {CONTRASTS}

    def build(self) -> Document:
        from benchmarks.recipes.figure import draw
        from benchmarks.recipes.measure import PUBLIC_CAPTION, measure
        from benchmarks.recipes.text import parts, readable

        found, baseline = measure(self), self.settings.baseline
        title = self.experiment.method_definitions[baseline].title
        between = {CONTRASTS.removesuffix(".csv"): found.contrasts} if len(found.contrasts) else {}
        return Document(
            title=f"{self.title}, {self.experiment.name}",
            caption=found.caption,
            parts=parts(found, self),
            csv={
                "": found.rows,
                **({} if found.variance is None else {"_variance": found.variance}),
                "_changes": found.changes,
                **between,
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


class RecipeStudy(Budgets):
    """How much is the method, how much each factor of the recipe, how much the budget?"""

    name = "recipes"
    title = "Method, recipe and budget"
    question = "How much is the method, how much the recipe, how much the budget?"
    Settings = RecipeStudySettings
    suffixes = (*FORMATS, "_variance.csv", "_changes.csv", CONTRASTS, "_seeds.csv")
    shown = (question, "In words")
    taken_away_by_null = ("factors",)
    section = "recipe_study"

    @property
    def arms(self) -> list[Arm]:
        """The reference, and a recipe a factor."""
        study = self.settings
        others = [
            Arm(factor.recipe, name, factor.epochs_factor) for name, factor in study.factors.items()
        ]
        return [Arm(study.reference), *others]

    def check_arms(self) -> None:
        experiment, study, key = self.experiment, self.settings, f"{self.section}.factors"
        experiment.check_known(f"{self.section}.reference", study.reference, experiment.recipes)
        if not study.factors:
            raise UserError(
                f"{key} must name at least one factor with its recipe; budgets alone are compared "
                "by the study `budgets`"
            )
        used = {study.reference: f"{self.section}.reference"}
        for name, factor in study.factors.items():
            own = f"{key}.{name}.recipe"
            experiment.check_known(own, factor.recipe, experiment.recipes)
            if factor.recipe in used:
                raise UserError(
                    f"{own}: {factor.recipe!r} is {used[factor.recipe]} too; give every factor a "
                    "recipe of its own"
                )
            used[factor.recipe] = own
            if not self.changes(factor.recipe):
                raise UserError(
                    f"{own}: {factor.recipe!r} holds the same values as {study.reference!r}, so "
                    "it changes nothing; give a recipe that does what the factor says"
                )

    def changes(self, recipe: str) -> dict[str, tuple[Any, Any]]:
        """Key of a recipe: its value in the reference and in ``recipe``, where they differ."""
        own, other = (
            dict(_leaves(to_plain(self.experiment.recipes[name])))
            for name in (self.settings.reference, recipe)
        )
        return {
            key: (own.get(key), other.get(key))
            for key in {**own, **other}
            if own.get(key) != other.get(key)
        }


def _leaves(section: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """The keys of a recipe with their values; mixing is on or off as a whole."""
    for key, value in section.items():
        if isinstance(value, dict) and key != "mixing":
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value
