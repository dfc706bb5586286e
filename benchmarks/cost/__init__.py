"""What the methods cost: the paper's losses against the batch, a step of every method, cohorts.

Times are of this machine. What travels are their ratios, each taken within one interleaved run.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from benchmarks.evidence.document import Document
from benchmarks.evidence.study import FORMATS, Job, Study, StudySettings
from manifold.errors import UserError
from manifold.settings import Section
from manifold.settings.section import Count

Batches = Annotated[list[Count], Field(min_length=2)]  # a line has two ends


class LossShapes(Section):
    """One pair of layers, whose tokens are drawn; float32, forward and backward."""

    tokens: Count
    """Of an image (the paper's N)."""
    student_channels: Count
    """Of each of the student's tokens."""
    teacher_channels: Count
    """Of each of the teacher's tokens."""
    samples: Count
    """Tokens of the random term (the paper's K)."""
    batches: Batches
    """Images of a batch (the paper's B), one measurement each."""
    most_pairwise: Count
    """The largest batch for which all pairs of tokens are formed: that takes (B·N)² numbers."""
    rounds: Count
    """Times that every form is measured, one after another."""

    @model_validator(mode="after")
    def _has_a_pairwise_row(self) -> Self:
        if self.most_pairwise < min(self.batches):
            raise UserError(
                f"most_pairwise is {self.most_pairwise}, and the smallest of the batches "
                f"{min(self.batches)}: the pairwise form, which the others are held to, would have "
                "no row"
            )
        return self


class StepShapes(Section):
    """Whole steps, with drawn images and teachers of random weights."""

    pair: str
    """Of all methods."""
    recipe: str
    """Of all methods."""
    images: Count
    """Of a step that is timed, in place of the recipe's batch."""
    memory_images: Count
    """Of a step whose memory is measured, once: it may be the batch that a process trains with."""
    classes: Count
    """Of the drawn targets."""
    methods: list[str]
    """Whose steps are measured."""
    baseline: str
    """A step of every other method is shown over one of this."""
    members: Annotated[list[Count], Field(min_length=1)]
    """Sizes of the cohorts that are measured: so many of the methods, from the first on."""
    teacher_precisions: Annotated[
        list[Literal["float32", "bfloat16", "float16"]], Field(min_length=1)
    ]
    """Of weights and images in the teacher's pass alone, each measured beside the first."""
    rounds: Count
    """Times that every method and cohort is measured, one after another."""
    product: Count
    """Side of two square matrices whose product says how fast the machine multiplies."""
    profiled: Count
    """Size of the cohort whose operators are timed one by one."""
    operators: Count
    """Of these, how many are shown, the longest first; the rest is one row."""

    @model_validator(mode="after")
    def _can_be_run(self) -> Self:
        if self.baseline not in self.methods:
            raise UserError(f"baseline {self.baseline!r} is none of cost.steps.methods")
        if too_many := [size for size in self.members if size > len(self.methods)]:
            raise UserError(
                f"members holds {too_many[0]}, and there are {len(self.methods)} methods"
            )
        if self.profiled > len(self.methods):
            raise UserError(
                f"profiled is {self.profiled}, and there are {len(self.methods)} methods"
            )
        return self


class CostSettings(StudySettings):
    """Time and memory of losses, steps and cohorts."""

    losses: LossShapes
    """Of the paper's losses."""
    steps: StepShapes
    """Of a step of every method."""


class Cost(Study):
    """What does the manifold loss cost, and what does a cohort save?"""

    name = "cost"
    title = "Cost"
    question = "What do the losses, the methods and a cohort cost in time and memory?"
    Settings = CostSettings
    suffixes = (*FORMATS, "_rounds.csv")
    is_evidence = False  # times of a machine, which are asked for when nothing else runs on it

    def check(self) -> None:
        experiment, steps = self.experiment, self.settings.steps
        experiment.check_known("cost.steps.pair", steps.pair, experiment.pairs)
        experiment.check_known("cost.steps.recipe", steps.recipe, experiment.recipes)
        experiment.check_methods("cost.steps.methods", steps.methods)

    @classmethod
    def with_methods(cls, section: dict, own: list[str], given: dict) -> dict:
        steps, listed = section.get("steps"), given.get("steps")
        if not isinstance(steps, dict):
            return section
        listed = listed if isinstance(listed, dict) else {}
        return {**section, "steps": super().with_methods(steps, own, listed)}

    def measured_file(self, part: str) -> Path:
        """The file of a job's measurements."""
        return self.experiment.directory / "cost" / f"{part}.json"

    def jobs(self) -> list[Job]:
        experiment, steps = self.experiment, self.settings.steps
        measured = steps.replaced(baseline="", operators=1)  # which the table reads
        methods = [experiment.method_definitions[name].unnamed() for name in steps.methods]
        setting = [experiment.pairs[steps.pair], experiment.recipes[steps.recipe], methods]
        machine = experiment.machine.replaced(jobs_per_gpu=1, gres=None, checkpoint_seconds=0.0)
        shape = experiment.data.image_shape
        return [
            Job(
                "losses",
                run="benchmarks.cost.losses:run",
                message="Measuring the losses; leave the machine to it",
                outputs=("cost/losses.json",),
                identity=lambda: [self.settings.losses, machine],
            ),
            Job(
                "steps",
                run="benchmarks.cost.steps:run",
                message="Measuring steps and cohorts; leave the machine to it",
                outputs=("cost/steps.json",),
                inputs=lambda: [self.measured_file("losses")],  # neither disturbs the other
                identity=lambda: [measured, setting, shape, machine],
            ),
        ]

    def results(self) -> list[Path]:
        return [self.measured_file(part) for part in ("losses", "steps")]

    def build(self) -> Document:
        from benchmarks.cost.figure import draw
        from benchmarks.cost.table import in_words, measure, readable

        found = measure(self)
        losses, steps, cohorts, operators = readable(found)
        return Document(
            title=f"{self.title}, {self.experiment.name}",
            caption=found.caption,
            parts=[
                "## Losses",
                losses,
                "## A step of a method",
                steps,
                "## Cohorts",
                cohorts,
                f"## Where a step of the cohort of {self.settings.steps.profiled} goes",
                operators,
                "## In words",
                in_words(found),
            ],
            csv={"": found.rows, "_rounds": found.rounds},
            latex=[
                (losses, "Losses. "),
                (steps, "Steps. "),
                (cohorts, "Cohorts. "),
                (operators, "Operators. "),
            ],
            figures={"": lambda caption: draw(found, caption)},
        )
