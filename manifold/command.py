"""What the suite's commands have in common: ``--config`` words, threads, and errors that teach."""

import argparse
import os
import sys
from collections.abc import Callable

import torch

from manifold import config
from manifold.errors import UserError


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
    return made


def experiment(options: argparse.Namespace) -> config.Experiment:
    """Resolve ``--config`` and keep torch to the threads that the job was given, and has."""
    resolved = config.resolve(config.parse_words(options.config))
    torch.set_num_threads(min(resolved.machine.threads, len(os.sched_getaffinity(0))))
    return resolved


def for_seed(module: str, description: str, work: Callable[[config.Experiment, int], None]) -> None:
    """Parse ``--config`` and ``--seed``, and do the work of that seed."""
    made = parser(module, description)
    made.add_argument("--seed", type=int, required=True)
    options = made.parse_args()
    work(experiment(options), options.seed)


def run(main: Callable[[], None]) -> None:
    """Call ``main``; a user's error ends it with its message alone."""
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
