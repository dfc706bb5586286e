"""Table 1: every method next to the reported number, with intervals, gains and verdicts.

The full bench is the same table of more methods, the hierarchical pair the same of another pair.
"""

from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from benchmarks.evidence.claims import Claim, claims_of, is_of_pair
from benchmarks.evidence.contrasts import CONTRASTS, Contrast, check_contrasts, contrasted
from benchmarks.evidence.document import Document
from benchmarks.evidence.study import FORMATS, SeededSettings, Study
from manifold.errors import UserError
from manifold.settings import Students, find
from manifold.settings.messages import refuse_doubles
from manifold.settings.section import Epochs

CLAIMS = "_claims.csv"  # the file of the verdicts
TEACHER = "teacher"  # in the place of a method: the teacher's own row


class TableSettings(SeededSettings):
    """A table of methods."""

    pairs: list[str]
    """The pairs that it shows, one after another."""
    recipe: str
    """Of all its students."""
    epochs: Epochs
    """The budget of all its students."""
    baseline: str
    """Gains are over this method."""
    contrasts: list[Contrast] = Field(default_factory=list)
    """Differences to show beside the gains, first method minus second, where both are there."""


class Table1Settings(TableSettings):
    """Table 1: its pairs, and the reported number next to each method."""

    claims: dict[str, dict[str, str]]
    """pair: method: id of the row of claims.csv next to it."""


class Table1(Study):
    """The methods of the key ``methods``, on every pair of the section."""

    name = "table1"
    title = "Table 1"
    question = "Is a method's student ahead of soft KD's, under one recipe and budget?"
    Settings = Table1Settings
    measured = "top1"
    tests = ("blocks", "paired")
    suffixes = (*FORMATS, CLAIMS, CONTRASTS, "_seeds.csv")
    shown = None
    section: ClassVar[str] = "table1"
    methods_key: ClassVar[str] = "methods"

    @property
    def table(self) -> TableSettings:
        """The settings that all such tables share."""
        return self.settings

    @property
    def judges(self) -> bool:
        """Whether reported numbers stand in it, and are held to it."""
        return self.experiment.claims is not None

    @property
    def beside(self) -> dict[str, dict[str, str]]:
        """pair: method: id of the claim whose number stands next to it."""
        return self.table.claims

    @property
    def claims(self) -> dict[str, Claim]:
        """The claims that it is held to, by id.

        Raises:
            UserError: they cannot be read, or one that is to stand beside a method is not there.
        """
        wanted = [claim for methods in self.beside.values() for claim in methods.values()]
        return claims_of(self.experiment, wanted) if self.judges else {}

    @property
    def methods(self) -> list[str]:
        return self.experiment.methods

    @property
    def runs(self) -> dict[str, Any]:
        return {**vars(self.table), "methods": self.methods, "seeds": self.seeds}

    def check(self) -> None:
        experiment, table, section = self.experiment, self.table, self.section
        if not table.pairs:
            raise UserError(f"{section}.pairs must list at least one pair")
        refuse_doubles(f"{section}.pairs", table.pairs)
        if TEACHER in self.methods:
            raise UserError(
                f"{self.methods_key}: {TEACHER!r} stands for the teacher's own row; rename "
                "the method"
            )
        for pair in table.pairs:
            experiment.check_known(f"{section}.pairs", pair, experiment.pairs)
        for pair, claims in self.beside.items():
            experiment.check_known(f"{section}.claims", pair, experiment.pairs)
            for method in claims:
                key = f"{section}.claims.{pair}"
                experiment.check_known(key, method, experiment.method_definitions)
        experiment.check_known(f"{section}.recipe", table.recipe, experiment.recipes)
        check_contrasts(experiment, section, table.contrasts)
        for pair in table.pairs:
            methods = experiment.methods_of(pair, self.methods)
            if experiment.methods and table.baseline not in methods:
                raise UserError(
                    f"{section}.baseline {table.baseline!r} is not among the methods that run for "
                    f"pair {pair!r} ({', '.join(methods)}); gains are taken over it, so add it to "
                    f"{self.methods_key}"
                )

    def preflight(self) -> None:
        """Read the claims.

        Raises:
            UserError: they cannot be read, or one that this scale could judge is of other networks
                than the pair beside which it is to stand.
        """
        experiment, known = self.experiment, self.claims
        for pair, claims in self.beside.items() if experiment.reported_dataset else ():
            for method, claim in claims.items():
                if claim in known and not is_of_pair(experiment, known[claim].sides[0], pair):
                    raise UserError(
                        f"table1.claims.{pair}.{method}: {claim} is of "
                        f"{known[claim].student} ← {known[claim].teacher}, not of this pair"
                    )

    def students(self) -> Students:
        table = self.table
        return {
            (pair, table.recipe, table.epochs): self.experiment.methods_of(pair, self.methods)
            for pair in table.pairs
        }

    def teachers(self) -> list[str]:
        return self.table.pairs

    def reads(self) -> list[Path]:
        return [find(self.experiment.claims)] if self.judges else []

    def absent(self) -> set[str]:
        absent = set() if self.judges else {CLAIMS}
        return absent | (set() if contrasted(self.table.contrasts, self.methods) else {CONTRASTS})

    def identity(self):
        return [super().identity(), self.table]

    def build(self) -> Document:
        from benchmarks.table1.figure import draw
        from benchmarks.table1.measure import measure
        from benchmarks.table1.text import parts, readable

        found = measure(self)
        baseline = self.table.baseline
        judged = {} if found.claims is None else {CLAIMS.removesuffix(".csv"): found.claims}
        between = {CONTRASTS.removesuffix(".csv"): found.contrasts} if len(found.contrasts) else {}
        return Document(
            title=f"{self.title}, {self.experiment.name}",
            caption=found.caption,
            parts=parts(found, self),
            csv={"": found.rows, **judged, **between, "_seeds": found.seeds},
            latex=[(readable(found.rows, self), "")],
            figures={"": lambda caption: draw(found.rows, found.seeds, baseline, caption)},
        )


