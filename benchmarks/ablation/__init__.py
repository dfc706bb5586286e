"""The ablation: one method with one thing changed at a time."""

from benchmarks.evidence.document import Document
from benchmarks.evidence.study import SeededSettings, Study
from manifold.errors import UserError
from manifold.settings import Students
from manifold.settings.messages import unknown
from manifold.settings.section import Epochs

OWN_METHODS = "Your methods"  # their group
REFERENCE = "Reference"  # in the place of a group: the row that the others are held to

Variant = tuple[str, str, str]  # pair, recipe, method


class AblationSettings(SeededSettings):
    """One method with one thing changed at a time.

    A variant is the name of a method, a recipe or a pair, put in the place of the reference's.
    """

    pair: str
    """Of the reference."""
    recipe: str
    """Of the reference."""
    epochs: Epochs
    """The budget of all."""
    reference: str
    """The method that is varied."""
    baseline: str
    """Gains are over this method, under the same pair and recipe."""
    groups: dict[str, list[str]]
    """title: variants."""


class Ablation(Study):
    """What of a method matters?"""

    name = "ablation"
    title = "Ablation"
    question = "What of the manifold loss matters: terms, layers, weights, tokens, teacher?"
    Settings = AblationSettings
    measured = "top1"

    def check(self) -> None:
        experiment, ablation = self.experiment, self.settings
        definitions = experiment.method_definitions
        for key, known in (
            ("pair", experiment.pairs),
            ("recipe", experiment.recipes),
            ("reference", definitions),
            ("baseline", definitions),
        ):
            experiment.check_known(f"ablation.{key}", getattr(ablation, key), known)
        if ablation.baseline == ablation.reference:
            raise UserError(
                f"ablation: baseline and reference are both {ablation.reference!r}; gains are "
                "taken over another method"
            )
        if REFERENCE in ablation.groups:
            raise UserError(
                f"ablation.groups: {REFERENCE!r} stands for the reference's own row; rename it"
            )
        taken = {ablation.pair, ablation.recipe, ablation.reference, ablation.baseline}
        for group, variants in ablation.groups.items():
            for name in variants:
                self._check_variant(f"ablation.groups.{group}", name, taken)
                taken.add(name)

    def _check_variant(self, where: str, name: str, taken: set[str]) -> None:
        experiment = self.experiment
        kinds = (experiment.pairs, experiment.recipes, experiment.method_definitions)
        found = sum(name in known for known in kinds)
        if not found:
            raise unknown(where, name, [known for kind in kinds for known in kind])
        if found > 1:
            raise UserError(
                f"{where}: {name!r} names more than one of a pair, a recipe and a method; rename "
                "one of them"
            )
        if name in taken:
            raise UserError(f"{where}: {name!r} stands in the ablation already, once is enough")

    @property
    def reference(self) -> Variant:
        ablation = self.settings
        return ablation.pair, ablation.recipe, ablation.reference

    def variants(self) -> dict[str, list[Variant]]:
        """The pair, recipe and method of every variant, by group."""
        experiment, (pair, recipe, method) = self.experiment, self.reference

        def variant(name: str) -> Variant:
            if name in experiment.pairs:
                return name, recipe, method
            if name in experiment.recipes:
                return pair, name, method
            return pair, recipe, name

        groups = self.settings.groups
        return {group: [variant(name) for name in names] for group, names in groups.items()}

    def students(self) -> Students:
        """Under each pair and recipe the baseline and the reference come first."""
        ablation = self.settings
        students: Students = {}
        for variants in ([self.reference], *self.variants().values()):
            for pair, recipe, method in variants:
                both = [ablation.baseline, ablation.reference]
                methods = students.setdefault((pair, recipe, ablation.epochs), both)
                if method not in methods:
                    methods.append(method)
        return students

    def teachers(self) -> list[str]:
        return sorted({pair for pair, _, _ in self.students()})

    @classmethod
    def with_methods(cls, section: dict, own: list[str], given: dict) -> dict:
        groups = section.get("groups")
        if "groups" in given or not isinstance(groups, dict):
            return section
        return {**section, "groups": {**groups, OWN_METHODS: own}}

    def build(self) -> Document:
        from benchmarks.ablation.figure import draw
        from benchmarks.ablation.table import in_words, measure, readable
        from benchmarks.evidence.words import from_intervals_alone

        found, confidence = measure(self), self.experiment.statistics.confidence
        baseline = self.experiment.method_definitions[self.settings.baseline].title
        shown = readable(found.rows, baseline)
        return Document(
            title=f"{self.title}, {self.experiment.name}",
            caption=found.caption,
            parts=[
                shown,
                "## In words",
                from_intervals_alone(confidence),
                in_words(found.rows, baseline, confidence),
            ],
            csv={"": found.rows, "_seeds": found.seeds},
            latex=[(shown, "")],
            figures={"": lambda caption: draw(found.rows, found.seeds, baseline, caption)},
        )
