"""What stands behind a page's numbers: of each run its record, of each table its rule, the code,
the machines, the time, what differs from what was registered, and what failed or was repeated.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.evidence.markup import markdown_block
from benchmarks.evidence.registered import words_of
from benchmarks.evidence.runs import UNSAID, Run, Runs, listed_runs
from benchmarks.evidence.study import Study
from benchmarks.evidence.times import TIMES
from benchmarks.evidence.times import read_runs as read_times
from benchmarks.evidence.words import MISSING
from manifold.errors import last_error
from manifold.settings import ROOT

PAPER_SCALE = ROOT / "docs" / "paper-scale.md"
DEVIATIONS = "## Every known deviation"
RESUMED = "resuming "  # begins the line of a log that tells of it


def runs_behind(study: Study, folder: Path, runs: Runs, faults: list[str]) -> str:
    """The rule that wrote a study's table, and of each of its runs the record, as Markdown.

    Args:
        runs: of the folder.
        faults: runs whose record says another number are named here.
    """
    recorded = {run.record["fingerprint"]: run for run in runs}
    files = [path.name for path in study.files() if (folder / path.name).is_file()]
    path = folder / f"{study.name}_seeds.csv"
    listed = listed_runs(path, study, faults) if path.is_file() else {}
    rows = []
    for names, side in listed.items():
        for seed, run in side.items():
            record = recorded.get(run.identity[UNSAID])
            if record is not None and study.measured == "top1" and record.value != run.value:
                faults.append(
                    f"{path}: {', '.join(names)}, seed {seed} is {run.value} there and "
                    f"{record.value} in {folder / record.path}; the table is not of this record"
                )
            rows.append({"Run": ", ".join(names), "Seed": str(seed), **_line(run, record)})
    here = sum(row["Record"] != MISSING for row in rows)
    said = (
        f"The rule {study.name} (snakemake {study.target}) wrote {', '.join(files)} by python -m "
        f"benchmarks {study.name}, from {len(rows)} runs; the records of {here} are here."
    )
    blocks = [said, pd.DataFrame(rows)] if rows else [said]
    return "\n\n".join(map(markdown_block, blocks))


def _line(run: Any, record: Run | None) -> dict[str, str]:
    made_by = {} if record is None else record.made_by
    return {
        "Result": f"{run.value:.2f}",
        "Record": MISSING if record is None else str(record.path),
        "Identity": run.identity[UNSAID][:8],
        "Commit": run.made_by["commit"],
        "Code": made_by.get("method's code", MISSING),
        "Training": made_by.get("training code", MISSING),
        "Minutes": MISSING if record is None else f"{record.record['wall_seconds'] / 60:.1f}",
    }


def deviations(studies: Iterable[Study], folder: Path) -> str:
    """In what tables differ from what was registered, and a scale from the paper, as Markdown.

    A table is of the runs that it was made of: what its caption says counts, and not what the
    configuration or the registration has become since.
    """
    lines = []
    for study in studies:
        text = (folder / f"{study.name}.md").read_text(encoding="utf-8")
        said = words_of(text) or "The table says nothing of a registration, so it is exploratory."
        lines.append(f"{study.title}: {said}")
    parts = [markdown_block(lines)]
    if PAPER_SCALE.is_file():
        _, _, found = PAPER_SCALE.read_text(encoding="utf-8").partition(f"{DEVIATIONS}\n")
        parts.append(
            "### Of the paper's recipes at its scale\n\nFrom docs/paper-scale.md; losses and "
            "evaluation are one code at every scale.\n\n" + found.partition("\n## ")[0].strip()
        )
    return "\n\n".join(parts)


def made_by(runs: Runs) -> str:
    """Code, libraries, machines, teachers, data and time of the runs with a record, as Markdown."""
    groups: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    teachers, data, versions, jobs = defaultdict(set), set(), set(), {}
    for run in runs:
        kinds = {key: value for key, value in run.made_by.items() if key != "method's code"}
        groups[tuple(kinds.items())].append(run)
        teachers[run.key[0]].add(run.record.get("teacher_sha256") or "none")
        data.add(run.record.get("data_digest") or "unknown")
        versions.add(_versions(run.record.get("environment", {})))
        # The cells of a cohort were trained in one job, and hold its time each.
        job = (*run.key[:3], run.key[4], tuple(run.record.get("cohort", ())))
        jobs[job] = max(jobs.get(job, 0.0), run.record.get("wall_seconds") or 0.0)
    if not groups:
        return "No record of a run is among these files."
    rows = pd.DataFrame(
        {
            **{key.capitalize(): value for key, value in kinds},
            "Runs": str(len(own)),
            "Seeds": ", ".join(map(str, sorted({run.key[4] for run in own}))),
        }
        for kinds, own in groups.items()
    )
    lines = [
        f"teacher of {pair}: SHA-256 {', '.join(sorted(hashes))}"
        for pair, hashes in teachers.items()
    ]
    lines += [f"data: {', '.join(sorted(data))}"]
    lines += [f"versions: {words}" for words in sorted(versions)]
    lines += [
        f"{len(jobs)} trainings of cohorts took {sum(jobs.values()) / 3600:.1f} hours, added up; "
        "several may have run at once"
    ]
    mixed = [kind for kind in rows.columns[:-2] if rows[kind].nunique() > 1]
    if mixed:
        lines.append(f"mixed: the runs differ in {', '.join(map(str.lower, mixed))}")
    return "\n\n".join(map(markdown_block, [rows, lines]))


def _versions(environment: dict[str, Any]) -> str:
    packages = environment.get("packages", {}).items()
    known = [("python", environment.get("python")), *packages]
    said = [f"{name} {version}" for name, version in known if version]
    return ", ".join([*said, environment.get("platform", "an unknown platform")])


def whole_runs(folder: Path) -> str:
    """Every run of Snakemake that ended, as Markdown; nothing where none was counted."""
    path = folder / TIMES
    if not path.is_file():
        return ""
    runs = read_times(path)
    minutes = sum(float(run["wall_seconds"]) for run in runs) / 60
    often = [name for name, count in Counter(run["targets"] for run in runs).items() if count > 1]
    rows = pd.DataFrame(
        {
            "Targets": run["targets"],
            "Jobs": f"{run['jobs']} of {run['jobs_in_all']}",
            "Cores": run["cores"],
            "Minutes": f"{float(run['wall_seconds']) / 60:.1f}",
            "Ended": run["ended"],
            "On": run["processor"],
            "Commit": run["git_commit"][:7] + (" (changed)" if run["git_dirty"] == "True" else ""),
        }
        for run in runs
    )
    lines = [
        f"{len(runs)} run(s) of Snakemake ended, {minutes:.0f} minutes in all; given more than "
        f"once: {', '.join(often) or 'none'}",
        "these are runs that ended and were timed as a whole; what the tables are made of, in "
        "one such run or several, are the runs with a record above",
    ]
    return "\n\n".join(map(markdown_block, [rows, lines]))


def failed(folder: Path) -> str:
    """What failed, was resumed or did not end, as far as logs and checkpoints say, as Markdown."""
    logs = sorted((folder / "logs").glob("*.txt"))
    if not logs:
        return (
            "Logs, which tell of failed and resumed runs, are not among these files; of a job that "
            "was given again only the last log is kept anywhere."
        )
    lines = []
    for path in logs:
        text = path.read_text(encoding="utf-8", errors="replace")
        if error := last_error(text):
            lines.append(f"{path.name} ends with an error: {error.splitlines()[0]}")
        if count := sum(line.startswith(RESUMED) for line in text.splitlines()):
            lines.append(f"{path.name}: resumed {count} time(s)")
    lines += [
        f"not ended: {path.relative_to(folder)} is a checkpoint"
        for path in sorted((folder / "state").rglob("*.pt"))
    ]
    said = f"Of {len(logs)} logs, each of a job as it was given last:"
    return "\n\n".join(
        map(markdown_block, [said, lines or ["none failed, was resumed or did not end"]])
    )
