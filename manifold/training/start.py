"""Start a module as the experiment's machine has it: in one process, by torchrun, or by srun.

``python -m manifold start --experiment FILE -- -m manifold train …`` is what the rules call: the
machine is no part of their commands, so that a change of it plans no job again.
"""

import argparse
import os
import runpy
import shlex
import sys
from pathlib import Path

from manifold.settings import Machine, read_experiment
from manifold.training.launch import launcher


def starter(machine: Machine, one: bool) -> list[str]:
    """The words that start several processes or take GPUs; none where this process is enough."""
    words = shlex.split(launcher(machine, processes=1 if one else None))
    return [] if words == ["python"] else words


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m manifold start", description=__doc__)
    parser.add_argument("--experiment", type=Path, required=True, help="its experiment.yaml")
    parser.add_argument("--one", action="store_true", help="one process, whatever trainings have")
    parser.add_argument("module", nargs="+", help="-m module and its arguments, after --")
    options = parser.parse_args()
    words = starter(read_experiment(options.experiment).machine, options.one)
    if words:
        os.execvp(words[0], [*words, *options.module])
    _, module, *sys.argv[1:] = options.module
    runpy.run_module(module, run_name="__main__", alter_sys=True)
