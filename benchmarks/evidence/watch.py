"""What runs, how far, how long still and at what accuracy: ``python -m benchmarks watch``.

It reads the files of the results' folder alone (records, checkpoints, logs), so it may stand on any
machine that sees them, also while a cluster does the work. ``--every 10`` shows it anew every ten
seconds, until it is interrupted. No training notices, and nothing is written, but with
``--tensorboard FOLDER`` the curves, for ``tensorboard --logdir FOLDER``.
"""

import re
import sys
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from benchmarks.evidence.events import Curves, Events, of_checkpoint
from benchmarks.evidence.records import keys
from benchmarks.evidence.runs import Runs, read_runs
from benchmarks.evidence.words import MISSING
from manifold.errors import UserError, last_error
from manifold.settings import Experiment
from manifold.training import command
from manifold.training.progress import SECONDS_BETWEEN_LINES, duration

SILENT = 8 * SECONDS_BETWEEN_LINES  # of a log: after that its job has stopped, or waits
SEGMENTER = re.compile(r"(frozen|fine-tuned)-(?P<method>.+)-seed-(?P<seed>\d+)")  # a checkpoint's
CLEAR = "\x1b[2J\x1b[H"  # of a terminal


@dataclass
class Job:
    """A training that has begun and not ended.

    Attributes:
        step, steps: of its last checkpoint; 0 before the first one.
        left: seconds to its last step, at its pace so far; None before a checkpoint.
        top1: of each member the last validation accuracy in percent.
        said: the last line of its log.
        silent: seconds since the log, or the checkpoint, was written.
        curves: a row of metrics an epoch, by the run's name.
    """

    name: str
    step: int
    steps: int | None
    left: float | None
    top1: dict[str, float]
    said: str
    silent: float
    curves: Curves = field(default_factory=dict)


def look(experiment: Experiment, events: Events | None = None) -> str:
    """What the files say now.

    Args:
        events: the curves are added there.

    Raises:
        UserError: the folder is not there.
    """
    folder = experiment.directory
    if not folder.is_dir():
        raise UserError(f"{folder}: nothing has been started there; give the --config of the run")
    found, jobs = read_runs(folder), running(folder)
    if events is not None:
        events.add_finished(experiment, found)
        for job in jobs:
            events.add(job.curves)
    parts = [_done(experiment, found), *map(_in_words, jobs)]
    parts += [f"FAILED {name}: {error}" for name, error in _errors(folder)]
    return "\n".join([*parts, *(f"left out: {fault}" for fault in found.faults)])


def running(folder: Path) -> list[Job]:
    """Trainings that have begun and not ended: those with a checkpoint, and what logs tell of."""
    logs = _logs(folder)
    states = sorted((folder / "state").rglob("*.pt"))
    jobs, told = [], set()
    for state in states:
        name = _name_of_log(state.relative_to(folder / "state"))
        own = [log for log in logs if re.fullmatch(name, log.stem)]
        told |= set(own)
        jobs.append(_of_checkpoint(folder, state, own[-1] if own else None))
    for log in logs:  # the first minute of a training, and jobs that keep no checkpoint
        if log not in told and (line := _last_line(log)).endswith(" left") and _age(log) < SILENT:
            jobs.append(Job(log.stem, 0, None, None, {}, line, _age(log)))
    return jobs


def _name_of_log(state: Path) -> str:
    """A pattern of the name of a checkpoint's log, as the workflow gives it.

    Args:
        state: below the folder of states.
    """
    match state.with_suffix("").parts:
        case pair, "teacher":
            return re.escape(f"teacher-{pair}")
        case "segmentation", file if found := SEGMENTER.fullmatch(file):
            return re.escape(f"segmentation-train-{found['method']}-{found['seed']}")
        case "transfer", data, file:  # seed-SEED-HASH
            return re.escape(f"transfer-fine-tuning-{data}-{file.split('-')[1]}")
        case pair, recipe, epochs, file:  # the same
            of = f"{pair}-{recipe}-{epochs.removesuffix('-epochs')}-{file.rpartition('-')[0]}"
            return rf"cohort-\d+-{re.escape(of)}"
    return re.escape(state.stem)


