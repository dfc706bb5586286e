"""What a study declares. Targets, rules, formats, publishing and docs follow from it alone.

A study is one module or package with a class that derives from ``Study``, and one section of a
scale whose key ``study`` names that class as ``module:Class``. The module may stand anywhere that
Python finds it. Planning imports it, so what is slow to import (torch, mmdet, matplotlib) is
imported by the functions that need it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Literal

from benchmarks.evidence.document import Document
from benchmarks.evidence.provenance import Sources
from benchmarks.evidence.registered import Primary, Registered, registered, words
from manifold.errors import UserError
from manifold.settings import CELL_FILES, Experiment, Section, Students, unknown
from manifold.settings.data_files import files_digest
from manifold.settings.made_by import read_record
from manifold.settings.recorded import RECORDS, Key, record_path, recorded
from manifold.settings.section import WholeNumber
from manifold.settings.stale import code_of_job, planned_data, tell_code_of_job
from manifold.training.command import limit_threads

FIGURES = (".png", ".pdf", ".svg")
FORMATS = (".md", ".csv", ".tex", *FIGURES)


class StudySettings(Section):
    """The section of a study."""

    study: str
    """module:Class of the file that declares it."""


class SeededSettings(StudySettings):
    """The section of a study that may have other seeds than the rest."""

    seeds: list[WholeNumber] | None = None
    """Of its students and jobs, two at least; null: those of all studies."""


@dataclass(frozen=True)
class Job:
    """What a study has done beside the training of its students.

    Wildcards are what stands in braces in ``outputs``; functions get them by name, ``seed`` as an
    integer.
    """

    name: str
    run: str
    """``module:function``, called with the experiment and the wildcards."""
    message: str
    outputs: tuple[str, ...]
    """Patterns of files below the experiment's folder."""
    identity: Callable[..., Any]
    """What shapes the outputs beside the inputs' bytes: another one plans the job again."""
    inputs: Callable[..., list[Path]] = lambda **_: []
    data_files: Callable[..., str | None] = lambda **_: None
    """The digest of the files of data that it reads, which its records hold too."""
    processes: Literal["as trainings", "one", "none on a GPU"] = "none on a GPU"
    method: str | None = None
    """Of config/methods.yaml, where the job makes cells of it; by default ``run`` makes results."""
    is_local: bool = False
    """Done where Snakemake runs, and not submitted to a cluster."""
    is_folder: bool = False
    """The one output is a folder."""
    priority: int = 0
    threads: int | None = None
    """Of the CPU; by default those of a process of the machine."""


