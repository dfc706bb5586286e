"""What the last run that computes was asked for: ``results/NAME/asked.json``, written as it starts.

The folder alone then tells which jobs are to be done, which of their logs are of this run, and
which students were asked for, on any machine that sees it.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from manifold.files import write_text
from manifold.settings.recorded import Key

ASKED = "asked.json"


@dataclass(frozen=True)
class Asked:
    """What a run was asked for.

    Attributes:
        targets: as they were given.
        students: all that the targets need, those that were done before too.
        jobs: of each that is to be done its outputs, by its log; both below the folder.
        at: when it was written, as the folder's disk says it: seconds since the epoch.
    """

    targets: list[str]
    students: list[Key]
    jobs: dict[str, list[str]]
    at: float

    def is_done(self, folder: Path, log: str) -> bool:
        """Whether a job has written all its outputs since the run began."""
        return all(_changed(folder / output) >= self.at for output in self.jobs[log])

    def trains(self, log: str) -> set[str]:
        """The methods whose students a job trains; none of a log that is of no job to be done."""
        students = (_student(Path(), output) for output in self.jobs.get(log, []))
        return {method for _, _, _, method, _ in filter(None, students)}


def write_asked(
    folder: Path, targets: Iterable[str], paths: Iterable[str], jobs: Mapping[str, Iterable[str]]
) -> None:
    """Write what a run is asked for.

    Args:
        folder: of the results.
        paths: of all files that its jobs read or write.
        jobs: of each that is to be done its outputs, by its log.
    """
    asked = {
        "targets": list(targets),
        "students": list(dict.fromkeys(filter(None, (_student(folder, p) for p in paths)))),
        "jobs": {
            _below(folder, log): [_below(folder, output) for output in outputs]
            for log, outputs in jobs.items()
        },
    }
    write_text(folder / ASKED, json.dumps(asked, indent=1) + "\n")


def read_asked(folder: Path) -> Asked | None:
    """What the last run was asked for; None where no file says it, or a damaged one."""
    path = folder / ASKED
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        students = [
            (pair, r, int(epochs), m, int(s)) for pair, r, epochs, m, s in found["students"]
        ]
        jobs = {str(log): list(map(str, outputs)) for log, outputs in found["jobs"].items()}
        return Asked(list(map(str, found["targets"])), students, jobs, path.stat().st_mtime)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _below(folder: Path, path: str) -> str:
    """A path below the folder; one that is elsewhere stays whole."""
    return str(Path(path).relative_to(folder)) if Path(path).is_relative_to(folder) else str(path)


def _student(folder: Path, path: str) -> Key | None:
    """The student whose cell or record a file is of; None of other files."""
    match Path(_below(folder, path)).parts:
        case ["cells", pair, recipe, epochs, method, seed, _]:
            pass
        case ["records", pair, recipe, epochs, method, file]:
            seed = file.removesuffix(".json")
        case _:
            return None
    count = epochs.removesuffix("-epochs")
    return pair, recipe, int(count), method, int(seed.removeprefix("seed-"))


def _changed(path: Path) -> float:
    """When a file was written; before all time where there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return float("-inf")
