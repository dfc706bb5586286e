"""Transfer learning: every student on other data sets, by linear probe, k-NN and fine-tuning."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from benchmarks.evidence.document import Document
from benchmarks.evidence.study import Job, SeededSettings
from benchmarks.evidence.untrained import WithUntrained
from manifold.errors import UserError
from manifold.settings import (
    CELL_FILES,
    UNTRAINED,
    Data,
    Students,
    check_folder_name,
    merge,
    to_plain,
)
from manifold.settings.data import Crop, DataSet
from manifold.settings.data_files import files_digest
from manifold.settings.messages import refuse_doubles
from manifold.settings.section import (
    Count,
    Epochs,
    ImagesOrShare,
    Interpolation,
    Location,
    Positive,
    Section,
)

MEAN = "mean"  # stands for all data sets
FINE_TUNING = "fine-tuning"
FINE_TUNING_METHOD = "none"  # cross-entropy alone
FINE_TUNING_JOB = "benchmarks.transfer.fine_tuning"  # whose sources shape it too
FIXED = "-fixed"  # ends the name of a protocol of which nothing is chosen
Protocol = Literal["linear-probe", "k-nn", "fine-tuning"]
PROBE_FILES = ("features.safetensors", "probes.json")


class TransferData(Section):
    """A data set that students are carried over to.

    Image size, channels and normalisation stay those that the students were trained with.
    """

    dataset: DataSet
    """Which one."""
    folder: Location | None
    """Where the files are; null for data that a package carries."""
    validation: ImagesOrShare
    """Training images held out to choose C and k; below 1: a share."""
    least_images_per_epoch: Count | None
    """Of fine-tuning: fewer training images are gone through again in an epoch; null: never."""
    crop: Crop
    """Side of the centre crop at evaluation, as a share of the resized image."""
    interpolation: Interpolation
    """How images are resized."""
    verify: bool
    """Decode every image of a folder before any compute."""
    protocols: list[Protocol]
    """How students are measured on it."""
    shots: list[Count]
    """Training images of each class in the few-shot rows of the first two protocols."""
    recipe: str
    """Of fine-tuning, as are the epochs."""
    epochs: Epochs
    """The budget of fine-tuning."""

    @model_validator(mode="after")
    def _can_be_measured(self) -> Self:
        for key in ("protocols", "shots"):
            refuse_doubles(key, getattr(self, key))
        if not self.protocols:
            raise UserError("protocols must list at least one protocol")
        if self.protocols != [FINE_TUNING] and not self.validation:
            raise UserError(
                "validation must be positive, got 0: C and k are chosen on these images"
            )
        return self


class LinearProbe(Section):
    """Multinomial logistic regression by L-BFGS."""

    regularisation: list[Positive]
    """The grid of C: the inverse weight of the squared norm."""
    iterations: Count
    """At most."""
    tolerance: Positive
    """Of the gradient, where it ends."""


class NearestNeighbours(Section):
    """Each of the k neighbours votes with exp(cosine similarity / temperature)."""

    neighbours: list[Count]
    """The grid of k."""
    temperature: Positive
    """Of the votes."""


class FewShot(Section):
    """What the few-shot rows have for which nothing is chosen."""

    regularisation: Positive
    """C of the linear probe."""
    neighbours: Count
    """k of k-NN."""


class TransferSettings(SeededSettings):
    """Frozen features and fine-tuning of students on other data sets."""

    pair: str
    """Of the students."""
    recipe: str
    """Of the students."""
    epochs: Epochs
    """The students' budget."""
    methods: list[str] | None
    """null: Table 1's, and the baseline."""
    baseline: str
    """Gains are over this method."""
    draws: Annotated[int, Field(ge=1, le=1000)]
    """Of the few-shot images, a seed."""
    linear_probe: LinearProbe
    """The first protocol."""
    nearest_neighbours: NearestNeighbours
    """The second protocol."""
    few_shot: FewShot
    """Both once more on few shots, without a choice on images that are not few."""
    defaults: dict[str, Any]
    """Of the keys that an entry of `data` does not give."""
    data: dict[str, TransferData]
    """The data sets by name; null takes a scale's entry away."""

    @model_validator(mode="before")
    @classmethod
    def _complete_entries(cls, content: Any) -> Any:
        """Lay every data set over the defaults."""
        defaults, data = (
            content.get(key) if isinstance(content, dict) else None for key in ("defaults", "data")
        )
        if not isinstance(defaults, dict) or not isinstance(data, dict):
            return content
        completed = {
            name: merge(defaults, entry) if isinstance(entry, dict) else entry
            for name, entry in data.items()
            if entry not in (None, "null")  # Snakemake hands on text
        }
        return {**content, "data": completed}

    @model_validator(mode="after")
    def _grids_hold_something(self) -> Self:
        for key, grid in (
            ("linear_probe.regularisation", self.linear_probe.regularisation),
            ("nearest_neighbours.neighbours", self.nearest_neighbours.neighbours),
        ):
            if not grid:
                raise UserError(f"{key} must list positive numbers to choose from, got {grid}")
        if not self.data:
            raise UserError("data must name at least one data set")
        return self


