"""Make, or check, the images and annotations that the detectors learn from.

``detection/data/{train,validation,test}.json`` in COCO's format, ``data.json`` about them, and
where the scale composes scenes, their images. Images of a folder stay where they are.
"""

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.dense import FOLDER_SPLITS
from benchmarks.detection import RECORD, Detection, annotations, coco_files, scenes
from benchmarks.detection.data import (
    data_directory,
    image_folder,
    names_and_sizes,
)
from benchmarks.detection.settings import DetectionData
from benchmarks.scenes.compose import find_photographs
from manifold.files import sha256, write_directory, write_text
from manifold.settings import Experiment, fingerprint, to_plain
from manifold.training.alone import alone_on
from manifold.training.data import data_digest, load_splits
from manifold.training.data.copies import copies_in_words, same_bytes

NOTES = "notes.txt"


def prepare(experiment: Experiment) -> None:
    """Write the data's folder anew.

    Raises:
        UserError: a photograph is unknown, or annotations or images are broken.
    """
    make = _make_scenes if experiment.detection.data.scenes is not None else _take_folder
    with alone_on([data_directory(experiment)]):
        write_directory(data_directory(experiment), lambda partial: make(experiment, partial))


def _make_scenes(experiment: Experiment, partial: Path) -> None:
    data = experiment.detection.data
    splits = load_splits(experiment.data)
    study: Detection = experiment.studies["detection"]
    contents, sources = {}, {}
    for split in study.splits:
        contents[split], items = scenes.write_scenes(
            data, split, splits, experiment.data.interpolation, partial / split
        )
        notes = coco_files.Notes(partial / f"{split}.json")
        coco_files.check(contents[split], notes, partial / split, split, data.masks)
        photographs = find_photographs(getattr(data.scenes.photographs, split), scenes.WHERE)
        sources[split] = {
            "photographs": {name: sha256(path) for name, path in photographs.items()},
            "items": items,
            "images": _digest(path.read_bytes() for path in sorted((partial / split).iterdir())),
        }
    made_of = {"dataset": experiment.data, "data_digest": data_digest(experiment, splits)}
    write(experiment, partial, contents, sources, made_of)


def _take_folder(experiment: Experiment, partial: Path) -> None:
    contents, notes = read_folder(experiment.detection.data)
    tell(experiment, notes)
    folder, sources = experiment.detection.data.folder, {}
    for split in FOLDER_SPLITS:
        images = image_folder(experiment, split)
        paths = [images / entry["file_name"] for entry in contents[split]["images"]]
        found = names_and_sizes(images, paths)
        # Here too, so that detectors of other images are told apart by their annotations.
        contents[split]["info"] = {"names_and_sizes_sha256": found}
        sources[split] = {
            "annotations": sha256(Path(getattr(folder, f"{split}_annotations"))),
            "names_and_sizes": found,
        }
    write(experiment, partial, contents, sources, {"read_otherwise": notes})


def read_folder(data: DetectionData) -> tuple[dict[str, annotations.Content], list[str]]:
    """Read and check a user's annotations, and what of the images is to be checked.

    Returns:
        The content of each split's file, as ``annotations.read_folder`` gives it, and what is to be
        told about it.

    Raises:
        UserError: annotations or images are broken or missing.
    """
    contents, notes = annotations.read_folder(data.folder, data.masks, data.verify)
    notes += _repeated(data, contents)
    return contents, notes


def _repeated(data: DetectionData, contents: dict[str, annotations.Content]) -> list[str]:
    """Words on images that stand in both splits, or twice in one, and on boxes given twice."""
    said, files = [], {}
    for split in FOLDER_SPLITS:
        images = Path(getattr(data.folder, f"{split}_images"))
        entries = contents[split]["images"]
        paths = [(images / entry["file_name"]).resolve() for entry in entries]
        files[split] = dict.fromkeys(paths)  # each once
        if twice := [path for path, count in Counter(paths).items() if count > 1]:
            said.append(f"{len(twice)} {split} image(s) have several entries, as {twice[0]}")
        boxes = Counter(
            (entry["image_id"], entry["category_id"], *entry["bbox"])
            for entry in contents[split]["annotations"]
        )
        if twice := [box for box, count in boxes.items() if count > 1]:
            name = entries[twice[0][0] - 1]["file_name"]
            said.append(
                f"{len(twice)} {split} box(es) are given several times, as {list(twice[0][2:])} "
                f"of {name}: each counts"
            )
    if shared := files["train"].keys() & files["test"].keys():
        said.append(
            f"{len(shared)} image(s) stand in both the training and the test annotations, as "
            f"{min(shared)}; what is measured on them is memory"
        )
    if data.verify:
        others = ([(str(p), 0) for p in files[split] if p not in shared] for split in FOLDER_SPLITS)
        said += copies_in_words(same_bytes(*others))
    return [f"warning: {line}" for line in said]


def tell(experiment: Experiment, notes: list[str]) -> None:
    """Print what is read otherwise than it is written, once for the same data."""
    path, text = data_directory(experiment).parent / NOTES, "".join(f"{n}\n" for n in notes)
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    sys.stderr.write(text)
    write_text(path, text)


def write(
    experiment: Experiment,
    partial: Path,
    contents: dict[str, annotations.Content],
    sources: dict[str, dict[str, Any]],
    more: dict[str, Any],
) -> None:
    """Write the annotation files, and the record of what they hold and come from."""
    data = experiment.detection.data
    record = {
        "kind": "folder" if data.scenes is None else "scenes",
        "settings": data,
        **more,
        "categories": [entry["name"] for entry in contents["train"]["categories"]],
        "splits": {split: count(content) for split, content in contents.items()},
        "sources_sha256": sources,
    }
    for split, content in contents.items():
        path = partial / f"{split}.json"
        path.write_text(json.dumps(content), encoding="utf-8")
        record["splits"][split]["annotations_sha256"] = sha256(path)
    record["fingerprint"] = fingerprint(
        [record["splits"], record["sources_sha256"], data.masks, data.channels]
    )
    (partial / RECORD).write_text(json.dumps(to_plain(record), indent=2) + "\n", encoding="utf-8")


def count(content: annotations.Content) -> dict[str, Any]:
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
