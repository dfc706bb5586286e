"""Which two methods of a table are compared, of which neither need be the baseline."""

from manifold.errors import UserError
from manifold.settings import Experiment

CONTRASTS = "_contrasts.csv"  # ends the name of their file
Contrast = tuple[str, str]  # first method minus second


def check_contrasts(experiment: Experiment, section: str, asked: list[Contrast]) -> None:
    """Refuse a contrast of a method that is not known, or of one method.

    Raises:
        UserError: names the key.
    """
    for contrast in asked:
        for method in contrast:
            experiment.check_known(f"{section}.contrasts", method, experiment.method_definitions)
        if contrast[0] == contrast[1]:
            raise UserError(f"{section}.contrasts: {contrast[0]} minus itself; name two methods")


def contrasted(asked: list[Contrast], methods: list[str]) -> list[Contrast]:
    """The contrasts of which both methods are in the table."""
    return [each for each in asked if set(each) <= set(methods)]
