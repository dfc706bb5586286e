"""What the suite's commands have in common: ``--config`` words, threads, and errors that teach."""

import argparse
import os
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from manifold.errors import ending_the_process
from manifold.settings import Experiment, parse_words, read_experiment, resolve


def parser(module: str, description: str) -> argparse.ArgumentParser:
    """A parser with ``--config``, which takes the words that ``snakemake --config`` takes."""
    made = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--config",
        nargs="+",
        default=["scale=mini"],
        metavar="KEY=VALUE",
        help="as for snakemake (default: scale=mini)",
    )
    made.add_argument("--experiment", type=Path, help="a resolved experiment.yaml instead")
    return made


def experiment(options: argparse.Namespace) -> Experiment:
    """Read or resolve the experiment, and keep torch to the threads that the job has."""
    if options.experiment is None:
        resolved = resolve(parse_words(options.config))
    else:
        resolved = read_experiment(options.experiment)
    limit_threads(resolved)
    return resolved


def limit_threads(experiment: Experiment) -> None:
    """Keep torch to the threads that the job was given, and has; tables never import it."""
    if "torch" in sys.modules:
        threads = min(experiment.machine.threads, len(os.sched_getaffinity(0)))
        sys.modules["torch"].set_num_threads(threads)


def run(main: Callable[[], None]) -> None:
    """Call ``main``; a user's error ends it with its message alone.

    Where nobody reads on what is printed (``| head``), it ends without a word, as a signal would.
    """
    with ending_the_process():
        try:
            try:
                main()
            finally:  # argparse exits after --help
                sys.stdout.flush()
        except BrokenPipeError:
            if not _is_unread(sys.stdout):  # another pipe, of a worker
                raise
            # Python flushes once more at its end, which is to find no pipe.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(128 + signal.SIGPIPE) from None


def _is_unread(stream: TextIO) -> bool:
    """Whether a stream is a pipe that nobody has open to read."""
    poll = select.poll()
    poll.register(stream.fileno(), select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))
