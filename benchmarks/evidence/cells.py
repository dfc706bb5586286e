"""Collect the records of finished cells."""

import csv
from collections.abc import Iterable
from pathlib import Path

from manifold.errors import UserError
from manifold.files import sha256
from manifold.settings import Experiment, fingerprint
from manifold.training.records import SHARE, read_run

EPOCH_COLUMNS = (
    *("epoch", "step", "learning_rate", "loss"),
    *("validation_top1", "images_per_second"),
)


def collect(
    experiment: Experiment,
    pair: str,
    recipe: str,
    epochs: int,
    methods: list[str] | None = None,
    seeds: list[int] | None = None,
) -> dict[str, dict[int, dict]]:
    """Return method → seed → run.json of every cell under one pair, recipe and budget.

    Args:
        methods: by default those of the scale that the pair is for.
        seeds: by default all of the scale's.

    Raises:
        UserError: a cell is missing, or is of another configuration or teacher.
    """
    teacher = sha256(experiment.teacher_weights(pair))
    return {
        method: {
            seed: _read(experiment, (pair, recipe, epochs, method, seed), teacher)
            for seed in seeds or experiment.seeds
        }
        for method in methods or experiment.methods_of(pair)
    }


def _read(experiment: Experiment, key: tuple[str, str, int, str, int], teacher: str) -> dict:
    path = experiment.cell_directory(*key) / "run.json"
    if not path.is_file():
        raise UserError(f"{path}: this cell has not been run; snakemake makes it")
    record = read_run(path)
    identity = {**experiment.cell_identity(*key), "teacher_sha256": teacher}
    if record["fingerprint"] != fingerprint(identity):
        raise UserError(f"{path} is of another configuration; delete its folder to run it again")
    return record


BASE_TERMS = {"cross_entropy", "kl"}  # what a method's own terms are added to


def gradient_shares(directories: Iterable[Path]) -> dict[str, float]:
    """Each term's share of the gradient by the student's parameters, a mean over epochs and cells.

    A share is the norm of the term's gradient over the sum of all terms' norms. Empty where the
    trainings did not look.
    """
    found: dict[str, list[float]] = {}
    for directory in directories:
        with (directory / "metrics.csv").open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                for column, value in row.items():
                    if column.startswith(SHARE) and value:
                        found.setdefault(column.removeprefix(SHARE), []).append(float(value))
    return {term: sum(values) / len(values) for term, values in found.items()}


def own_share(shares: dict[str, float]) -> float | None:
    """The share of a method's own terms; None where it has no other than a base's."""
    own = [share for term, share in shares.items() if term not in BASE_TERMS]
    return sum(own) if own else None


def loss_terms(directory: Path) -> list[str]:
    """The named terms that a cell was trained with, from its metrics.csv."""
    with (directory / "metrics.csv").open(newline="", encoding="utf-8") as file:
        columns = next(csv.reader(file))
    return [name for name in columns if name not in EPOCH_COLUMNS and not name.startswith(SHARE)]
