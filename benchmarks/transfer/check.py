"""The data sets of transfer learning, looked at before anything is trained."""

from pathlib import Path

from benchmarks.transfer import FINE_TUNING, FINE_TUNING_METHOD, Transfer
from benchmarks.transfer.data import check_data, fine_tuning_splits, open_data
from benchmarks.transfer.fine_tuning import setting
from manifold.errors import Faults, UserError
from manifold.ranks import ALONE
from manifold.training.cells import Cell
from manifold.training.data import Splits, verify
from manifold.training.runs import CPU
from manifold.training.trial import try_cohort


def check(study: Transfer) -> dict:
    """Check every data set, decode the images of those that ask for it, and try its fine-tuning.

    Returns:
        The sizes and classes of every data set.

    Raises:
        UserError: says all that would stop the study later.
    """
    faults, found = Faults(), {}
    for name in study.settings.data:
        with faults.collected():
            splits = open_data(name, study.data(name))
            with faults.collected():
                found[name] = check_data(study, name, splits)
            with faults.collected():
                _verify(study, name, splits)
            if name in found:
                _try_fine_tuning(study, name, splits, faults)
    faults.raise_any()
    return found


def _verify(study: Transfer, name: str, splits: Splits) -> None:
    try:
        verify(splits, decode=study.settings.data[name].verify)
    except UserError as error:
        raise UserError(f"transfer.data.{name}: {error}") from error


def _try_fine_tuning(study: Transfer, name: str, splits: Splits, faults: Faults) -> None:
    """Take one small step of fine-tuning, if it is asked for, from a student as it is created."""
    if FINE_TUNING not in study.settings.data[name].protocols:
        return
    experiment = study.experiment
    machine = experiment.machine.replaced(compile=None)
    tried = type(study)(experiment.replaced(machine=machine), study.settings)
    made = setting(tried, name, study.seeds[0], [], (ALONE, CPU))
    definition = experiment.method_definitions[FINE_TUNING_METHOD]
    cell = Cell(FINE_TUNING_METHOD, definition, made.pair.student, Path(), {})
    try_cohort(made, [cell], None, fine_tuning_splits(study, splits), faults)
