"""The commands that the workflow's rules call: ``python -m manifold train --config scale=mini``."""

import gc
import sys
from importlib import import_module

from manifold.training import command
from manifold.training.parent import end_with_snakemake

COMMANDS = {
    "train": "manifold.training.train",
    "start": "manifold.training.start",
    "launch": "manifold.training.launch",
    "measure-teacher": "manifold.training.teacher",
    "fetch-teacher": "manifold.training.fetch",
    "initialise-teacher": "manifold.training.untrained",
    "describe-settings": "manifold.settings.reference",
}


def call(package: str, name: str, module: str) -> None:
    """Call a module's ``main`` with the words after a command's name.

    A user's error ends it with its message alone.

    Args:
        module: its ``main`` is called.
    """
    sys.argv[:2] = [f"python -m {package} {name}"]
    # What a command imports stays until its end: a collector that walks all of torch's objects, as
    # they are loaded and again at exit, takes as long as a third of the imports and frees nothing.
    gc.disable()
    end_with_snakemake()
    sys.stdout.reconfigure(errors="backslashreplace")  # of whatever locale: no letter is an error
    work = import_module(module).main
    gc.freeze()
    gc.enable()
    command.run(work)


def name_of_command(usage: str) -> str:
    """The first word of the command line; the usage where there is none, or where it is asked."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in ("-h", "--help"):
        print(usage)
        sys.exit()
    if not name or name.startswith("-"):
        sys.exit(usage)
    return name


def main() -> None:
    usage = f"usage: python -m manifold {{{','.join(COMMANDS)}}} …"
    name = name_of_command(usage)
    if name not in COMMANDS:
        sys.exit(f"{usage}; got {name!r}")
    call("manifold", name, COMMANDS[name])


if __name__ == "__main__":
    main()
