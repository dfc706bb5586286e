"""What the suite's commands have in common: ``--config`` words, threads, and errors that teach."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

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
    """Call ``main``; a user's error ends it with its message alone."""
    with ending_the_process():
        main()
