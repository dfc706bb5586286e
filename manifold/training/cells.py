"""What a run is called, what shapes it, and where it is kept; nothing here needs torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifold.errors import UserError
from manifold.settings import CELL_FILES, Experiment, Method, Model, Pair, fingerprint
from manifold.settings.made_by import is_outdated
from manifold.settings.sources import source_hash
from manifold.training import records

STUDENTS = {  # what tells them from a pair's plain student
    "distilled_student": "with a distillation token",
    "lifted_student": "with a projector to the teacher's width that stays",
    "widened_student": "with a last block of the teacher's width",
}


@dataclass
class Start:
    """Weights that a student starts from; its classifier is drawn anew."""

    weights: Path
    classes: int  # that they were trained for


@dataclass
class Cell:
    """One run: a method under a recipe, a budget and a seed, and the folder of its results."""

    method: str
    definition: Method
    student: Model
    directory: Path
    identity: dict
    start: Start | None = None  # None: as initialised
    maker: str | None = None  # the module of the study's job that trains it; None: manifold train

    @property
    def source_hash(self) -> str:
        """Of the sources that shape it, as this process runs them."""
        return source_hash(self.definition.distiller, self.maker)

    def is_outdated(self, experiment: Experiment, made_by: Any) -> bool:
        """Whether code of this hash is not to be kept."""
        return is_outdated(experiment, self.definition.distiller, made_by, self.maker)

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.identity)

    def is_complete(self) -> bool:
        """Whether the folder holds the files of this very configuration, unharmed."""
        return records.is_complete(self.directory, CELL_FILES, "run.json", self.fingerprint)


def student_model(pair: Pair, pair_name: str, method: str, definition: Method) -> Model:
    """The pair's student that the method asks for.

    Raises:
        UserError: the pair has none of that kind.
    """
    student = getattr(pair, definition.student)
    if student is None:
        raise UserError(
            f"method {method!r} needs a student {STUDENTS[definition.student]}: set "
            f"pairs.{pair_name}.{definition.student} or leave the method out"
        )
    return student
