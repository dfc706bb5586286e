"""Scenes: items of the students' data set on photographs, with an exact mask of each item.

The scenes of a split hold images of the students' split of that name alone, on photographs of its
own. Later items cover earlier ones; a mask is what stays visible of its item. Scene i follows from
(seed, split, i) alone, however many are made.
"""

from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.scenes import Scenes
from manifold.errors import UserError
from manifold.image_files import Mode, mode_of, read_image
from manifold.seeds import derive
from manifold.settings import suggest
from manifold.training.data import Images

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


def find_photographs(names: list[str], where: str) -> dict[str, Path]:
    """Find photographs in the installed packages.

    Args:
        where: the key of the section of scenes, for messages.

    Raises:
        UserError: neither scikit-image nor scikit-learn carries a file of that name.
    """
    for module, package in (("skimage", "scikit-image"), ("sklearn", "scikit-learn")):
        if find_spec(module) is None:
            raise UserError(
                f"{where}: {package}, which carries photographs, is not installed; install it "
                f"with: pip install '.[{where.partition('.')[0]}]'"
            )
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
                f"{where}.photographs: no {name!r} in scikit-image or scikit-learn."
                f"{suggest(name, known)} Known: {', '.join(known)}"
            )
    return {name: known[name] for name in names}


def _read_photograph(path: Path, mode: Mode, brightness: float) -> Image.Image:
    return read_image(path, mode).point(lambda value: value * brightness)


# ---- one scene -------------------------------------------------------------------------------


class Composer:
    """Draws the scenes of one split.

    Args:
        split: "train", "validation" or "test", whose photographs are the backgrounds.
        images: the split whose images are the items.
        channels: of the scenes, 1 or 3.
        where: the key of the section, for messages.
    """

    def __init__(
        self,
        scenes: Scenes,
        split: str,
        images: Images,
        *,
        channels: int,
        interpolation: str,
        where: str,
    ):
        self.scenes = scenes
        self.split = split
        self.images = images
        self.where = where
        self.mode = mode_of(channels)
        self.resampling = Image.Resampling[interpolation.upper()]
        paths = find_photographs(getattr(scenes.photographs, split), where)
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
                    f"{self.where}: item {number + 1} of {count} of {self.split} scene "
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
