"""A job ends with the Snakemake that started it, also where that one is killed.

Between the two stand a shell and a pipe, which outlive Snakemake: a job that is told nothing would
train on, beside those of the run that is started next. So Snakemake writes into the environment
who it is, and every job looks out for its end; the checkpoint stands, as after any kill.
"""

import contextlib
import os
import select
import sys
import threading
from pathlib import Path

from manifold.files import HOST

STARTED_BY = "MANIFOLD_STARTED_BY"  # host, process and the process's start
_is_watching = threading.Event()  # `start` calls the next command in the same process


def tell_jobs() -> None:
    """Let all jobs that this process starts end with it."""
    os.environ[STARTED_BY] = _identity(os.getpid())


def end_with_snakemake() -> None:
    """Look out for the end of the process that wrote itself into the environment, if one did.

    On another machine than it, as where Slurm has started the job, there is nothing to look at.
    """
    started_by = os.environ.get(STARTED_BY, "")
    with contextlib.suppress(OSError, ValueError):  # it is gone, or the kernel has no pidfd
        _, process, _ = started_by.split()
        descriptor = os.pidfd_open(int(process))
        if _identity(int(process)) == started_by and not _is_watching.is_set():
            _is_watching.set()
            threading.Thread(target=_wait_for_its_end, args=(descriptor,), daemon=True).start()
        else:
            os.close(descriptor)


def _identity(process: int) -> str:
    """Tells a process from a later one of its number."""
    status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    start = status.rpartition(")")[2].split()[19]  # field 22 of proc(5), in ticks since boot
    return f"{HOST} {process} {start}"


def _wait_for_its_end(descriptor: int) -> None:
    end = select.poll()
    end.register(descriptor, select.POLLIN)
    end.poll()
    with contextlib.suppress(OSError):
        print("Snakemake, which started this, is gone: ending as well", file=sys.stderr, flush=True)
    os._exit(1)
