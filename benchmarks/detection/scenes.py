"""Scenes: items of the students' data set on photographs, with exact boxes and masks.

The scenes of a split hold images of the students' split of that name alone, on photographs of its
own. Later items cover earlier ones; a mask is what stays visible of its item, and a
box is the tight one around it. Scene i follows from (seed, split, i) alone, however many are made.
"""

from benchmarks.detection import requirements  # noqa: F401 (before pycocotools)

# isort: split
import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from benchmarks.detection.settings import DetectionData, Scenes
from manifold.errors import UserError
from manifold.image_files import Mode, mode_of, read_image
from manifold.seeds import derive
from manifold.settings import suggest
from manifold.training.data import Images, Splits
from manifold.training.progress import progress

PHOTOGRAPH_SUFFIXES = (".png", ".jpg")


@dataclass
class Scene:
    """A scene of height H and width W.

    Attributes:
        image, background: (H, W) or (H, W, 3) bytes, with and without the items.
        masks: (H, W) truth values an item, in the order of pasting: its visible pixels.
        labels: class indices.
        items: the images' positions in their split.
    """

    image: np.ndarray
    background: np.ndarray
    masks: list[np.ndarray]
    labels: list[int]
    items: list[int]


# ---- photographs -----------------------------------------------------------------------------


def find_photographs(names: list[str]) -> dict[str, Path]:
    """Find photographs in the installed packages.

    Raises:
        UserError: neither scikit-image nor scikit-learn carries a file of that name.
    """
    folders = [Path(str(files("skimage.data"))), Path(str(files("sklearn.datasets"))) / "images"]
    known = {
        path.name: path
        for folder in folders
        for path in sorted(folder.iterdir())
        if path.suffix in PHOTOGRAPH_SUFFIXES
    }
    for name in names:
        if name not in known:
            raise UserError(
                f"detection.data.scenes.photographs: no {name!r} in scikit-image or scikit-learn."
                f"{suggest(name, known)} Known: {', '.join(known)}"
            )
    return {name: known[name] for name in names}


def _read_photograph(path: Path, mode: Mode, brightness: float) -> Image.Image:
    return read_image(path, mode).point(lambda value: value * brightness)


# ---- one scene -------------------------------------------------------------------------------


class Composer:
    """Draws the scenes of one split.

    Args:
        images: the split whose images are the items.
    """

    def __init__(self, data: DetectionData, split: str, images: Images, interpolation: str):
        self.scenes: Scenes = data.scenes
        self.split = split
        self.images = images
        self.mode = mode_of(data.channels)
        self.resampling = Image.Resampling[interpolation.upper()]
        paths = find_photographs(getattr(self.scenes.photographs, split))
        self.photographs = [
            _read_photograph(path, self.mode, self.scenes.brightness) for path in paths.values()
        ]

    def compose(self, index: int) -> Scene:
        """Draw scene ``index``.

        Raises:
            UserError: its items find no place.
        """
        scenes = self.scenes
        generator = np.random.default_rng(derive(scenes.seed, "scenes", self.split, index))
        background = self._background(generator)
        scene = Scene(background.copy(), background, [], [], [])
        wholes: list[int] = []  # pixels of every item, covered or not
        count = generator.integers(scenes.items[0], scenes.items[1], endpoint=True)
        for number in range(count):
            for _ in range(scenes.tries):
                if self._place(scene, wholes, generator):
                    break
            else:
                raise UserError(
                    f"detection.data.scenes: item {number + 1} of {count} of {self.split} scene "
                    f"{index} found no place in {scenes.tries} tries; make size larger, items or "
                    "sides or least_visible smaller, or allow more tries"
                )
        return scene

    def _background(self, generator: np.random.Generator) -> np.ndarray:
        """A part of a photograph, in a random size from the scene's own on, maybe mirrored."""
        width, height = self.scenes.size
        photograph = self.photographs[generator.integers(len(self.photographs))]
        largest = min(photograph.width / width, photograph.height / height)
        zoom = generator.uniform(min(1.0, largest), largest)
        left = generator.uniform(0, photograph.width - zoom * width)
        top = generator.uniform(0, photograph.height - zoom * height)
        part = photograph.resize(
            (width, height),
            Image.Resampling.BILINEAR,
            box=(left, top, left + zoom * width, top + zoom * height),
        )
        pixels = np.asarray(part)
        return pixels[:, ::-1].copy() if generator.integers(2) else pixels

    def _place(self, scene: Scene, wholes: list[int], generator: np.random.Generator) -> bool:
        """Draw an item, a size and a place; paste it unless that covers too much of another."""
        position = int(generator.integers(len(self.images)))
        item, foreground = self._item(position, generator)
        height, width = foreground.shape
        top = generator.integers(scene.image.shape[0] - height, endpoint=True)
        left = generator.integers(scene.image.shape[1] - width, endpoint=True)
        window = (slice(top, top + height), slice(left, left + width))
        covering = np.zeros(scene.image.shape[:2], dtype=bool)
        covering[window] = foreground
        whole = int(foreground.sum())
        remaining = [mask & ~covering for mask in scene.masks]
        if whole == 0 or any(
            mask.sum() < self.scenes.least_visible * pixels
            for mask, pixels in zip(remaining, wholes, strict=True)
        ):
            return False
        scene.image[window][foreground] = item[foreground]
        scene.masks = [*remaining, covering]
        scene.labels.append(int(self.images.labels[self.images.indices[position]]))
        scene.items.append(position)
        wholes.append(whole)
        return True

    def _item(self, position: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """An image, its longer side as drawn, and the mask of its foreground."""
        image = self.images.load(int(self.images.indices[position])).convert(self.mode)
        side = int(generator.integers(*self.scenes.sides, endpoint=True))
        scale = side / max(image.size)
        size = [max(1, round(length * scale)) for length in image.size]
        image = image.resize(size, self.resampling)
        pixels = np.asarray(image)
        if self.scenes.foreground is None:
            return pixels, np.ones(pixels.shape[:2], dtype=bool)
        return pixels, np.asarray(image.convert("L")) > 255 * self.scenes.foreground


# ---- all of a split --------------------------------------------------------------------------


def write_scenes(
    data: DetectionData, split: str, splits: Splits, interpolation: str, folder: Path
) -> tuple[dict[str, Any], str]:
    """Write a split's scenes into ``folder`` as PNG files.

    Returns:
        Its annotations in COCO's format, and the SHA-256 of all items' pixels, in order.
    """
    composer = Composer(data, split, getattr(splits, split), interpolation)
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
