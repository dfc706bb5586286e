"""Make, or check, the images and annotations that the detectors learn from.

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
from benchmarks.detection.data import RECORD, SPLITS, data_directory, image_folder
from manifold.files import sha256, write_directory
from manifold.settings import Experiment, fingerprint, to_plain
from manifold.training.data import data_digest, load_splits


def prepare(experiment: Experiment) -> None:
    """Write the data's folder anew.

    Raises:
        UserError: a detector's file is missing, a photograph is unknown, or annotations are broken.
    """
    for detector in experiment.detection.detectors:
        experiment.studies["detection"].configuration_file(detector)
    make = _make_scenes if experiment.detection.data.scenes is not None else _check_folder
    write_directory(data_directory(experiment), lambda partial: make(experiment, partial))


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
    made_of = {"dataset": experiment.data, "data_digest": data_digest(experiment, splits)}
    _write(experiment, partial, contents, sources, made_of)


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
