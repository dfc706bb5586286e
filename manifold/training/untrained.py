"""Initialise a pair's teacher and train it not at all: the control for what a teacher knows.

``python -m manifold initialise-teacher --config scale=mini --pair untrained-teacher`` writes
``teachers/PAIR/untrained.safetensors`` and, beside it, ``untrained.json`` with seed and SHA-256.
"""

import json
from pathlib import Path

from manifold.errors import UserError
from manifold.files import sha256, write_text
from manifold.models import create_model, save_weights
from manifold.seeds import derive, reseed
from manifold.settings import UNTRAINED, Experiment, Model
from manifold.settings.sources import job_hash
from manifold.settings.stale import tell_code
from manifold.training import command
from manifold.training.data import Splits, data_digest, load_splits


def initialise(experiment: Experiment, pair: str) -> dict:
    """Write the weights that the network is created with; return what untrained.json holds.

    Raises:
        UserError: the pair's teacher has weights of another kind.
    """
    teacher = experiment.pairs[pair].teacher
    if teacher.weights != UNTRAINED:
        raise UserError(
            f"pairs.{pair}.teacher.weights is {teacher.weights!r}; only {UNTRAINED!r} is "
            "initialised here"
        )
    splits = load_splits(experiment.data)
    path = experiment.teacher_weights(pair)
    return write_initialised(experiment, teacher.model, splits, teacher.seed, path)


def write_initialised(
    experiment: Experiment, model: Model, splits: Splits, seed: int, path: Path
) -> dict:
    """Write the weights that a network has before the first step of a seed, and their record."""
    data, classes = experiment.data, len(splits.classes)
    shape = data.image_shape
    reseed(derive(seed, "initialisation"))
    save_weights(create_model(model, shape, classes), path)
    record = {"seed": seed, "classes": classes, "epochs": 0, "images_seen": 0}
    record |= {"sha256": sha256(path), "data_digest": data_digest(experiment, splits)}
    write_text(path.with_suffix(".json"), json.dumps(record, indent=2) + "\n")
    return record


def main() -> None:
    parser = command.parser("manifold initialise-teacher", __doc__)
    parser.add_argument("--pair", required=True)
    options = parser.parse_args()
    experiment, made_by = command.experiment(options), job_hash("manifold.training.untrained")
    initialise(experiment, options.pair)
    tell_code([experiment.teacher_directory(options.pair) / f"{UNTRAINED}.json"], made_by)
