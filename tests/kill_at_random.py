"""Kill every study at random moments, start it again, and hold the end to an undisturbed run.

``python tests/kill_at_random.py --moments 20`` takes half an hour or more on two cores, and is no
part of the test suite. It makes every study at `smoke` twice: once undisturbed, once with jobs or
Snakemake itself killed by SIGKILL, SIGTERM or Ctrl-C at random moments, and the same command
given again each time. Then

* weights, features and predictions must be the same bytes, and all CSV files (metrics and tables)
  the same but for times;
* a cell that was finished at a kill must not have been made again: its record, which holds the
  time that it took, must be the same bytes at the end.
"""

import argparse
import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.evidence import times
from benchmarks.evidence.study import Study
from manifold.settings import ROOT, resolve
from manifold.settings.stale import RECORDS

BYTES = ("*.safetensors", "predictions.*.json", "predictions.zip")
TIMES = {"images_per_second", "wall_seconds", "git_commit", "seconds", "time", "data_time"}
SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "Ctrl-C": signal.SIGINT}
LONGEST_WAIT = 40.0  # seconds from a start to a kill
LONGEST_END = 60.0  # seconds from Snakemake's end to that of its jobs
MOST_STARTS = 200


def start(targets: list[str], results: Path, log) -> subprocess.Popen:
    """Snakemake in a process group of its own, as a shell starts it."""
    words = [f"results={results}", "scale=smoke"]
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *targets, "--config", *words]
    return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)


def unlock(results: Path, log) -> None:
    words = ["--config", f"results={results}", "scale=smoke"]
    command = [sys.executable, "-m", "snakemake", "--unlock", *words]
    subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, check=True)


def jobs_of(group: int) -> list[int]:
    """The processes of a group that do a job: Python, and not Snakemake."""
    listed = subprocess.run(
        ["ps", "-eo", "pid=,pgid=,args="],
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
    ).stdout
    found = []
    for line in listed.splitlines():
        pid, pgid, words = line.split(maxsplit=2)
        is_job = " -m manifold " in words or " -m benchmarks " in words
        if int(pgid) == group and is_job and "bash" not in words and "snakemake" not in words:
            found.append(int(pid))
    return found


def kill(process: subprocess.Popen, draw: random.Random) -> str:
    """Kill a job, Snakemake alone, or all of them together; say what was done."""
    name = draw.choice(list(SIGNALS))
    whom = draw.choice(["a job", "Snakemake", "all"])
    jobs = jobs_of(process.pid)
    if whom == "a job" and jobs:
        os.kill(draw.choice(jobs), SIGNALS[name])
    elif whom == "Snakemake":
        os.kill(process.pid, SIGNALS[name])
    else:
        os.killpg(process.pid, SIGNALS[name])
    return f"{name} to {whom}"


def settle(process: subprocess.Popen) -> None:
    """Wait for Snakemake, and for its jobs, which end with it.

    Raises:
        RuntimeError: some go on.
    """
    try:
        process.wait(timeout=120)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    deadline = time.monotonic() + LONGEST_END
    while left := jobs_of(process.pid):
        if time.monotonic() > deadline:
            raise RuntimeError(f"Snakemake is gone, and its jobs go on: {left}")
        time.sleep(0.5)


def finished_records(results: Path) -> dict[Path, bytes]:
    """The records of all cells that are finished: a record is written last."""
    return {
        path.relative_to(results): path.read_bytes()
        for name in RECORDS
        for path in results.rglob(name)
        if ".finished" not in str(path)
    }


def make(targets: list[str], results: Path, moments: int, draw: random.Random, log) -> dict:
    """Run to the end through so many kills; return the records that were finished at each."""
    before: dict[Path, bytes] = {}
    killed = 0
    for _ in range(MOST_STARTS):
        process = start(targets, results, log)
        if killed < moments:
            try:
                process.wait(timeout=draw.uniform(1, LONGEST_WAIT))
            except subprocess.TimeoutExpired:
                killed += 1
                what = kill(process, draw)
                print(f"moment {killed} of {moments}: {what}", flush=True)
                settle(process)
                for path, content in finished_records(results).items():
                    before.setdefault(path, content)
                unlock(results, log)
                continue
        if process.wait() == 0:
            if killed < moments:
                print(f"finished after {killed} moments; the rest starts anew", flush=True)
                shutil.rmtree(results)
                before = {}
                continue
            return before
    raise SystemExit(f"not finished after {MOST_STARTS} starts; see the log")


def without_times(path: Path) -> list[dict]:
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {key: value for key, value in row.items() if key not in TIMES}
            for row in csv.DictReader(file)
        ]


def studies_of_costs() -> list[Study]:
    """The studies whose numbers are times and memory, never twice the same."""
    studies = resolve({"scale": "smoke"}).studies.values()
    return [study for study in studies if not study.is_evidence]


def differences(first: Path, second: Path) -> list[str]:
    """What is not the same in two folders of results."""
    found = []
    for pattern in BYTES:
        for path in first.rglob(pattern):
            other = second / path.relative_to(first)
            if ".finished" in str(path) or "/rehearsal/" in str(path):
                continue
            if not other.is_file() or other.read_bytes() != path.read_bytes():
                found.append(f"other bytes: {path.relative_to(first)}")
    measured = {times.TIMES, *(path.name for study in studies_of_costs() for path in study.files())}
    for path in first.rglob("*.csv"):
        other = second / path.relative_to(first)
        if ".finished" in str(path) or path.name in measured:
            continue
        if not other.is_file() or without_times(other) != without_times(path):
            found.append(f"other rows: {path.relative_to(first)}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", default=["all"], help="default: every study")
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help="default: a temporary one")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="kills-"))
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(options.seed)
    with (folder / "log.txt").open("w", encoding="utf-8") as log:
        print(f"the undisturbed run; its log and all results: {folder}", flush=True)
        # Both in one place: detectors' records and fingerprints hold the paths of their inputs.
        killed = folder / "run"
        make(options.targets, killed, 0, draw, log)
        killed.rename(folder / "undisturbed")
        before = make(options.targets, killed, options.moments, draw, log)
    found = differences(folder / "undisturbed" / "smoke", killed / "smoke")
    after = finished_records(killed)
    found += [f"made twice: {path}" for path in before if after.get(path) != before[path]]
    print("\n".join(found) or f"all the same after {options.moments} kills; nothing made twice")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
