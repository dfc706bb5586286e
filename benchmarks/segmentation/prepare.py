"""Make, or check, the images and masks that the segmenters learn from.

``segmentation/data/data.json`` says which they are; where the scale composes scenes, they stand
beside it, as ``SPLIT/{images,masks}/*.png``. Those of a folder stay where they are.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.scenes.compose import Composer, find_photographs
from benchmarks.segmentation import BACKGROUND, Segmentation
from benchmarks.segmentation.masks import class_names, read_folder
from manifold.files import sha256, write_directory, write_text
from manifold.settings import Experiment, fingerprint, to_plain
from manifold.training.alone import alone_on
from manifold.training.data import Splits, data_digest, load_splits
from manifold.training.progress import progress

WHERE = "segmentation.data.scenes"
NOTES = "notes.txt"
KINDS = ("images", "masks")


def prepare(experiment: Experiment) -> None:
    """Write the data's folder anew.

    Raises:
        UserError: a photograph is unknown, or images or masks are broken.
    """
    study = experiment.studies["segmentation"]
    splits = load_splits(experiment.data)
    is_composed = study.settings.data.scenes is not None

    def make(partial: Path) -> None:
        found = compose(study, splits, partial) if is_composed else take_folder(study)
        text = json.dumps(to_plain(found), indent=2) + "\n"
        (partial / study.found.name).write_text(text, encoding="utf-8")

    with alone_on([study.data_folder]):
        write_directory(study.data_folder, make)


def compose(study: Segmentation, splits: Splits, folder: Path) -> dict[str, Any]:
    """Write the scenes of both splits into a folder; return what data.json is to hold."""
    experiment, scenes = study.experiment, study.settings.data.scenes
    sources: dict[str, Any] = {}
    examples = {}
    for split in study.splits:
        composer = Composer(
            scenes,
            split,
            getattr(splits, split),
            channels=study.settings.data.channels,
            interpolation=experiment.data.interpolation,
            where=WHERE,
        )
        names, digest = [], hashlib.sha256()
        for kind in KINDS:
            (folder / split / kind).mkdir(parents=True)
        count = getattr(scenes, split)
        for index in progress(range(count), what=f"make {split} scenes", unit="scene"):
            scene, name = composer.compose(index), f"{index:06d}.png"
            classes = np.zeros(scene.image.shape[:2], dtype=np.uint8)
            for mask, label in zip(scene.masks, scene.labels, strict=True):
                classes[mask] = 1 + label
            for kind, pixels in zip(KINDS, (scene.image, classes), strict=True):
                Image.fromarray(pixels).save(folder / split / kind / name)
                digest.update(pixels.tobytes())
            names.append([name, name])
        photographs = find_photographs(getattr(scenes.photographs, split), WHERE)
        sources[split] = {
            "photographs": {name: sha256(path) for name, path in photographs.items()},
            "pixels": digest.hexdigest(),
        }
        examples[split] = names
    return {
        "kind": "scenes",
        "classes": [BACKGROUND, *splits.classes],
        "folders": {s: {k: str(study.data_folder / s / k) for k in KINDS} for s in study.splits},
        "examples": examples,
        "sources_sha256": sources,
        "data_digest": data_digest(experiment, splits),
        "fingerprint": fingerprint(["scenes", sources]),
    }


def take_folder(study: Segmentation) -> dict[str, Any]:
    """Check a user's images and masks; return what data.json is to hold.

    Raises:
        UserError: says all that is wrong, file by file.
    """
    data = study.settings.data
    examples, notes = read_folder(data)
    tell(study, notes)
    classes, digest = class_names(data), study.folder_digest()
    return {
        "kind": "folder",
        "classes": classes,
        "folders": {
            split: {kind: getattr(getattr(data.folder, split), kind) for kind in KINDS}
            for split in study.splits
        },
        "examples": {
            split: [
                [
                    str(path.relative_to(getattr(getattr(data.folder, split), kind)))
                    for path, kind in zip((example.image, example.mask), KINDS, strict=True)
                ]
                for example in own
            ]
            for split, own in examples.items()
        },
        "files": digest,
        "fingerprint": fingerprint(["folder", digest, classes, data.ignore_zero]),
    }


def tell(study: Segmentation, notes: list[str]) -> None:
    """Print what is read otherwise than it is written, once for the same data."""
    path, text = study.data_folder.parent / NOTES, "".join(f"{note}\n" for note in notes)
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    sys.stderr.write(text)
    write_text(path, text)
