"""The data sets of transfer learning, and what the study asks of them."""

import numpy as np

from benchmarks.transfer import Transfer
from manifold.errors import UserError
from manifold.settings import Data
from manifold.training.data import Splits, data_digest, load_splits, with_validation
from manifold.training.runs import steps_per_epoch


def open_data(name: str, data: Data) -> Splits:
    """Open a data set of the study.

    Raises:
        UserError: it is missing or corrupt; names the entry of the configuration too.
    """
    try:
        return load_splits(data)
    except UserError as error:
        raise UserError(f"transfer.data.{name}: {error}") from error


def fine_tuning_splits(study: Transfer, splits: Splits) -> Splits:
    """A data set as fine-tuning sees it, which ``Transfer.fine_tuning_data`` says too."""
    is_final = study.experiment.evaluation_split == "test"
    return with_validation(splits) if is_final else splits


def check_data(study: Transfer, name: str, splits: Splits) -> dict:
    """Hold a data set to what the study asks of it; return its sizes, classes and digest.

    Raises:
        UserError: it cannot be read, has too few images for the shots, for k, or for a batch, or
            would be measured on the images that C and k are chosen on.
    """
    experiment, entry = study.experiment, study.settings.data[name]
    where = f"transfer.data.{name}"
    if entry.protocols != ["fine-tuning"] and experiment.evaluation_split == "validation":
        raise UserError(
            f"{where}.protocols: with evaluation_split: validation only fine-tuning can be "
            "measured; the other protocols choose C and k on that split"
        )
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
        _check_neighbours(study, where, len(splits.train), len(splits.classes), entry.shots)
    if "fine-tuning" in entry.protocols:
        images, recipe = len(fine_tuning_splits(study, splits).train), entry.recipe
        try:
            steps_per_epoch(images, study.data(name), experiment.recipes[recipe], recipe)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
    sizes = {split: len(getattr(splits, split)) for split in ("train", "validation", "test")}
    if not sizes["test"]:
        raise UserError(f"{where}: the test split is empty")
    digest = data_digest(experiment.replaced(data=study.data(name)), splits)
    return {"splits": sizes, "classes": splits.classes, "data_digest": digest}


def _check_neighbours(
    study: Transfer, where: str, images: int, classes: int, shots: list[int]
) -> None:
    grid = study.settings.nearest_neighbours.neighbours
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
