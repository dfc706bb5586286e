"""What a folder of results is of: its ``experiment.yaml`` says so, whatever else is given."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from manifold.errors import UserError
from manifold.settings import Experiment, read_experiment
from manifold.training import command

FILE = "experiment.yaml"


def refuse_missing(folder: Path) -> None:
    """Refuse a folder that is not there.

    Raises:
        UserError: it is not.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of results")


def experiment_of(folder: Path) -> Experiment | None:
    """What a folder's runs were to be; None where it does not say.

    Raises:
        UserError: its file is damaged, or of another version of the suite.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        return read_experiment(path)
    except UserError as error:
        raise UserError(f"{path}: which runs were to be here is not known, since {error}") from None


def given_for(
    folders: Sequence[Path], parser: argparse.ArgumentParser, options: argparse.Namespace
) -> Experiment | None:
    """What ``--config`` or ``--experiment`` says of folders of which none says it itself.

    Returns:
        None where a folder does.

    Raises:
        UserError: a folder is missing; one says it, and the words are given too; or neither.
    """
    is_given = options.experiment is not None or options.config is not parser.get_default("config")
    faults = []
    for folder in folders:
        refuse_missing(folder)
        try:
            known = experiment_of(folder)
        except UserError as error:
            faults.append(str(error))
            continue
        if known is not None and is_given:
            raise UserError(
                f"{folder / FILE} says what the folder is of; leave --config and --experiment away"
            )
        if known is not None:
            return None
    if not is_given:
        said = "; ".join(faults or [f"{folder} has no {FILE}" for folder in folders])
        raise UserError(f"{said}; say what it is of, as in --config scale=mini")
    return command.experiment(options)
