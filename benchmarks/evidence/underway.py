"""The jobs of a folder of results that have begun and not ended, from its files alone.

A job of a run has its log and lacks outputs (``asked.json`` names both). What was started by hand
is known by its checkpoint: of ``manifold train`` and of segmenters a file, of a detector the folder
of mmengine.
"""

import json
import re
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.evidence.asked import Asked, read_asked
from benchmarks.evidence.events import Curves, cohort_of, of_checkpoint
from manifold.errors import last_error
from manifold.settings import Experiment
from manifold.training.progress import SECONDS_BETWEEN_LINES

SILENT = 8 * SECONDS_BETWEEN_LINES  # of a log: after that its job has stopped, or waits
RUN = re.compile(r"(?P<of>.+)-seed-(?P<seed>\d+)")  # the name of a segmenter's or detector's state
DETECTION = "detection"
CURVE_FILE = "validation.json"  # of a detector's AP by epoch; mmdet, which writes it, may be absent
# A line of manifold/training/progress.py.
LINE = re.compile(
    r"(?P<what>.+?)(?: \[epoch (?P<epoch>\d+)/(?P<epochs>\d+)\])?: (?P<done>\d+)/(?P<total>\d+) "
    r"(?P<unit>\w+), (?P<rate>[\d.]+) (?:\w+/s|(?P<inverse>s/\w+)), "
    r"(?:took [^,]+|[^,]+ left)(?:, .*)?"
)


@dataclass(frozen=True)
class Pace:
    """How far a task is, as the last line of its progress says.

    Attributes:
        done, total: of the whole training, where the line is of one of its epochs.
        units: what is counted.
        left: seconds to the end, at this pace; of a training its validations are not in it.
    """

    what: str
    done: int
    total: int
    units: str
    left: float


@dataclass
class Job:
    """A job that has begun and not ended.

    Attributes:
        done, total: of its units; None where nothing tells.
        left: seconds to its last step, at its pace so far; None before there is a pace.
        accuracies: of each member the last one on validation images, in percent, in words.
        said: the last line of its log.
        silent: seconds since the log, or the checkpoint, was written.
        curves: a row of metrics an epoch, by the run's name.
    """

    name: str
    said: str
    silent: float
    done: int | None = None
    total: int | None = None
    units: str = "steps"
    left: float | None = None
    task: str = ""
    accuracies: dict[str, str] = field(default_factory=dict)
    curves: Curves = field(default_factory=dict)

    def take(self, pace: Pace | None) -> None:
        """Take what the log says of the pace, unless the checkpoint is further."""
        if pace is None or (pace.units == "steps" and pace.done < (self.done or 0)):
            return
        self.done, self.total, self.units = pace.done, pace.total, pace.units
        self.left, self.task = pace.left, pace.what


def running(experiment: Experiment) -> list[Job]:
    """The jobs that have begun and not ended: those with a checkpoint, and what logs tell of."""
    folder = experiment.directory
    logs, asked = _logs(folder), read_asked(folder)
    jobs, told = [], set()
    for state in _states(folder / "state"):
        job, own = _of_state(experiment, state, logs, asked)
        told |= set(own)
        jobs.append(job)
    for log in logs:  # before the first checkpoint, and jobs that keep none
        if log not in told and _has_begun(folder, log, asked):
            text = text_of(log)
            job = Job(log.stem, _last_line(text), _age(log))
            job.take(pace_of(text))
            jobs.append(job)
    return jobs


def pace_of(log: str) -> Pace | None:
    """What the last line of progress in a log says; None where there is none."""
    lines = (LINE.fullmatch(line) for line in reversed(log.splitlines()))
    found = next(filter(None, lines), None)
    if found is None:
        return None
    done, total, rate = int(found["done"]), int(found["total"]), float(found["rate"])
    if found["epoch"]:
        done += (int(found["epoch"]) - 1) * total
        total *= int(found["epochs"])
    seconds = rate if found["inverse"] else 1 / rate if rate else 0.0
    return Pace(found["what"], done, total, found["unit"], (total - done) * seconds)


def _has_begun(folder: Path, log: Path, asked: Asked | None) -> bool:
    """Whether a log is of a job that has begun and not ended."""
    name = str(log.relative_to(folder))
    if asked is None or name not in asked.jobs:  # it was started by hand, or long ago
        last = LINE.fullmatch(_last_line(text_of(log)))
        return _age(log) < SILENT and last is not None and " left" in last[0]
    is_of_this_run = _time_of(log) >= asked.at
    return is_of_this_run and not asked.is_done(folder, name) and not last_error(text_of(log))


# ---- checkpoints -----------------------------------------------------------------------------


def _states(folder: Path) -> list[Path]:
    """The checkpoints, and the folders in which mmengine keeps a detector's."""
    detectors = folder / DETECTION
    files = [path for path in folder.rglob("*.pt") if not path.is_relative_to(detectors)]
    return sorted([*files, *(path for path in detectors.glob("*/*") if path.is_dir())])


