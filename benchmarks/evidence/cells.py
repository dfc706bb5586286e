"""Collect the records of finished cells."""

import csv
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


def loss_terms(directory: Path) -> list[str]:
    """The named terms that a cell was trained with, from its metrics.csv."""
    with (directory / "metrics.csv").open(newline="", encoding="utf-8") as file:
        columns = next(csv.reader(file))
    return [name for name in columns if name not in EPOCH_COLUMNS and not name.startswith(SHARE)]
