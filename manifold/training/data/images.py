"""Images of a split with their labels, and what the readers of the data sets make them from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from manifold.errors import UserError
from manifold.image_files import mode_of
from manifold.seeds import reseed
from manifold.settings import Data
from manifold.training.data.sources import Arrays, Files, Source


@dataclass
class Images(Dataset):
    """Images of one split.

    ``split[i, seed]`` draws its augmentation from ``seed``; ``split[i, None]`` draws nothing.

    Attributes:
        source: reads an image by its number.
        indices: the numbers of this split's images in the source.
        labels: class indices of all images of the source.
        passed_by: words on what stands beside the images and is not read.
    """

    source: Source
    indices: np.ndarray
    labels: np.ndarray
    transform: Callable[[Image.Image], Tensor] | None = None
    passed_by: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: tuple[int, int | None]) -> tuple[Tensor, int]:
        position, seed = key
        if seed is not None:
            reseed(seed)
        index = int(self.indices[position])
        return self.transform(self.load(index)), int(self.labels[index])

    def load(self, index: int) -> Image.Image:
        return self.source.load(index)

    def transformed(self, transform: Callable[[Image.Image], Tensor]) -> "Images":
        return replace(self, transform=transform)


@dataclass
class Splits:
    train: Images
    validation: Images
    test: Images
    classes: list[str]


def from_arrays(images: np.ndarray, labels: np.ndarray, data: Data) -> Images:
    return _all_of(Arrays(images, mode_of(data.channels)), labels)


def from_paths(
    paths: Sequence[Path | str],
    labels: Sequence[int],
    data: Data,
    passed_by: Sequence[str] = (),
) -> Images:
    images = _all_of(Files(paths, mode_of(data.channels)), labels)
    return replace(images, passed_by=passed_by)


def required_folder(data: Data) -> Path:
    if data.folder is None:
        raise UserError(f"data.folder must name the folder of data set {data.dataset!r}")
    return Path(data.folder)


def _all_of(source: Source, labels: Sequence[int] | np.ndarray) -> Images:
    return Images(source, np.arange(len(labels)), np.asarray(labels, dtype=np.int64))