def _name_of_log(place: Path) -> str:
    """A pattern of the name of a checkpoint's log, as the workflow gives it.

    Args:
        place: below the folder of states, without its suffix.
    """
    if cohort := cohort_of(place):
        pair, recipe, epochs, seed = cohort
        return rf"cohort-\d+-{re.escape(f'{pair}-{recipe}-{epochs}-seed-{seed}')}"
    match place.parts:
        case pair, "teacher":
            return re.escape(f"teacher-{pair}")
        case "segmentation", file if found := RUN.fullmatch(file):
            method = re.sub("^(frozen|fine-tuned)-", "", found["of"])
            return re.escape(f"segmentation-train-{method}-{found['seed']}")
        case "detection", file, _ if found := RUN.fullmatch(file):
            return re.escape(f"detection-train-{found['of']}-{found['seed']}")
        case "transfer", data, file if file.startswith("seed-"):  # and -SEED-HASH
            return re.escape(f"transfer-fine-tuning-{data}-{file.split('-')[1]}")
    return re.escape(place.name)  # of another study


def _of_state(
    experiment: Experiment, path: Path, logs: list[Path], asked: Asked | None
) -> tuple[Job, list[Path]]:
    """The job of a checkpoint, and its logs among all of the folder, the newest last."""
    folder = experiment.directory
    place = path.relative_to(folder / "state").with_suffix("")
    is_detector = place.parts[0] == DETECTION
    state = None if is_detector else _checkpoint(path)
    name = _name_of_log(place)
    own = [log for log in logs if re.fullmatch(name, log.stem)]
    if isinstance(state, dict) and asked is not None:
        # A seed that is cut has several cohorts, whose logs have one name but for a number; of a
        # cohort that was there in part, what is missing alone is trained.
        names = {log: asked.trains(str(log.relative_to(folder))) for log in own}
        own = [log for log in own if not names[log] or names[log].intersection(_names(state))]
    log = own[-1] if own else None
    text = "" if log is None else text_of(log)
    job = Job(str(place), _last_line(text), _age(log or path))
    if is_detector:
        job.name = str(place.parent)
        _take_detector(job, path, log)
    elif isinstance(state, dict):
        _take_checkpoint(job, experiment, state, place)
    else:
        job.said = job.said or state
    job.take(pace_of(text))
    return job, own


def _names(state: dict[str, Any]) -> set[str]:
    """The methods that a checkpoint holds; none of a segmenter's."""
    return set(state["rows"]) if isinstance(state["rows"], dict) else set()


def _checkpoint(path: Path) -> dict[str, Any] | str:
    """What a checkpoint says of step, metrics and time; the error's name where it says nothing."""
    import torch

    try:  # mapped: of its tensors nothing is read
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return {key: state[key] for key in ("step", "rows", "wall_seconds")}
    except Exception as error:  # it has just ended, or is damaged in one of many ways
        return type(error).__name__


def _take_checkpoint(job: Job, experiment: Experiment, state: dict[str, Any], place: Path) -> None:
    step, rows, seconds = state["step"], state["rows"], state["wall_seconds"]
    job.done, members = step, rows if isinstance(rows, dict) else {"": rows}  # of a segmenter
    last = {method: own[-1] for method, own in members.items() if own}
    job.accuracies = {
        method: f"{row['validation_top1']:.2f}"
        for method, row in last.items()
        if row.get("validation_top1") is not None
    }
    if last and (epochs := _epochs(experiment, place)) is not None:
        row = next(iter(last.values()))
        job.total = row["step"] // row["epoch"] * epochs
        job.left = seconds / step * (job.total - step) if step else None
    if isinstance(rows, dict):
        job.curves = of_checkpoint(place, rows)


def _epochs(experiment: Experiment, place: Path) -> int | None:
    """Of the whole training that a checkpoint is of; None where the configuration knows none."""
    studies = experiment.studies
    if cohort := cohort_of(place):
        return cohort[2]
    with suppress(KeyError):
        match place.parts:
            case pair, "teacher":
                return experiment.pairs[pair].teacher.epochs
            case "segmentation", file:
                protocol = "frozen" if file.startswith("frozen-") else "fine-tuned"
                return studies["segmentation"].recipe_of(protocol).epochs
            case "transfer", data, _:
                return studies["transfer"].settings.data[data].epochs
    return None


def _take_detector(job: Job, folder: Path, log: Path | None) -> None:
    """Take the step that mmengine has logged last, and the AP of the last epoch."""
    logs = sorted(folder.glob("*/vis_data/scalars.json"), key=_time_of)
    if log is None and logs:
        job.silent = _age(logs[-1])
    rows = (row for path in logs for row in _rows(text_of(path)))
    steps = [row["step"] for row in rows if "loss" in row and "step" in row]
    job.done = steps[-1] if steps else None
    with suppress(ValueError, IndexError, TypeError, AttributeError):  # none, or one that is cut
        last = json.loads(text_of(folder / CURVE_FILE))[-1]
        job.accuracies = {
            f"AP ({kind}) after epoch {last['epoch']}": f"{value:.2f}"
            for kind, value in last.items()
            if kind != "epoch"
        }


def _rows(text: str) -> list[dict[str, Any]]:
    """The whole lines of mmengine's log."""
    rows = []
    for line in text.splitlines():
        with suppress(ValueError):  # it is being written
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict)]


# ---- files -----------------------------------------------------------------------------------
# A job may take a file away between our listing it and reading it.


def _logs(folder: Path) -> list[Path]:
    """The logs, the newest last."""
    return sorted((folder / "logs").glob("*.txt"), key=lambda path: (_time_of(path), path))


def text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.split("\n")) if line.strip()), "")


def _time_of(path: Path) -> float:
    """When a file was written; now, of one that is gone."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()


def _age(path: Path) -> float:
    """Seconds since a file was written; 0 of one that is gone."""
    return max(0.0, time.time() - _time_of(path))
