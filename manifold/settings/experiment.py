"""One resolved experiment: its sections, its folders, and what tells its cells apart."""

import os
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from manifold.errors import Faults, UserError
from manifold.settings.data import Data, check_channels
from manifold.settings.files import find
from manifold.settings.machine import CohortSettings, Machine
from manifold.settings.messages import refuse_doubles, unknown
from manifold.settings.method import Method
from manifold.settings.networks import Pair, teacher_file
from manifold.settings.plain import to_plain
from manifold.settings.recipe import Recipe, check_warmup
from manifold.settings.recorded import recorded
from manifold.settings.section import Section, Share, WholeNumber, WorkflowFile

KEPT_FOLDERS = ("published", "reported")  # of results/, which no run may fill
CELL_FILES = ("student.safetensors", "metrics.csv", "run.json")

Training = tuple[str, str, int]  # pair, recipe, epochs
Students = dict[Training, list[str]]  # the methods of each


class Statistics(Section):
    """Intervals, and what they can decide."""

    confidence: Annotated[float, Field(ge=0.5, le=0.9999)]
    """Of every interval."""
    margin: Annotated[float, Field(gt=0, le=100)]
    """In points of top-1: two methods that differ by less are called equivalent."""
    power: Annotated[float, Field(ge=0.5, le=0.999)]
    """With which the gain is told from zero that a caption calls detectable."""
    least_share: Share
    """Of the gradient: a row says so whose own terms make less of it."""
    spread_level: Annotated[float, Field(gt=0, le=0.5)]
    """Of the F tests, over the number of methods: one whose residuals spread otherwise leaves the
    block model."""
    least_lead: Annotated[float, Field(ge=0, le=100)]
    """In points of top-1: a caption says that a teacher is less than this ahead of a student."""


