"""What whole runs took: ``results/NAME/times.csv``, a row a run, and the README's table of them."""

import csv
import time
from dataclasses import dataclass
from pathlib import Path

from manifold.files import csv_text, write_text
from manifold.training import host

TIMES = "times.csv"


@dataclass(frozen=True)
class Started:
    """A run of Snakemake as it was planned.

    Attributes:
        targets: what was asked for.
        cores: that it may use.
        jobs: that are to be done.
        jobs_in_all: with those that were done before.
        at: when its process began, in seconds since the epoch.
    """

    targets: tuple[str, ...]
    cores: int
    jobs: int
    jobs_in_all: int
    at: float


def add_run(path: Path, started: Started) -> None:
    """Add a run that ends now to the file of a results folder."""
    row = {
        "targets": " ".join(started.targets),
        "jobs": started.jobs,
        "jobs_in_all": started.jobs_in_all,
        "cores": started.cores,
        "wall_seconds": round(time.time() - started.at, 1),
        "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "processor": host.processor(),
        "git_commit": host.commit(),
        "git_dirty": host.is_changed(),
    }
    write_text(path, csv_text([*(read_runs(path) if path.is_file() else []), row]))


def read_runs(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def times_table(published: Path) -> str:
    """The README's table: of each published target the run that did the most jobs, in minutes.

    Args:
        published: the folder of all published runs.
    """
    shown: dict[tuple[str, str], dict[str, str]] = {}
    for path in sorted(published.glob(f"*/{TIMES}")):
        for run in read_runs(path):
            target = path.parent.name, run["targets"]
            if target not in shown or int(run["jobs"]) >= int(shown[target]["jobs"]):
                shown[target] = run
    lines = ["| results | target | jobs done | cores | minutes | on |", "|---|---|---|---|---|---|"]
    for (name, targets), run in shown.items():
        lines.append(
            f"| `{name}` | `{targets}` | {run['jobs']} of {run['jobs_in_all']} | {run['cores']} | "
            f"{float(run['wall_seconds']) / 60:.1f} | {run['processor']}, {run['ended'][:10]}, "
            f"commit {run['git_commit'][:7]} |"
        )
    return "\n".join(lines)
