"""Before transfer learning: check its data sets, and write the students that know nothing.

``python -m benchmarks.transfer.prepare --config scale=mini`` writes ``transfer/data.json`` and each
seed's ``transfer/seed-SEED/untrained.safetensors``.
"""

import json

import numpy as np

from manifold import command
from manifold.config import Data, Experiment
from manifold.data import Splits, load_splits, verify
from manifold.errors import UserError
from manifold.files import write_text
from manifold.runs import steps_per_epoch
from manifold.untrained import write_initialised


def open_data(name: str, data: Data) -> Splits:
    """Open a data set of the study.

    Raises:
        UserError: it is missing or corrupt; names the entry of the configuration too.
    """
    try:
        return load_splits(data)
    except UserError as error:
        raise UserError(f"transfer.data.{name}: {error}") from error


def check_data(experiment: Experiment, name: str) -> dict:
    """Hold a data set to what the study asks of it; return its sizes and classes.

    Raises:
        UserError: it cannot be read, has too few images for the shots, for k, or for a batch, or
            would be measured on the images that C and k are chosen on.
    """
    entry = experiment.transfer.data[name]
    where = f"transfer.data.{name}"
    if entry.protocols != ["fine-tuning"] and experiment.evaluation_split == "validation":
        raise UserError(
            f"{where}.protocols: with evaluation_split: validation only fine-tuning can be "
            "measured; the other protocols choose C and k on that split"
        )
    splits = open_data(name, experiment.transfer_data(name))
    if entry.verify:
        try:
            verify(splits)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
    counts = np.bincount(splits.train.labels[splits.train.indices], minlength=len(splits.classes))
    smallest = int(counts.argmin())
    needed = max([1, *entry.shots])
    if counts[smallest] < needed:
        raise UserError(
            f"{where}: {needed} training images of each class are asked for, and class "
            f"{splits.classes[smallest]!r} has {counts[smallest]} beside those held out; lower "
            f"{where}.shots or {where}.validation"
        )
    if "k-nn" in entry.protocols:
        _check_neighbours(experiment, where, len(splits.train), len(splits.classes), entry.shots)
    if "fine-tuning" in entry.protocols:
        tuned = open_data(name, experiment.fine_tuning_data(name))
        steps_per_epoch(len(tuned.train), experiment.recipes[entry.recipe], entry.recipe)
    sizes = {split: len(getattr(splits, split)) for split in ("train", "validation", "test")}
    if not sizes["test"]:
        raise UserError(f"{where}: the test split is empty")
    return {"splits": sizes, "classes": splits.classes}


def _check_neighbours(
    experiment: Experiment, where: str, images: int, classes: int, shots: list[int]
) -> None:
    grid = experiment.transfer.nearest_neighbours.neighbours
    if max(grid) > images:
        raise UserError(
            f"transfer.nearest_neighbours.neighbours: k = {max(grid)} is more than the {images} "
            f"training images of {where}; leave it out"
        )
    fewest = min(shots, default=1) * classes
    if shots and min(grid) > fewest:
        raise UserError(
            f"transfer.nearest_neighbours.neighbours: the smallest k = {min(grid)} is more than "
            f"the {fewest} images of {min(shots)} shot(s) of {classes} classes of {where}; add one"
        )


def prepare(experiment: Experiment) -> dict:
    """Check every data set, then initialise the untrained student of every seed.

    Returns:
        What ``transfer/data.json`` holds: the sizes and classes of every data set.

    Raises:
        UserError: whatever would stop the study later.
    """
    if experiment.transfer is None:
        raise UserError(f"scale {experiment.scale!r} has no section 'transfer'")
    found = {name: check_data(experiment, name) for name in experiment.transfer.data}
    classes = len(load_splits(experiment.data).classes)
    student = experiment.pairs[experiment.transfer.pair].student
    for seed in experiment.seeds:
        path = experiment.untrained_student(seed)
        write_initialised(experiment, student, classes, seed, path)
    write_text(experiment.directory / "transfer/data.json", json.dumps(found, indent=2) + "\n")
    return found


def main() -> None:
    parser = command.parser("benchmarks.transfer.prepare", __doc__)
    prepare(command.experiment(parser.parse_args()))


if __name__ == "__main__":
    command.run(main)