class Experiment(Section):
    """A scale with what the user overrides, and a section for each study that it has.

    The sections of the studies are fields of a class of their own, which ``resolve`` derives from
    this one.
    """

    study_kinds: ClassVar[dict[str, Any]] = {}  # section: the class that declares the study

    scale: str
    """Name of the scale, or path of a .yaml file."""
    description: str
    """The scale in a few words, for captions."""
    name: str
    """The folder below results; null: the scale's name, and a hash of what is overridden."""
    results: WorkflowFile
    """Where the folders of results are."""
    stale: Literal["keep", "retrain"]
    """What happens to cells that other code made than now stands: reported, or made anew."""
    claims: WorkflowFile | None
    """What others report, with its evidence; null: no reported number, no verdict on a claim."""
    registered: WorkflowFile | None
    """What was said before the runs: questions, seeds, tests; null: nothing is said of it."""
    networks: WorkflowFile
    """Parameters, FLOPs and throughput that timm publishes."""
    data: Data
    """What students and teachers are trained on."""
    pairs: dict[str, Pair]
    """Students and teachers by the pair's name."""
    recipes: dict[str, Recipe]
    """Recipes by name: the path of a file, or a mapping that may extend one."""
    method_definitions: dict[str, Method]
    """Methods by name; those of config/methods.yaml are there already."""
    methods: list[str]
    """The methods of Table 1."""
    seeds: list[WholeNumber]
    """Of every training; paired across methods."""
    evaluation_split: Literal["test", "validation"]
    """What the accuracies of run.json are measured on."""
    reported_dataset: str | None
    """The data set of the claims that this scale runs on, if any."""
    statistics: Statistics
    """Intervals."""
    cohort: CohortSettings
    """Methods that are trained together."""
    machine: Machine
    """Where and how it runs."""

    # ---- checks of what no section knows alone -----------------------------------------------

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        faults = Faults()
        for check in (self._check_names, self._check_pairs, self._check_data):
            with faults.collected():
                check()
        for study in self.studies.values():
            with faults.collected():
                study.check()
        faults.raise_any()
        self._check_warmups()
        return self

    def _check_data(self) -> None:
        for key in ("claims", "registered", "networks"):
            path = getattr(self, key)
            if path is not None and not os.path.isfile(find(path)):
                raise UserError(f"{key}: no such file {path}; correct the path")
        check_channels("data", self.data, self.data.channels)
        if self.data.validation == 0 and self.evaluation_split == "validation":
            raise UserError(
                "data.validation is 0, and evaluation_split: validation needs some images"
            )

    def _check_warmups(self) -> None:
        """Refuse a recipe whose warm-up is longer than everything that is trained under it."""
        longest: dict[str, int] = {}
        for _, recipe, epochs in self.trainings():
            longest[recipe] = max(epochs, longest.get(recipe, 0))
        for pair in self.pairs.values():
            recipe, epochs = pair.teacher.recipe, pair.teacher.epochs
            if recipe is not None and epochs is not None:
                longest[recipe] = max(epochs, longest.get(recipe, 0))
        for recipe, epochs in longest.items():
            check_warmup(recipe, self.recipes[recipe], epochs)

    def _check_names(self) -> None:
        if not self.methods:
            raise UserError("methods is empty; name at least one method, as methods: [soft_kd]")
        self.check_methods("methods", self.methods)
        check_seeds("seeds", self.seeds)
        for section in self.study_kinds:
            own = getattr(getattr(self, section), "seeds", None)
            if own is not None:
                check_seeds(f"{section}.seeds", own)
        for name in (self.name, *self.pairs, *self.recipes, *self.method_definitions):
            check_folder_name(name)
        if not str(self.results).strip():
            raise UserError("results is empty; give the path of a folder, as results: results")
        if self.name.lower() in KEPT_FOLDERS:  # some disks do not tell the cases apart
            raise UserError(
                f"name: {self.name!r} is the folder of what ships with the suite; take another name"
            )
        by_title: dict[str, str] = {}
        for name, definition in self.method_definitions.items():
            if (other := by_title.setdefault(definition.title, name)) != name:
                raise UserError(
                    f"method_definitions.{name}.title: {definition.title!r} is {other}'s, and "
                    "tables tell methods by it; give each its own"
                )
        for folder in (self.directory, *self.directory.parents):
            if os.path.exists(folder) and not folder.is_dir():  # a name too long is none there
                raise UserError(
                    f"results: {folder} is a file, and {self.directory} is to be a folder; give "
                    "the path of a folder, or of none yet"
                )

    def _check_pairs(self) -> None:
        for name, pair in self.pairs.items():
            where, teacher = f"pairs.{name}", pair.teacher
            for method in pair.methods or []:
                self.check_known(f"{where}.methods", method, self.method_definitions)
            if teacher.recipe is not None:
                self.check_known(f"{where}.teacher.recipe", teacher.recipe, self.recipes)
            if teacher.input is not None:
                check_channels(f"{where}.teacher.input", teacher.input, self.data.channels)

    def check_known(self, key: str, name: str, known: Any) -> None:
        """Refuse a name that nothing defines.

        Raises:
            UserError: names the key, and what is known.
        """
        if name not in known:
            raise unknown(key, name, known)

    def check_methods(self, key: str, methods: list[str]) -> None:
        """Hold a list of methods to those that are defined, each once.

        Raises:
            UserError: names the key, and what is known.
        """
        for method in methods:
            self.check_known(key, method, self.method_definitions)
        refuse_doubles(key, methods)

    # ---- studies and trainings ---------------------------------------------------------------

    @cached_property
    def studies(self) -> dict[str, Any]:
        """The studies of this scale by name, in the order of their sections."""
        made = [
            kind(self, getattr(self, key))
            for key, kind in self.study_kinds.items()
            if all(getattr(self, needed, None) is not None for needed in (key, *kind.needs))
        ]
        names = [study.name for study in made]
        refuse_doubles("the sections' studies: their name", names)
        return dict(zip(names, made, strict=True))

    def trainings(self) -> dict[Training, list[list[str]]]:
        """The cohorts that the studies need under each pair, recipe and budget.

        The first study's cohorts hold nothing else; what a later one asks for beyond the earlier
        ones is trained in cohorts of its own.
        """
        trainings: dict[Training, list[list[str]]] = {}
        for study in self.studies.values():
            for key, methods in study.students().items():
                cohorts = trainings.setdefault(key, [])
                known = {method for cohort in cohorts for method in cohort}
                cohorts += self.in_cohorts([method for method in methods if method not in known])
        return trainings

    def in_cohorts(self, methods: list[str]) -> list[list[str]]:
        """Lists of methods that are trained together."""
        size = self.cohort.size or max(1, len(methods))
        return [methods[i : i + size] for i in range(0, len(methods), size)]

    def jobs(self, training: Training, methods: list[str]) -> list[tuple[list[str], str]]:
        """How a cohort is trained: the methods of each job, and a pattern of the seeds it is for.

        Where the last seeds are fewer than the jobs that run at once, each of them is cut into as
        many parts as leave none of these jobs idle, and a part pays for teacher's passes of its
        own. Of a seed that has records, what has none is a job of its own. All other seeds, those
        of no list too, are trained in one job.
        """
        pieces = []
        for seed in self.seeds:
            known = [m for m in methods if recorded(self, (*training, m, seed)) is not None]
            if known:
                others = [method for method in methods if method not in known]
                pieces += [(part, str(seed)) for part in (others, known) if part]
        apart = {seed for _, seed in pieces}
        at_once, seeds = self.cohort.parallel_jobs, [s for s in self.seeds if str(s) not in apart]
        last = seeds[len(seeds) // at_once * at_once :]
        parts = min(at_once // len(last), len(methods)) if last else 1
        if parts > 1:
            cut = "|".join(map(str, last))
            # Alike methods stand beside each other, and cost alike: they are dealt out in turn.
            pieces += [(methods[part::parts], cut) for part in range(parts)]
            apart |= set(map(str, last))
        ordered = [str(seed) for seed in self.seeds if str(seed) in apart]
        others = rf"(?!(?:{'|'.join(ordered)})\b)\d+" if ordered else r"\d+"
        return [(methods, others), *pieces]

    def methods_of(self, pair: str, methods: list[str] | None = None) -> list[str]:
        """The methods, by default Table 1's, that a pair is for."""
        own = self.pairs[pair].methods
        methods = self.methods if methods is None else methods
        return [method for method in methods if own is None or method in own]

    # ---- folders -----------------------------------------------------------------------------

    @property
    def directory(self) -> Path:
        return Path(self.results) / self.name

    @property
    def file(self) -> Path:
        """Where the resolved experiment stands, for every job to read."""
        return self.directory / "experiment.yaml"

    def teacher_directory(self, pair: str) -> Path:
        return self.directory / "teachers" / pair

    def teacher_weights(self, pair: str) -> Path:
        return teacher_file(self.pairs[pair].teacher.weights, self.teacher_directory(pair))

    def cell_directory(self, pair: str, recipe: str, epochs: int, method: str, seed: int) -> Path:
        return (
            self.directory / "cells" / pair / recipe / f"{epochs}-epochs" / method / f"seed-{seed}"
        )

    # ---- identities --------------------------------------------------------------------------

    def teacher_identity(self, pair: str) -> dict[str, Any]:
        """What shapes the weights of a pair's teacher, where the workflow trains it."""
        teacher = self.pairs[pair].teacher
        shaping = {
            "data": self.data,
            "model": teacher.model,
            "recipe": teacher.recipe and self.recipes[teacher.recipe],
            "epochs": teacher.epochs,
            "seed": teacher.seed,
            "evaluation_split": self.evaluation_split,
        }
        return to_plain(shaping)

    def cell_identity(self, pair: str, recipe: str, epochs: int, method: str, seed: int) -> dict:
        """What shapes the weights of a cell, except the bytes of the teacher's file."""
        section, definition = self.pairs[pair], self.method_definitions[method]
        shared = ("student", "distilled_student", "layers", "most_tokens")
        shaping = {
            "data": self.data,
            # A student that only its own methods train is in the identity of their cells alone.
            "pair": {
                key: getattr(section, key) for key in dict.fromkeys((*shared, definition.student))
            },
            "teacher": {"model": section.teacher.model, "input": section.teacher.input},
            "recipe": self.recipes[recipe],
            "epochs": epochs,
            "method": method,
            "distiller": definition.distiller,
            "arguments": definition.arguments,
            "student": definition.student,
            "seed": seed,
            "evaluation_split": self.evaluation_split,
        }
        return to_plain(shaping)


def check_seeds(key: str, seeds: list[int]) -> None:
    """Refuse seeds that no table with intervals can be made of.

    Raises:
        UserError: one is there twice, or there are fewer than two.
    """
    refuse_doubles(key, seeds)
    if len(seeds) < 2:
        raise UserError(
            f"{key}: {seeds} has {len(seeds)}; a table with intervals needs at least two, for "
            "instance seeds=[0,1,2]"
        )


def check_folder_name(name: str) -> None:
    """Refuse a name that cannot be a folder of the results.

    Raises:
        UserError: says which characters can.
    """
    if not name or not all(c.isalnum() or c in "-_." for c in name) or name.startswith("."):
        raise UserError(
            f"{name!r} names a folder of the results: use letters, digits, '-', '_' and '.'"
        )
