"""Images and masks as the networks see them: fitted into one size, and padded.

Every draw follows from the seed that comes with an image's position, as in the students' training.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from benchmarks.segmentation import Segmentation
from benchmarks.segmentation.masks import Example, lookup, read_mask
from benchmarks.segmentation.settings import IGNORED, FineTuningRecipe
from manifold.errors import UserError
from manifold.image_files import mode_of, read_image
from manifold.seeds import reseed


@dataclass
class Examples(Dataset):
    """The examples of one split.

    ``split[i, seed]`` draws its augmentation from ``seed``; ``split[i, None]`` draws nothing.

    Attributes:
        table: as ``lookup`` gives it.
        channels: of the images.
        size: width, height in pixels of what the networks see.
        mean, std: of each channel, on the scale of 0 to 1.
        augmentation: what draws; None: nothing does.
    """

    examples: Sequence[Example]
    table: np.ndarray
    channels: int
    size: list[int]
    mean: list[float]
    std: list[float]
    augmentation: FineTuningRecipe | None = None

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, key: tuple[int, int | None]) -> tuple[Tensor, Tensor]:
        """Image (C, H, W), normalised, and classes (H, W), both of ``size``."""
        position, seed = key
        image, classes = self.image(position), self.classes(position)
        if seed is None or self.augmentation is None:
            return self.fitted(image), self.fitted_classes(classes)
        reseed(seed)
        low, high = self.augmentation.resize
        shown = fit(image.size, self.size, np.random.uniform(low, high))
        offset = [_offset(own, whole) for own, whole in zip(shown, self.size, strict=True)]
        pixels = self._normalised(image.resize(shown, Image.Resampling.BILINEAR))
        labels = torch.from_numpy(_resized(classes, shown))
        pixels = _placed(pixels, offset, self.size, 0.0)
        labels = _placed(labels, offset, self.size, IGNORED)
        if np.random.random() < self.augmentation.horizontal_flip:
            pixels, labels = pixels.flip(-1), labels.flip(-1)
        return pixels, labels.long()

    def image(self, position: int) -> Image.Image:
        return read_image(self.examples[position].image, mode_of(self.channels))

    def classes(self, position: int) -> np.ndarray:
        """(height, width) of the whole mask, as bytes."""
        return read_mask(self.examples[position].mask, self.table)

    def fitted(self, image: Image.Image) -> Tensor:
        """An image (C, H, W) in the upper left corner of ``size``."""
        shown = fit(image.size, self.size)
        pixels = self._normalised(image.resize(shown, Image.Resampling.BILINEAR))
        return _placed(pixels, [0, 0], self.size, 0.0)

    def fitted_classes(self, classes: np.ndarray) -> Tensor:
        """Classes (H, W) as ``fitted`` places their image."""
        shown = fit(classes.shape[::-1], self.size)
        labels = torch.from_numpy(_resized(classes, shown))
        return _placed(labels, [0, 0], self.size, IGNORED).long()

    def _normalised(self, image: Image.Image) -> Tensor:
        values = torch.from_numpy(np.array(image, dtype=np.float32) / 255)
        values = values.reshape(*values.shape[:2], -1).permute(2, 0, 1)
        mean, std = (torch.tensor(each)[:, None, None] for each in (self.mean, self.std))
        return (values - mean) / std


def fit(size: Sequence[int], whole: Sequence[int], factor: float = 1.0) -> list[int]:
    """Width and height of an image that is shrunk or enlarged into ``whole``, times a factor."""
    scale = factor * min(w / own for own, w in zip(size, whole, strict=True))
    return [max(1, round(own * scale)) for own in size]


def _resized(classes: np.ndarray, size: list[int]) -> np.ndarray:
    return np.array(Image.fromarray(classes).resize(size, Image.Resampling.NEAREST))


def _offset(own: int, whole: int) -> int:
    """Where an image begins that is cut, or padded, at a random place: before 0 where it is cut."""
    low, high = sorted((0, whole - own))
    return int(np.random.randint(low, high + 1))


def _placed(values: Tensor, offset: list[int], size: list[int], filling: float) -> Tensor:
    """Values (…, h, w) with their upper left corner at ``offset`` of a map (…, H, W)."""
    (left, top), (width, height) = offset, size
    right, bottom = width - left - values.shape[-1], height - top - values.shape[-2]
    return F.pad(values, (left, right, top, bottom), value=filling)


# ---- what prepare has left ---------------------------------------------------------------------


def read_found(study: Segmentation) -> dict[str, Any]:
    """What ``prepare`` wrote about the data.

    Raises:
        UserError: it has not run, or the images or masks of a folder are others since.
    """
    try:
        found = json.loads(study.found.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{study.found} is missing; python -m benchmarks segmentation prepare makes it"
        ) from None
    if found.get("files") != study.folder_digest():
        raise UserError(
            f"{study.found} is of other images or masks than segmentation.data now has; python -m "
            "benchmarks segmentation prepare makes it anew"
        )
    return found


def open_split(study: Segmentation, found: dict[str, Any], split: str) -> Examples:
    """The examples of a split.

    Args:
        found: as ``read_found`` gives it.
    """
    data = study.settings.data
    images, masks = (Path(found["folders"][split][kind]) for kind in ("images", "masks"))
    examples = [Example(images / own, masks / of, of) for own, of in found["examples"][split]]
    return examples_of(study, examples, len(found["classes"]), is_folder=data.folder is not None)


def examples_of(
    study: Segmentation, examples: list[Example], classes: int, is_folder: bool
) -> Examples:
    data, own = study.settings.data, study.experiment.data
    mean, std = own.mean, own.std
    if len(mean) != data.channels:
        mean, std = ([sum(v) / len(v)] * data.channels for v in (mean, std))
    table = lookup(classes, is_folder and data.ignore_zero)
    return Examples(examples, table, data.channels, data.size, mean, std)
