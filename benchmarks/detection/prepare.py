"""Make, or check, the images and annotations that the detectors learn from.

``python -m benchmarks.detection.prepare --config scale=mini`` writes
``detection/data/{train,test}.json`` in COCO's format, ``data.json`` about them, and where the
scale composes scenes, their images. Images of a folder stay where they are.
"""

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.detection import annotations, scenes
from manifold import command
from manifold.config import RANDOM, ROOT, Experiment, fingerprint, to_plain
from manifold.data import load_splits
from manifold.errors import UserError
from manifold.files import sha256, write_directory

SPLITS = ("train", "test")
RECORD = "data.json"
RANDOM_TITLE = "Random weights"


# ---- what others read ------------------------------------------------------------------------


def data_directory(experiment: Experiment) -> Path:
    return experiment.directory / "detection" / "data"


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
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing; run python -m benchmarks.detection.prepare first"
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


# ---- making it -------------------------------------------------------------------------------


def prepare(experiment: Experiment) -> None:
    """Write the data's folder anew.

    Raises:
        UserError: the scale has no detection, a detector's file is missing, a photograph is
            unknown, or annotations are broken.
    """
    if experiment.detection is None:
        raise UserError(
            f"scale {experiment.scale!r} has no section 'detection'; give it one, as in "
            "config/scales/mini.yaml"
        )
    check_detectors(experiment)
    make = _make_scenes if experiment.detection.data.scenes is not None else _check_folder
    write_directory(data_directory(experiment), lambda partial: make(experiment, partial))


def check_detectors(experiment: Experiment) -> None:
    """Look for the detectors' configuration files.

    Raises:
        UserError: names the detector and the file that is missing.
    """
    for name, file in experiment.detection.detectors.items():
        if not (ROOT / file).is_file():
            raise UserError(
                f"detection.detectors.{name}: no file {ROOT / file}; give the path of a "
                "configuration of mmdet, as those in config/detection/"
            )


def _make_scenes(experiment: Experiment, partial: Path) -> None:
    data = experiment.detection.data
    splits = load_splits(experiment.data)
    contents, sources = {}, {}
    for split in SPLITS:
        contents[split], items = scenes.write_scenes(
            data, split, splits, experiment.data.interpolation, partial / split
        )
        annotations.check(
            contents[split], partial / f"{split}.json", partial / split, split, data.masks
        )
        photographs = scenes.find_photographs(getattr(data.scenes.photographs, split))
        sources[split] = {
            "photographs": {name: sha256(path) for name, path in photographs.items()},
            "items": items,
            "images": _digest(path.read_bytes() for path in sorted((partial / split).iterdir())),
        }
    _write(experiment, partial, contents, sources, {"dataset": experiment.data})


def _check_folder(experiment: Experiment, partial: Path) -> None:
    data = experiment.detection.data
    contents = annotations.read_folder(data.folder, data.masks)
    images = {
        split: [folder / entry["file_name"] for entry in contents[split]["images"]]
        for split in SPLITS
        for folder in [image_folder(experiment, split).resolve()]
    }
    sources = {
        split: {
            "annotations": sha256(Path(getattr(data.folder, f"{split}_annotations"))),
            # Reading every image may take an hour; names and sizes tell most changes.
            "names_and_sizes": _digest(
                f"{path.name} {path.stat().st_size}\n".encode() for path in images[split]
            ),
        }
        for split in SPLITS
    }
    shared = set(images["train"]) & set(images["test"])
    if shared:
        print(
            f"warning: {len(shared)} image(s) stand in both the training and the test annotations, "
            f"as {min(shared)}; what is measured on them is memory",
            file=sys.stderr,
        )
    _write(experiment, partial, contents, sources, {"images_in_both": len(shared)})


def _write(
    experiment: Experiment,
    partial: Path,
    contents: dict[str, dict[str, Any]],
    sources: dict[str, dict[str, Any]],
    more: dict[str, Any],
) -> None:
    """Write both annotation files, and the record of what they hold and come from."""
    data = experiment.detection.data
    record = {
        "kind": "folder" if data.scenes is None else "scenes",
        "settings": data,
        **more,
        "categories": [entry["name"] for entry in contents["train"]["categories"]],
        "splits": {split: _count(contents[split]) for split in SPLITS},
        "sources_sha256": sources,
    }
    for split in SPLITS:
        path = partial / f"{split}.json"
        path.write_text(json.dumps(contents[split]))
        record["splits"][split]["annotations_sha256"] = sha256(path)
    record["fingerprint"] = fingerprint(
        [record["splits"], record["sources_sha256"], data.masks, data.channels]
    )
    (partial / RECORD).write_text(json.dumps(to_plain(record), indent=2) + "\n")


def _count(content: dict[str, Any]) -> dict[str, Any]:
    """Count images, annotations, and annotations of each class."""
    counts = Counter(entry["category_id"] for entry in content["annotations"])
    annotated = {entry["image_id"] for entry in content["annotations"]}
    return {
        "images": len(content["images"]),
        "images_without_annotations": len(content["images"]) - len(annotated),
        "annotations": len(content["annotations"]),
        "annotations_per_class": {
            entry["name"]: counts[entry["id"]] for entry in content["categories"]
        },
    }


def _digest(parts: Iterable[bytes]) -> str:
    together = hashlib.sha256()
    for part in parts:
        together.update(part)
    return together.hexdigest()


def main() -> None:
    prepare(
        command.experiment(command.parser("benchmarks.detection.prepare", __doc__).parse_args())
    )


if __name__ == "__main__":
    command.run(main)
