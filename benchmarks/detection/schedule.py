"""How long detectors are trained: the first of several schedules after which AP rises no more.

AP along one schedule flattens whatever its length, since the learning rate falls to zero; so
schedules of several lengths are run, each as a detector of its own, and their ends are compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.detection import Detection
from benchmarks.evidence.document import Document
from benchmarks.evidence.study import FIGURES, Study, StudySettings
from benchmarks.evidence.words import in_epochs
from manifold.errors import UserError
from manifold.settings import Students
from manifold.settings.messages import refuse_doubles
from manifold.settings.section import Positive

if TYPE_CHECKING:  # not needed to plan
    import pandas as pd


class ScheduleSettings(StudySettings):
    """The grid of the detectors' schedules."""

    schedules: dict[str, list[str]]
    """name: entries of detection.detectors that differ in their epochs alone."""
    least_rise: Positive
    """Points of AP: a longer schedule that brings less is not taken."""


class Schedule(Study):
    """How long are detectors trained?"""

    name = "detection_schedule"
    title = "Schedules of the detectors"
    question = "After how many epochs does a detector's AP on validation scenes rise no more?"
    Settings = ScheduleSettings
    suffixes = (".md", ".csv", *FIGURES)
    shown = ("The choice",)
    needs = ("detection",)
    is_evidence = False

    @property
    def target(self) -> str:
        return "choose_detection_schedule"

    @property
    def detection(self) -> Detection:
        return self.experiment.studies["detection"]

    def check(self) -> None:
        experiment = self.experiment
        for name, entries in self.settings.schedules.items():
            where = f"detection_schedule.schedules.{name}"
            refuse_doubles(where, entries)
            if len(entries) < 2:
                raise UserError(f"{where} must name two detectors at least, got {entries}")
            for entry in entries:
                experiment.check_known(where, entry, experiment.detection.detectors)
        if experiment.evaluation_split != "validation":
            raise UserError(
                f"scale {experiment.scale!r} is no choice: the section 'detection_schedule' needs "
                "evaluation_split: validation"
            )

    def preflight(self) -> None:
        """Read the detectors of each schedule.

        Raises:
            UserError: two of them are trained for as long, or differ in more than that.
        """
        from benchmarks.detection.configuration import read_settings

        for name, entries in self.settings.schedules.items():
            where, first, lengths = f"detection_schedule.schedules.{name}", None, {}
            for entry in entries:
                settings = read_settings(self.experiment, entry).to_dict()
                epochs = settings["train_cfg"].pop("max_epochs", None)
                if epochs is None or epochs in lengths:
                    raise UserError(
                        f"{where}: {entry} has train_cfg.max_epochs {epochs}"
                        + (f", as {lengths[epochs]} has" if epochs in lengths else "")
                        + "; give each its own number of epochs"
                    )
                lengths[epochs], first = entry, first or settings
                others = [key for key in first | settings if first.get(key) != settings.get(key)]
                if others:
                    raise UserError(
                        f"{where}: {entry} differs from {entries[0]} in {', '.join(others)} too; "
                        "a schedule's detectors may differ in train_cfg.max_epochs alone"
                    )

    def students(self) -> Students:
        return self.detection.students()

    def results(self) -> list[Path]:
        return self.detection.results()

    def build(self) -> Document:
        import pandas as pd

        from benchmarks.detection.data import title_of
        from benchmarks.detection.figure import draw_curve
        from benchmarks.detection.table import collect

        self.detection.sources = self.sources
        rows = pd.DataFrame(
            {
                "schedule": name,
                "detector": entry,
                "epochs": record["epochs"],
                "kind": kind,
                "backbone": backbone,
                "seed": seed,
                "validation_ap": result["ap"],
            }
            for name, entries in self.settings.schedules.items()
            for entry in entries
            for backbone, records in collect(self.detection, entry).items()
            for seed, record in records.items()
            for kind, result in record["result"].items()
        )
        means = rows.groupby(["schedule", "kind", "epochs"], sort=False)["validation_ap"].mean()
        shown = rows.pivot_table(
            index=["schedule", "kind", "epochs"], columns="backbone", values="validation_ap"
        )
        shown["mean"] = means
        names = {"schedule": "detector", "epochs": "epoch", "backbone": "method"}
        drawn = rows.drop(columns="detector").rename(columns={**names, "validation_ap": "ap"})
        drawn["title"] = [title_of(self.experiment, method) for method in drawn["method"]]
        return Document(
            title=f"{self.title}, {self.experiment.name}",
            caption="AP on the validation scenes (%) after schedules of several lengths, mean over "
            f"seeds {', '.join(map(str, self.detection.seeds))}; the test scenes were not looked "
            "at. The rule: the first length that no longer one is ahead of by "
            f"{self.settings.least_rise:g} in AP, in the mean over backbones and seeds, of boxes "
            "and of masks.",
            parts=[
                shown.map("{:.2f}".format).reset_index(),
                "## The choice",
                [in_words(name, own, self.settings.least_rise) for name, own in _by_name(means)],
            ],
            csv={"": rows},
            figures={"": lambda caption: draw_curve(drawn, caption, "Epochs of the schedule")},
        )


def _by_name(means: pd.Series) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each schedule's mean AP, a column a kind, the shortest first."""
    for name, own in means.groupby("schedule", sort=False):
        yield name, own.droplevel("schedule").unstack("kind").sort_index()


def chosen(ap: pd.DataFrame, least_rise: float) -> int | None:
    """The first number of epochs that no larger one leads by as much, of every kind of AP.

    Args:
        ap: mean AP, indexed by epochs, the fewest first; a column a kind.

    Returns:
        None where AP rises still from the last number but one to the last.
    """
    best_of_longer = ap.iloc[::-1].cummax().iloc[::-1].shift(-1)
    rises = (best_of_longer - ap).iloc[:-1]
    ended = rises.index[(rises < least_rise).all(axis="columns")]
    return None if ended.empty else int(ended[0])


def in_words(name: str, ap: pd.DataFrame, least_rise: float) -> str:
    """The outcome of the rule."""
    epochs = chosen(ap, least_rise)
    if epochs is None:
        return (
            f"{name}: AP rises still at {in_epochs(ap.index[-1])}; no length of the grid is enough"
        )
    return f"{name}: {in_epochs(epochs)}"