class BenchSettings(SeededSettings):
    """The full bench: what it shows beside Table 1."""

    methods: list[str]
    """Further methods, under Table 1's pairs, recipe and budget."""
    contrasts: list[Contrast] = Field(default_factory=list)
    """Differences to show beside those of Table 1, first method minus second."""


class Bench(Table1):
    """Table 1 of every method that the scale names."""

    name = "bench"
    title = "The full bench"
    question = "Which of all methods is ahead of soft KD, under one recipe and budget?"
    Settings = BenchSettings
    needs = ("table1",)
    shown = ("In words",)

    @property
    def table(self) -> Table1Settings:
        own = self.experiment.table1
        return own.model_copy(update={"contrasts": [*own.contrasts, *self.settings.contrasts]})

    @property
    def methods(self) -> list[str]:
        own = self.experiment.methods
        return [*own, *(method for method in self.settings.methods if method not in own)]

    def check(self) -> None:
        self.experiment.check_methods("bench.methods", self.settings.methods)
        check_contrasts(self.experiment, "bench", self.settings.contrasts)

    @classmethod
    def with_methods(cls, section: dict, own: list[str], given: dict) -> dict:
        return section  # they stand in the key `methods`, which is of this table too


class HierarchicalSettings(TableSettings):
    """The hierarchical pair."""

    methods: list[str]
    """Its methods."""


class Hierarchical(Table1):
    """Table 1 of networks whose maps shrink from stage to stage; large maps are merged."""

    name = "hierarchical"
    title = "The hierarchical pair"
    question = "Is a hierarchical student ahead of soft KD's, under one recipe and budget?"
    Settings = HierarchicalSettings
    suffixes = (*FORMATS, "_seeds.csv")
    shown = ("In words",)
    section = "hierarchical"
    methods_key = "hierarchical.methods"

    @property
    def methods(self) -> list[str]:
        return self.settings.methods

    @property
    def judges(self) -> bool:
        return False

    @property
    def beside(self) -> dict[str, dict[str, str]]:
        return {}

    def check(self) -> None:
        self.experiment.check_methods("hierarchical.methods", self.methods)
        super().check()
