"""Two runs of one result, and runs whose Snakemake is gone: one waits, the other ends."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from benchmarks.detection import prepare as detection
from benchmarks.transfer import probes
from manifold.errors import UserError
from manifold.settings import CELL_FILES, ROOT
from manifold.training import alone, train
from manifold.training.alone import alone_on
from manifold.training.cells import Cell

pytestmark = pytest.mark.slow

HOLD = (  # locks a folder, and tells when; it ends with its standard input
    "import sys\n"
    "from pathlib import Path\n"
    "from manifold.training.alone import alone_on\n"
    "with alone_on([Path(sys.argv[1])]):\n"
    "    print('held', flush=True)\n"
    "    sys.stdin.read()\n"
)


@pytest.fixture
def other(tmp_path, monkeypatch):
    """Another process that is at work on a folder, and the folder."""
    monkeypatch.setattr(alone, "SECONDS_BETWEEN_TRIES", 0.05)
    folder = tmp_path / "cells" / "seed-0"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    with process:
        assert process.stdout.readline() == "held\n"
        yield process, folder
        with contextlib.suppress(ProcessLookupError):
            process.kill()


def waits_for(capfd, said=""):
    """What is said of waiting, as soon as it is said."""
    while "waiting: " not in said:
        time.sleep(0.01)
        said += capfd.readouterr().err
    return said


def end(process):
    process.stdin.close()


@pytest.mark.parametrize("ended_by", [end, lambda process: process.kill()])
def test_the_second_waits_for_the_first_and_says_so(ended_by, other, capfd):
    process, folder = other
    done = threading.Event()

    def work():
        with alone_on([folder.with_name("seed-1"), folder]):
            done.set()

    thread = threading.Thread(target=work)
    thread.start()
    said = waits_for(capfd)
    assert f"waiting: process {process.pid} on " in said and f"is at work on {folder}\n" in said
    assert not done.is_set()
    with alone_on([folder.with_name("seed-1")]):  # whoever waits holds nothing
        ended_by(process)
        process.wait()
    thread.join(timeout=60)
    assert done.is_set() and "waiting" not in capfd.readouterr().err
    assert not list(folder.parent.glob(".*.lock"))


def test_a_lock_that_another_file_has_taken_the_place_of_is_none(tmp_path):
    """Whoever ends removes its lock, and may do so between another's opening and locking it."""
    path = tmp_path / ".seed-0.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    path.unlink()
    with alone_on([tmp_path / "seed-0"]):
        assert path.is_file()
    os.close(descriptor)


def test_where_files_cannot_be_locked_one_is_told_and_goes_on(tmp_path, monkeypatch, capsys):
    def flock(descriptor, operation):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    with alone_on([tmp_path / "seed-0"]):
        assert "cannot be locked (Function not implemented)" in capsys.readouterr().err


def test_a_lock_that_finds_no_space_is_said_and_leaves_nothing(tiny_disk):
    (tiny_disk / "cells").mkdir()
    filled = tiny_disk / "filled"
    with filled.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    with (
        pytest.raises(UserError, match=r"\.seed-0.lock: No space left on the disk"),
        alone_on([tiny_disk / "cells" / "seed-0"]),
    ):
        pass
    assert list((tiny_disk / "cells").iterdir()) == []


def test_a_cohort_that_another_process_trains_is_waited_for_and_then_complete(
    other, experiment, monkeypatch, capfd
):
    process, folder = other
    cell = Cell("none", experiment().method_definitions["none"], None, folder, {"a": 1})
    setting = train.teacher_setting(experiment(), "deit-cait")[0]
    monkeypatch.setattr(train, "is_kept", lambda _, cell, files: (folder / "run.json").is_file())
    monkeypatch.setattr(train, "Training", lambda *_: pytest.fail("it was trained twice"))
    thread = threading.Thread(target=train.train, args=(setting, [cell]))
    thread.start()
    said = waits_for(capfd)
    folder.mkdir()
    for name in CELL_FILES:
        (folder / name).touch()
    end(process)
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert f"{folder} is complete" in said + capfd.readouterr().err


@pytest.mark.parametrize("module", [train, probes, detection])
def test_whatever_takes_long_is_made_by_one_process_at_a_time(module):
    assert module.alone_on is alone_on


# ---- the end of Snakemake --------------------------------------------------------------------

# What Snakemake is to a job: it tells who it is, and starts a shell that starts the job.
SNAKEMAKE = (
    "import subprocess, sys, time\n"
    "from manifold.training.parent import tell_jobs\n"
    "tell_jobs()\n"
    "subprocess.run(['bash', '-c', sys.argv[1] + ' 2>&1 | cat'])\n"
)
JOB = (
    "import os, time\n"
    "from manifold.training.parent import end_with_snakemake\n"
    "end_with_snakemake(); end_with_snakemake()\n"
    "print(os.getpid(), flush=True)\n"
    "time.sleep(600)\n"
)


def test_a_job_ends_with_the_snakemake_that_started_it():
    command = f'{sys.executable} -c "{JOB}"'
    with subprocess.Popen(
        [sys.executable, "-c", SNAKEMAKE, command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    ) as snakemake:
        job = int(snakemake.stdout.readline())
        snakemake.send_signal(signal.SIGKILL)
        assert "is gone: ending as well" in snakemake.stdout.read()  # to the end of the pipe
    with pytest.raises(ProcessLookupError):
        for _ in range(600):
            os.kill(job, 0)
            time.sleep(0.1)


@pytest.mark.parametrize("started_by", ["", "elsewhere 1 1", "nonsense", "here 999999999 5"])
def test_a_job_that_nobody_here_has_started_goes_on(started_by):
    code = JOB.replace("time.sleep(600)", "time.sleep(0.3); print('to the end')")
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "MANIFOLD_STARTED_BY": started_by},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0 and done.stdout.endswith("to the end\n"), done.stderr
