"""The images and annotations that the detectors learn from, where ``prepare`` has put them."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.dense import FOLDER_SPLITS, PATCH_EMBEDDING
from benchmarks.detection import RANDOM, RECORD
from benchmarks.detection.settings import CocoFolder
from manifold.errors import UserError
from manifold.files import sha256
from manifold.settings import Experiment


def data_directory(experiment: Experiment) -> Path:
    return experiment.studies["detection"].data_folder


def annotation_file(experiment: Experiment, split: str) -> Path:
    """COCO annotations of a split, checked."""
    return data_directory(experiment) / f"{split}.json"


def image_folder(experiment: Experiment, split: str) -> Path:
    """Where the images of a split are."""
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


def found_in_folder(folder: CocoFolder) -> dict[str, Any]:
    """What tells a user's files from what they were before: another value prepares them again.

    Of annotations that is their content; of images their names and sizes, since reading every one
    may take an hour. Nothing stands for a file or a folder that is not there.
    """
    found: dict[str, Any] = {}
    for split in FOLDER_SPLITS:
        annotations = Path(getattr(folder, f"{split}_annotations"))
        found[f"{split}_annotations"] = sha256(annotations) if annotations.is_file() else None
        images = Path(getattr(folder, f"{split}_images"))
        found[f"{split}_images"] = names_and_sizes(
            images,
            (
                os.path.join(parent, name)
                for parent, folders, names in os.walk(images)
                for name in sorted(names)
                if not folders.sort()  # in place: the order in which they are walked
            ),
        )
    return found


def names_and_sizes(folder: Path, paths: Iterable[str | Path]) -> str:
    """SHA-256, in hexadecimal, of the names of files below a folder, and their sizes."""
    digest, prefix = hashlib.sha256(), os.path.join(folder, "")
    for path in map(str, paths):
        digest.update(os.fsencode(f"{path.removeprefix(prefix)} {os.stat(path).st_size}\n"))
    return digest.hexdigest()


def title_of(experiment: Experiment, method: str) -> str:
    """What a backbone is called in tables and figures."""
    definitions, baseline = experiment.method_definitions, experiment.detection.baseline
    if method == RANDOM:
        return "Random weights"
    if method == PATCH_EMBEDDING:
        return f"Patch embedding of {definitions[baseline].title} alone"
    return definitions[method].title
