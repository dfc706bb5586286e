"""The images and annotations of detection's rehearsal: a small folder in COCO's format."""

from benchmarks.detection import mmdetection  # noqa: F401 (before mmdet)

# isort: split
import json
from pathlib import Path
from typing import Any

import numpy as np
from mmdet.datasets import CocoDataset
from PIL import Image

from benchmarks.detection.rehearsal import DetectionRehearsalSettings
from benchmarks.detection.scenes import tight_box
from benchmarks.detection.settings import CocoFolder
from benchmarks.rehearsal.images import JPEG_QUALITY, crops
from manifold.files import write_directory
from manifold.seeds import derive
from manifold.settings import Experiment

UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)  # of 1 to 90, by COCO's 80 categories
CORNERS = 12  # of a polygon


def coco_folder(experiment: Experiment) -> CocoFolder:
    """The images and annotations that the rehearsal makes, laid out as COCO's."""
    folder = experiment.studies["rehearsal_detection"].coco
    return CocoFolder(
        train_images=str(folder / "train2017"),
        train_annotations=str(folder / "annotations" / "instances_train2017.json"),
        test_images=str(folder / "val2017"),
        test_annotations=str(folder / "annotations" / "instances_val2017.json"),
    )


def make(experiment: Experiment) -> None:
    """Write images and annotations in COCO's layout, with its 80 categories and their ids.

    The images are crops of scikit-learn's two photographs. Each has objects of all sizes, as
    polygons (the first in two parts), and one crowd as run lengths.
    """
    study, folder = experiment.studies["rehearsal_detection"], coco_folder(experiment)
    generator = np.random.default_rng(derive(experiment.seeds[0], "detection rehearsal"))
    ids = [number for number in range(1, 91) if number not in UNUSED_IDS]
    names = CocoDataset.METAINFO["classes"]
    categories = [{"id": i, "name": name} for i, name in zip(ids, names, strict=True)]

    def write(partial_folder: Path) -> None:
        for split in ("train", "test"):
            images = partial_folder / Path(getattr(folder, f"{split}_images")).name
            annotations = partial_folder / "annotations"
            images.mkdir()
            annotations.mkdir(exist_ok=True)
            content: dict[str, list] = {"images": [], "annotations": [], "categories": categories}
            photographs = crops(study.settings.jpeg_size, generator)
            for number in range(getattr(study.settings, split)):
                photograph, name = next(photographs), f"{number + 1:012d}.jpg"
                photograph.save(images / name, quality=JPEG_QUALITY)
                _annotate(content, photograph, name, ids, study.settings, generator)
            path = Path(getattr(folder, f"{split}_annotations"))
            (annotations / path.name).write_text(json.dumps(content), encoding="utf-8")

    write_directory(study.coco, write)


def _annotate(
    content: dict[str, list],
    photograph: Image.Image,
    name: str,
    ids: list[int],
    settings: DetectionRehearsalSettings,
    generator: np.random.Generator,
) -> None:
    """Add an image with its objects and its crowd to the lists of an annotation file."""
    width, height = photograph.size
    number = len(content["images"]) + 1
    content["images"].append({"id": number, "file_name": name, "width": width, "height": height})

    def add(box: list[float], segmentation: Any, is_crowd: bool) -> None:
        content["annotations"].append(
            {
                "id": len(content["annotations"]) + 1,
                "image_id": number,
                "category_id": int(generator.choice(ids)),
                "bbox": box,
                "segmentation": segmentation,
                "iscrowd": int(is_crowd),
            }
        )

    sides = height * np.geomspace(*settings.sides, settings.objects)
    for place, side in enumerate(sides):
        radius = side / 2
        centre = [generator.uniform(radius, whole - radius) for whole in (width, height)]
        parts = [_polygon(centre, radius, generator) for _ in range(2 if place == 0 else 1)]
        corners = np.concatenate(parts)
        low, extent = corners.min(axis=0), np.ptp(corners, axis=0)
        add([*low.tolist(), *extent.tolist()], [part.ravel().tolist() for part in parts], False)
    crowd = np.zeros((height, width), dtype=bool)
    crowd[: height // 4, : width // 3] = True
    add(tight_box(crowd), {"size": [height, width], "counts": _run_lengths(crowd)}, True)


def _polygon(centre: list[float], radius: float, generator: np.random.Generator) -> np.ndarray:
    """The corners (CORNERS, 2) of a rough disc."""
    angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    lengths = radius * generator.uniform(0.6, 1, CORNERS)
    return centre + lengths[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _run_lengths(mask: np.ndarray) -> list[int]:
    """The uncompressed runs of a mask (H, W), column by column, background first, as COCO's."""
    values = mask.ravel(order="F").astype(int)
    edges = np.flatnonzero(np.diff(values, prepend=0))
    return np.diff([0, *edges, len(values)]).tolist()
