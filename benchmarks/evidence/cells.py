"""Collect the records of finished cells."""

import csv
from collections.abc import Iterable

from manifold.errors import UserError
from manifold.settings import Experiment
from manifold.settings.recorded import METRICS, Key, expected_fingerprint, recorded
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
        UserError: a cell or its teacher is missing, or it is of another configuration or teacher.
    """
    return {
        method: {
            seed: _read(experiment, (pair, recipe, epochs, method, seed))
            for seed in seeds or experiment.seeds
        }
        for method in methods or experiment.methods_of(pair)
    }


def _read(experiment: Experiment, key: Key) -> dict:
    path = experiment.cell_directory(*key) / "run.json"
    if (found := recorded(experiment, key)) is not None:
        return found.run
    if not path.is_file():
        raise UserError(f"{path}: this cell has not been run; snakemake makes it")
    record, expected = read_run(path), expected_fingerprint(experiment, key)
    if expected is None:
        weights = experiment.teacher_weights(key[0])
        raise UserError(f"{weights} is not there, the teacher of {path}; snakemake makes it")
    if record.get("fingerprint") != expected:
        raise UserError(f"{path} is of another configuration; delete its folder to run it again")
    return record


BASE_TERMS = {"cross_entropy", "kl"}  # what a method's own terms are added to


Metrics = list[dict[str, str]]  # a row an epoch


def metrics_of(experiment: Experiment, key: Key) -> Metrics:
    """The metrics.csv of a cell that is here, or of its record."""
    found = recorded(experiment, key)
    path = experiment.cell_directory(*key) / METRICS
    text = path.read_text(encoding="utf-8") if found is None else found.metrics
    return list(csv.DictReader(text.splitlines()))


def gradient_shares(cells: Iterable[Metrics]) -> dict[str, float]:
    """Each term's share of the gradient by the student's parameters, a mean over epochs and cells.

    A share is the norm of the term's gradient over the sum of all terms' norms. Empty where the
    trainings did not look.
    """
    found: dict[str, list[float]] = {}
    for rows in cells:
        for row in rows:
            for column, value in row.items():
                if column.startswith(SHARE) and value:
                    found.setdefault(column.removeprefix(SHARE), []).append(float(value))
    return {term: sum(values) / len(values) for term, values in found.items()}


def own_share(shares: dict[str, float]) -> float | None:
    """The share of a method's own terms; None where it has no other than a base's."""
    own = [share for term, share in shares.items() if term not in BASE_TERMS]
    return sum(own) if own else None


def loss_terms(rows: Metrics) -> list[str]:
    """The named terms that a cell was trained with."""
    return [name for name in rows[0] if name not in EPOCH_COLUMNS and not name.startswith(SHARE)]