class Transfer(WithUntrained):
    """Do a method's students serve other data better?"""

    name = "transfer"
    title = "Transfer learning"
    question = "Is a method's student ahead of soft KD's on other data sets?"
    Settings = TransferSettings
    measured = "top1"
    taken_away_by_null = ("data",)

    # ---- what it needs -----------------------------------------------------------------------

    def check(self) -> None:
        experiment, transfer = self.experiment, self.settings
        experiment.check_known("transfer.pair", transfer.pair, experiment.pairs)
        experiment.check_known("transfer.recipe", transfer.recipe, experiment.recipes)
        for method in transfer.methods or []:
            experiment.check_known("transfer.methods", method, experiment.method_definitions)
        methods = self.methods
        if transfer.baseline not in methods:
            raise UserError(
                f"transfer.baseline {transfer.baseline!r} is not among transfer.methods "
                f"({', '.join(methods)}); gains are taken over it, so add it"
            )
        if len(set(methods)) != len(methods) or UNTRAINED in methods:
            raise UserError(
                f"transfer.methods must name each method once, and none {UNTRAINED!r}, which is "
                f"the row of the initialised student; got {methods}"
            )
        for name, entry in transfer.data.items():
            check_folder_name(name)
            where = f"transfer.data.{name}"
            if name == MEAN:
                raise UserError(
                    f"{where}: this name stands for the mean over the data sets; take another"
                )
            experiment.check_known(f"{where}.recipe", entry.recipe, experiment.recipes)

    def preflight(self) -> dict[str, Any]:
        from benchmarks.transfer.check import check

        return check(self)

    @property
    def methods(self) -> list[str]:
        """The methods whose students are carried over to other data sets."""
        transfer = self.settings
        return self.listed_or_table1s(transfer.methods, transfer.pair, transfer.baseline)

    def students(self) -> Students:
        transfer = self.settings
        return {(transfer.pair, transfer.recipe, transfer.epochs): self.methods}

    def data(self, name: str) -> Data:
        """A data set, in the form in which the students see images."""
        entry, own = self.settings.data[name], self.experiment.data
        keys = TransferData.model_fields.keys() & Data.model_fields.keys()
        return own.replaced(**{key: getattr(entry, key) for key in keys})

    def data_files(self, name: str) -> str | None:
        """The digest of a data set's files, where they may change."""
        return files_digest(self.data(name), self.experiment.results)

    def fine_tuning_data(self, name: str) -> Data:
        """All training images, unless the held-out ones are what is evaluated on."""
        data = self.data(name)
        is_final = self.experiment.evaluation_split == "test"
        return data.replaced(validation=0) if is_final else data

    # ---- folders -----------------------------------------------------------------------------

    def directory(self, name: str, method: str, seed: int) -> Path:
        return self.experiment.directory / "transfer" / name / method / f"seed-{seed}"

    def student_files(self, seed: int) -> list[Path]:
        """The files of a seed's students."""
        ((key, methods),) = self.students().items()
        return [
            *(
                self.experiment.cell_directory(*key, method, seed) / name
                for method in methods
                for name in CELL_FILES
            ),
            *self.untrained_files(seed),
        ]

    # ---- jobs --------------------------------------------------------------------------------

    def jobs(self) -> list[Job]:
        """The students of a seed are a cohort on each data set: they share its images."""
        rows = [UNTRAINED, *self.methods]
        cells = [f"transfer/{{data}}/{method}/seed-{{seed}}" for method in rows]
        return [
            self.untrained_job("benchmarks.transfer.untrained:initialise"),
            Job(
                "probes",
                run="benchmarks.transfer.probes:run",
                message="Probing the students of seed {wildcards.seed} on {wildcards.data}",
                outputs=tuple(f"{cell}/{file}" for cell in cells for file in PROBE_FILES),
                inputs=lambda data, seed: self.student_files(seed),
                identity=self.probe_identity,
                data_files=lambda data, seed: self.data_files(data),
                processes="one",
            ),
            Job(
                FINE_TUNING,
                run=f"{FINE_TUNING_JOB}:run",
                message="Fine-tuning the students of seed {wildcards.seed} on {wildcards.data}",
                outputs=tuple(
                    f"{cell}/fine-tuning/{file}" for cell in cells for file in CELL_FILES
                ),
                inputs=lambda data, seed: self.student_files(seed),
                identity=self.fine_tuning_identity,
                data_files=lambda data, seed: self.data_files(data),
                processes="as trainings",
                method=FINE_TUNING_METHOD,
            ),
        ]

    def results(self) -> list[Path]:
        return [
            self.directory(name, method, seed) / file
            for name, entry in self.settings.data.items()
            for method in (UNTRAINED, *self.methods)
            for seed in self.seeds
            for file in (
                *(PROBE_FILES if entry.protocols != [FINE_TUNING] else ()),
                *(f"{FINE_TUNING}/{name}" for name in CELL_FILES if FINE_TUNING in entry.protocols),
            )
        ]

    def probe_identity(self, data: str, seed: int) -> dict[str, Any]:
        """What shapes the probes on a data set, except the bytes of the student's file."""
        transfer, entry = self.settings, self.settings.data[data]
        shaping = {
            "name": data,
            "data": self.data(data),
            "protocols": [protocol for protocol in entry.protocols if protocol != FINE_TUNING],
            "shots": entry.shots,
            "draws": transfer.draws,
            "linear_probe": transfer.linear_probe,
            "nearest_neighbours": transfer.nearest_neighbours,
            "few_shot": transfer.few_shot,
            "seed": seed,
        }
        return to_plain(shaping)

    def fine_tuning_identity(self, data: str, seed: int) -> dict[str, Any]:
        """What shapes fine-tuned weights, except the bytes of the student's file."""
        entry = self.settings.data[data]
        shaping = {
            "name": data,
            "data": self.fine_tuning_data(data),
            "recipe": self.experiment.recipes[entry.recipe],
            "epochs": entry.epochs,
            "seed": seed,
            "evaluation_split": self.experiment.evaluation_split,
        }
        return to_plain(shaping)

    # ---- what it gives -----------------------------------------------------------------------

    def build(self) -> Document:
        from benchmarks.transfer.table import build

        return build(self)