def _of_checkpoint(folder: Path, path: Path, log: Path | None) -> Job:
    import torch

    place = path.relative_to(folder / "state").with_suffix("")
    name = str(place)
    said, silent = ("", _age(path)) if log is None else (_last_line(log), _age(log))
    try:  # mapped: of its tensors nothing is read
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        step, rows, seconds = state["step"], state["rows"], state["wall_seconds"]
    except Exception as error:  # it has just ended, or is damaged in one of many ways
        return Job(name, 0, None, None, {}, f"{said or type(error).__name__}", silent)
    if not isinstance(rows, dict):  # of a segmenter: rows of its own kind, and no cohort
        return Job(name, step, None, None, {}, said, silent)
    last = {method: own[-1] for method, own in rows.items() if own}
    top1 = {m: row["validation_top1"] for m, row in last.items() if row["validation_top1"]}
    steps = left = None
    if last and len(place.parts) == 4:  # of a cohort
        row = next(iter(last.values()))
        steps = row["step"] // row["epoch"] * int(path.parent.name.removesuffix("-epochs"))
        left = seconds / step * (steps - step)
    return Job(name, step, steps, left, top1, said, silent, of_checkpoint(place, rows))


def _done(experiment: Experiment, found: Runs) -> str:
    """The finished cells, row by row, with the accuracy of each seed."""
    needed = defaultdict(list)
    for *row, seed in keys(experiment):
        needed[tuple(row)].append(seed)
    rows = [
        {
            "students": f"{pair}, {recipe}, {epochs} epochs",
            "method": method,
            "seeds done": f"{len(own)} of {len(seeds)}",
            "top-1 by seed": " ".join(f"{run.value:.2f}" for run in own.values()),
        }
        for (pair, recipe, epochs, method), seeds in needed.items()
        if (own := found.rows.get((pair, recipe, epochs, method), {}))
    ]
    here = {run.key for run in found}
    count = sum((*row, seed) in here for row, seeds in needed.items() for seed in seeds)
    total = sum(map(len, needed.values()))
    lines = [f"{experiment.directory}: {count} of the {total} students of all studies are done"]
    if rows:
        lines.append(pd.DataFrame(rows).to_markdown(index=False, tablefmt="plain"))
    return "\n".join(lines)


def _in_words(job: Job) -> str:
    far = f"step {job.step:,}" + (f" of {job.steps:,}" if job.steps else "")
    left = MISSING if job.left is None else f"about {duration(job.left)} left"
    words = f"\n{job.name}: {far}, {left}"
    if job.top1:
        words += "\n  validation top-1: "
        words += ", ".join(f"{method} {top1:.2f}" for method, top1 in job.top1.items())
    if job.said:
        words += f"\n  {job.said}"
    if job.silent > SILENT:
        words += f"\n  silent for {duration(job.silent)}: it has stopped, waits, or is evaluated"
    return words


def _errors(folder: Path) -> list[tuple[str, str]]:
    found = []
    for log in sorted((folder / "logs").glob("*.txt")):
        if error := last_error(_text(log)):
            found.append((log.name, error.splitlines()[0]))
    return found


def _last_line(log: Path) -> str:
    return next((line for line in reversed(_text(log).split("\n")) if line.strip()), "")


# A job may take a file away between our listing it and reading it.


def _logs(folder: Path) -> list[Path]:
    """The logs, the newest last."""
    times = {}
    for path in sorted((folder / "logs").glob("*.txt")):
        with suppress(FileNotFoundError):
            times[path] = path.stat().st_mtime
    return sorted(times, key=times.__getitem__)


def _text(log: Path) -> str:
    try:
        return log.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def _age(path: Path) -> float:
    """Seconds since a file was written; 0 of one that is gone."""
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except FileNotFoundError:
        return 0.0


def main() -> None:
    parser = command.parser("benchmarks watch", __doc__)
    parser.add_argument("--every", type=float, metavar="SECONDS", help="show it again and again")
    parser.add_argument("--tensorboard", type=Path, metavar="FOLDER", help="write curves there")
    options = parser.parse_args()
    if options.every is not None and not options.every > 0:
        raise UserError(f"--every must be a number of seconds above 0, got {options.every}")
    experiment = command.experiment(options)
    events = options.tensorboard and Events(options.tensorboard)
    print(look(experiment, events))
    try:
        while options.every:
            time.sleep(options.every)
            shown = look(experiment, events)
            print(CLEAR if sys.stdout.isatty() else "", shown, sep="\n", flush=True)
    except KeyboardInterrupt:
        pass
