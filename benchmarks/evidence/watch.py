"""What runs, how far, how long still and at what accuracy: ``python -m benchmarks watch``.

It reads the files of the results' folder alone (what the run was asked for, records, checkpoints,
logs), so it may stand on any machine that sees them, also while a cluster does the work.
``--every 10`` shows it anew every ten seconds, until it is interrupted. No training notices, and
nothing is written, but with ``--tensorboard FOLDER`` the curves, for ``tensorboard --logdir
FOLDER``.
"""

import sys
import time
from collections import defaultdict
from pathlib import Path

import pandas as pd

from benchmarks.evidence.asked import Asked, read_asked
from benchmarks.evidence.events import Events
from benchmarks.evidence.records import keys
from benchmarks.evidence.runs import Runs, read_runs
from benchmarks.evidence.underway import SILENT, Job, running, text_of
from benchmarks.evidence.words import in_epochs
from manifold.errors import UserError, last_error
from manifold.settings import Experiment
from manifold.settings.recorded import Key
from manifold.training import command
from manifold.training.progress import duration

RUN = "run.json"
CLEAR = "\x1b[2J\x1b[H"  # of a terminal


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
    found, jobs = read_runs(folder), running(experiment)
    if events is not None:
        events.add_finished(experiment, found)
        for job in jobs:
            events.add(job.curves)
    parts = [_done(experiment, found), *map(_in_words, jobs)]
    parts += [f"FAILED {name}: {error}" for name, error in _errors(folder)]
    return "\n".join([*parts, *(f"left out: {fault}" for fault in found.faults)])


def _done(experiment: Experiment, found: Runs) -> str:
    """What is done of what was asked for, row by row, with the accuracy of each seed."""
    asked = read_asked(experiment.directory)
    here = {run.key for run in found}
    if asked is None:
        students = list(keys(experiment))
        head = _of_all_studies(experiment, students, here)
    else:
        students, here = asked.students, here - _to_be_made(experiment, asked)
        head = _of_the_run(experiment, asked, here)
    needed = defaultdict(list)
    for *row, seed in students:
        needed[tuple(row)].append(seed)
    rows = [
        {
            "students": f"{pair}, {recipe}, {in_epochs(epochs)}",
            "method": method,
            "seeds done": f"{len(own)} of {len(seeds)}",
            "top-1 by seed": " ".join(f"{run.value:.2f}" for run in own),
        }
        for (pair, recipe, epochs, method), seeds in needed.items()
        if (
            own := [
                run
                for seed, run in found.rows.get((pair, recipe, epochs, method), {}).items()
                if seed in seeds and run.key in here
            ]
        )
    ]
    shown = [pd.DataFrame(rows).to_markdown(index=False, tablefmt="plain")] if rows else []
    return "\n".join([head, *shown])


def _of_all_studies(experiment: Experiment, students: list[Key], here: set[Key]) -> str:
    """How many students of the scale are done, study by study."""
    counts = []
    for name, study in experiment.studies.items():
        own = set(study.needed())
        counts += [f"{name} {len(own & here)} of {len(own)}"] if own else []
    return (
        f"{experiment.directory}: {len(here.intersection(students))} of the {len(students)} "
        f"students of all studies of scale {experiment.name} are done (no file says what a run was "
        f"asked for)\n  by study, which share students: {', '.join(counts)}"
    )


def _of_the_run(experiment: Experiment, asked: Asked, here: set[Key]) -> str:
    """How many students and jobs are done of what the last run was asked for."""
    folder = experiment.directory
    done = sum(asked.is_done(folder, log) for log in asked.jobs)
    students = (
        f"{len(here.intersection(asked.students))} of the {len(asked.students)} students and "
    )
    return (
        f"{folder}: asked for {', '.join(asked.targets)}: {students if asked.students else ''}"
        f"{done} of the {len(asked.jobs)} jobs that were to be done are done"
    )


def _to_be_made(experiment: Experiment, asked: Asked) -> set[Key]:
    """The students that the run makes, or makes anew, and has not made yet."""
    folder = experiment.directory
    outputs = {
        folder / output
        for log, outputs in asked.jobs.items()
        if not asked.is_done(folder, log)
        for output in outputs
    }
    return {key for key in asked.students if experiment.cell_directory(*key) / RUN in outputs}


def _in_words(job: Job) -> str:
    far = "begun" if job.done is None else f"{job.done:,}"
    if job.done is not None:
        far += f" of {job.total:,} {job.units}" if job.total else f" {job.units}"
    left = "time left not known yet" if job.left is None else f"about {duration(job.left)} left"
    words = f"\n{job.name}: {far}, {left}"
    if job.units != "steps":  # of what may be one of several parts
        words += f" of this part ({job.task})"
    if job.accuracies:
        words += "\n  on validation images: "
        words += ", ".join(f"{name} {value}" for name, value in job.accuracies.items())
    if job.said:
        words += f"\n  {job.said}"
    if job.silent > SILENT:
        words += (
            f"\n  silent for {duration(job.silent)}: it has stopped, waits, is evaluated, or is of "
            "a kind that says nothing before its end"
        )
    return words


def _errors(folder: Path) -> list[tuple[str, str]]:
    found = []
    for log in sorted((folder / "logs").glob("*.txt")):
        if error := last_error(text_of(log)):
            found.append((log.name, error.splitlines()[0]))
    return found


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