class Study:
    """A question, the students that answer it, and how the answer is shown.

    Args:
        experiment: the whole configuration.
        settings: the study's own section of it.
    """

    name: ClassVar[str]
    """Of its files: ``NAME.md`` and so on."""
    title: ClassVar[str]
    question: ClassVar[str]
    """What it claims to answer, in one sentence."""
    Settings: ClassVar[Any] = StudySettings
    suffixes: ClassVar[tuple[str, ...]] = (*FORMATS, "_seeds.csv")
    """Of all files that ``build`` fills."""
    shown: ClassVar[tuple[str, ...] | None] = ("In words",)
    """Sections of ``NAME.md`` that the docs show below its caption; None: all."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Sections without which there is nothing to do; where one is null, the study falls away."""
    taken_away_by_null: ClassVar[tuple[str, ...]] = ()
    """Keys of the section whose entries a null takes away."""
    measured: ClassVar[str | None] = None
    """The column of ``NAME_seeds.csv``, in percent, that two folders of results are compared by;
    beside it stand ``seed``, ``fingerprint`` and ``git_commit`` of each run. None: they are not."""
    row_names: ClassVar[tuple[str, ...]] = (
        *("data", "protocol", "shots", "detector", "kind", "group", "variant"),
        *("pair", "recipe", "epochs", "method"),
    )
    """The columns of ``NAME_seeds.csv`` that name a row, as far as it has them."""
    tests: ClassVar[tuple[Primary, ...]] = ("paired",)
    """Those that its table has: what may be registered as the one that decides."""
    is_evidence: ClassVar[bool] = True
    """Whether ``all`` makes it; choices and rehearsals are asked for by name."""

    def __init__(self, experiment: Experiment, settings: Any):
        self.experiment = experiment
        self.settings = settings
        self.sources = Sources()

    # ---- what it needs -----------------------------------------------------------------------

    def check(self) -> None:
        """Refuse settings that the types allow and no run can use.

        Raises:
            UserError: names the key.
        """

    def preflight(self) -> Any:
        """Refuse, before any compute, what would stop the study at its end: data of its own first.

        Returns:
            What was found, as plain types; ``preflight.json`` keeps it.

        Raises:
            UserError: names the file and the key.
        """

    def students(self) -> Students:
        """The methods whose students it needs, by pair, recipe and budget."""
        return {}

    @property
    def seeds(self) -> list[int]:
        """Of its students and jobs: the section's own, or those of all studies."""
        return getattr(self.settings, "seeds", None) or self.experiment.seeds

    @property
    def runs(self) -> dict[str, Any]:
        """What of the study may be registered before it is run."""
        return {**vars(self.settings), "seeds": self.seeds}

    @property
    def registered(self) -> Registered | None:
        """What was said of the study before it was run, if anything was.

        Raises:
            UserError: it cannot be read, or names a test that the study does not have.
        """
        said = registered(self.experiment, self.name)
        if said is not None and said.primary not in self.tests:
            raise UserError(
                f"{self.experiment.registered}: {self.name}.primary: this study has no test "
                f"{said.primary!r}; it is one of {', '.join(self.tests)}"
            )
        return said

    @property
    def primary(self) -> Primary:
        """The test that decides."""
        return "paired" if self.registered is None else self.registered.primary

    def listed_or_table1s(self, listed: list[str] | None, pair: str, baseline: str) -> list[str]:
        """The methods that a section lists, or Table 1's with the baseline, that a pair is for."""
        if listed is None:
            own = self.experiment.methods
            listed = own if baseline in own else [baseline, *own]
        return self.experiment.methods_of(pair, listed)

    def teachers(self) -> list[str]:
        """The pairs whose teacher's accuracy it shows."""
        return []

    def reads(self) -> list[Path]:
        """Files that it reads beside cells and its jobs' results."""
        return []

    def jobs(self) -> list[Job]:
        """What has to be done beside training."""
        return []

    def results(self) -> list[Path]:
        """The files of its jobs that the table is made from."""
        return []

    def identity(self) -> Any:
        """What shapes the table beside the files that it reads."""
        experiment = self.experiment
        methods = list(dict.fromkeys(m for listed in self.students().values() for m in listed))
        return {
            "settings": self.settings,
            "seeds": self.seeds,
            "statistics": experiment.statistics,
            "registered": self.registered,
            "description": experiment.description,
            "reported_dataset": experiment.reported_dataset,
            "methods": [[m, experiment.method_definitions[m]] for m in methods],  # in this order
            "pairs": {pair: experiment.pairs[pair] for pair, _, _ in sorted(self.students())},
        }

    def planned_files(self, record: Path) -> list[str]:
        """The digest of the files of the experiment's own data, where another one plans again.

        Args:
            record: of what is made of them.
        """
        now = files_digest(self.experiment.data, self.experiment.results)
        planned = planned_data(read_record(record), now)
        return [] if planned is None else [planned]

    @classmethod
    def with_methods(cls, section: dict, own: list[str], given: dict) -> dict:
        """The section with the user's own methods in it, unless the user lists methods there.

        Args:
            section: as configured.
            own: names of the user's own methods.
            given: what of the section the user gave.
        """
        listed = section.get("methods")
        if "methods" in given or not isinstance(listed, list):
            return section
        return {**section, "methods": [*listed, *(name for name in own if name not in listed)]}

    # ---- what it gives -----------------------------------------------------------------------

    def build(self) -> Document:
        """Read what has been made, and compute the document.

        Raises:
            UserError: something is missing, damaged, or of another configuration.
        """
        raise NotImplementedError

    def document(self) -> Document:
        """``build``, with what all captions say: the registration, and runs of other code.

        Raises:
            UserError: what ``build`` raises; or runs were made on other data than the rest.
        """
        self.sources = Sources()
        document = self.build()
        self.sources.refuse_mixed_data()
        for more in (words(self.experiment, self.name, self.runs), self.sources.words()):
            document.caption += f" {more}" if more else ""
        return document

    def write(self) -> None:
        """Write every format into the experiment's folder.

        Raises:
            UserError: what ``document`` raises; or a figure cannot be drawn.
        """
        self.document().write(self.experiment.directory, self.name)

    def do(self, name: str, words: list[str]) -> None:
        """Do one of the study's jobs.

        Args:
            words: the values of its wildcards, as ``name=value``.

        Raises:
            UserError: there is no such job, or its wildcards are others.
        """
        jobs = {job.name: job for job in self.jobs()}
        if name not in jobs:
            raise unknown(f"python -m benchmarks {self.name}", name, jobs)
        given = dict(word.split("=", 1) for word in words if "=" in word)
        wanted = re.findall(r"{(\w+)}", " ".join(jobs[name].outputs))
        is_number = re.fullmatch(r"\d+", given.get("seed", "0"))
        if set(given) != set(wanted) or len(given) != len(words) or not is_number:
            raise UserError(
                f"python -m benchmarks {self.name} {name} takes "
                f"{' '.join(f'{key}=…' for key in dict.fromkeys(wanted)) or 'nothing'}, got "
                f"{' '.join(words) or 'nothing'}"
            )
        module, _, function = jobs[name].run.partition(":")
        work = getattr(import_module(module), function)
        made_by = code_of_job(self.experiment, module, jobs[name].method)  # that this process runs
        limit_threads(self.experiment)
        work(self.experiment, **typed(given))
        outputs = [self.experiment.directory / each.format(**given) for each in jobs[name].outputs]
        tell_code_of_job(module, outputs, made_by)

    # ---- what follows ------------------------------------------------------------------------

    @property
    def target(self) -> str:
        return f"reproduce_{self.name}"

    def files(self) -> list[Path]:
        """The files that ``build`` fills."""
        suffixes = [suffix for suffix in self.suffixes if suffix not in self.absent()]
        return [self.experiment.directory / f"{self.name}{suffix}" for suffix in suffixes]

    def absent(self) -> set[str]:
        """Those of ``suffixes`` for which there is nothing to write, as it is configured."""
        return set()

    def needed(self) -> list[Key]:
        """Of every cell that it needs."""
        return [
            (*training, method, seed)
            for training, methods in self.students().items()
            for method in methods
            for seed in self.seeds
        ]

    def cells(self) -> list[Path]:
        """The files of every cell that it needs; its record, where that is all that is here."""
        experiment, paths = self.experiment, []
        for key in self.needed():
            if recorded(experiment, key) is not None:
                paths.append(record_path(experiment.directory / RECORDS, key))
            else:
                paths += [experiment.cell_directory(*key) / name for name in CELL_FILES]
        return paths

    def collect(
        self, pair: str, recipe: str, epochs: int, methods: list[str] | None = None
    ) -> dict[str, dict[int, dict]]:
        """The records of cells, by method and seed; their sources are remembered.

        Raises:
            UserError: a cell is missing, damaged, or of another configuration.
        """
        from benchmarks.evidence.cells import collect
        from benchmarks.evidence.words import in_epochs

        records = collect(self.experiment, pair, recipe, epochs, methods, self.seeds)
        for method, runs in records.items():
            for seed, record in runs.items():
                row = f"{method}, {pair}, recipe {recipe}, {in_epochs(epochs)}"
                self.sources.add(row, method, seed, record)
        return records


def typed(wildcards: dict[str, str]) -> dict[str, Any]:
    """The values of wildcards, seeds as integers."""
    return {key: int(text) if key == "seed" else text for key, text in wildcards.items()}
