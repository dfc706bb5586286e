"""What images are read from: arrays in memory, or files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from manifold.image_files import ImageCheck, Mode, read_image


class Source(Protocol):
    """Images by their number."""

    def load(self, index: int) -> Image.Image:
        """Decode an image."""

    def check(self, index: int, found: ImageCheck) -> None:
        """Decode an image, and add what that changes to what has been found."""


@dataclass
class Arrays:
    """Images (N, height, width) or (N, height, width, 3), as bytes in memory."""

    images: np.ndarray
    mode: Mode

    def load(self, index: int) -> Image.Image:
        return Image.fromarray(self.images[index]).convert(self.mode)

    def check(self, index: int, found: ImageCheck) -> None:
        self.load(index)

    def identity(self, indices: np.ndarray) -> Iterator[bytes]:
        """Their shape and type, and every pixel."""
        yield f"{self.images.shape[1:]} {self.images.dtype.str}\n".encode()
        for index in indices.tolist():
            yield self.images[index].tobytes()


@dataclass
class Files:
    """Image files."""

    paths: Sequence[Path | str]
    mode: Mode

    def load(self, index: int) -> Image.Image:
        return read_image(str(self.paths[index]), self.mode)

    def check(self, index: int, found: ImageCheck) -> None:
        found.read(str(self.paths[index]), self.mode)
