"""Scenes with boxes and masks in COCO's format, and their images.

A box is the tight one around what stays visible of its item.
"""

from benchmarks.detection import requirements  # noqa: F401 (before pycocotools)

# isort: split
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from benchmarks.detection.settings import DetectionData
from benchmarks.scenes.compose import Composer
from manifold.training.data import Splits
from manifold.training.progress import progress

WHERE = "detection.data.scenes"


def write_scenes(
    data: DetectionData, split: str, splits: Splits, interpolation: str, folder: Path
) -> tuple[dict[str, Any], str]:
    """Write a split's scenes into ``folder`` as PNG files.

    Returns:
        Its annotations in COCO's format, and the SHA-256 of all items' pixels, in order.
    """
    composer = Composer(
        data.scenes,
        split,
        getattr(splits, split),
        channels=data.channels,
        interpolation=interpolation,
        where=WHERE,
    )
    folder.mkdir(parents=True)
    images, annotations, items = [], [], hashlib.sha256()
    width, height = data.scenes.size
    scenes = range(getattr(data.scenes, split))
    for index in progress(scenes, what=f"make {split} scenes", unit="scene"):
        scene = composer.compose(index)
        name = f"{index:06d}.png"
        Image.fromarray(scene.image).save(folder / name)
        images.append({"id": index + 1, "file_name": name, "width": width, "height": height})
        for mask, label, position in zip(scene.masks, scene.labels, scene.items, strict=True):
            items.update(composer.images.load(int(composer.images.indices[position])).tobytes())
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": label + 1,
                    "bbox": tight_box(mask),
                    "area": int(mask.sum()),
                    "iscrowd": 0,
                    "segmentation": run_lengths(mask),
                }
            )
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(splits.classes)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    return content, items.hexdigest()


def tight_box(mask: np.ndarray) -> list[int]:
    """The smallest box [x, y, width, height] around a mask (H, W) that is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    (top, bottom), (left, right) = rows[[0, -1]], columns[[0, -1]]
    return [int(left), int(top), int(right - left + 1), int(bottom - top + 1)]


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """A mask (H, W) as COCO's compressed run-length encoding, in text that JSON can hold."""
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode()}
