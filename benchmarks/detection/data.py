"""The images and annotations that the detectors learn from, where ``prepare`` has put them."""

import json
from pathlib import Path
from typing import Any

from benchmarks.detection import RANDOM
from manifold.errors import UserError
from manifold.settings import Experiment

SPLITS = ("train", "test")
RECORD = "data.json"
RANDOM_TITLE = "Random weights"


def data_directory(experiment: Experiment) -> Path:
    return experiment.studies["detection"].data_folder


def annotation_file(experiment: Experiment, split: str) -> Path:
    """COCO annotations of "train" or "test", checked."""
    return data_directory(experiment) / f"{split}.json"


def image_folder(experiment: Experiment, split: str) -> Path:
    """Where the images of "train" or "test" are."""
    folder = experiment.detection.data.folder
    if folder is not None:
        return Path(getattr(folder, f"{split}_images"))
    return data_directory(experiment) / split


def read_record(experiment: Experiment) -> dict[str, Any]:
    """What ``prepare`` wrote about the data.

    Raises:
        UserError: it has not run.
    """
    path = data_directory(experiment) / RECORD
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing; run python -m benchmarks detection prepare first"
        ) from None


def categories(experiment: Experiment) -> list[str]:
    """The classes' names, in the order of the annotation files.

    Raises:
        UserError: ``prepare`` has not run.
    """
    return read_record(experiment)["categories"]


def title_of(experiment: Experiment, method: str) -> str:
    """What a backbone is called in tables and figures."""
    return RANDOM_TITLE if method == RANDOM else experiment.method_definitions[method].title
