"""What images are read from: arrays in memory, or files."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from manifold.errors import UserError
from manifold.image_files import ImageCheck, Mode, read_image


class Source(Protocol):
    """Images by their number."""

    def load(self, index: int) -> Image.Image:
        """Decode an image."""

    def check(self, index: int, found: ImageCheck) -> None:
        """Decode an image, and add what that changes to what has been found."""

    def identity(self, indices: np.ndarray) -> Iterator[bytes]:
        """What tells the images at ``indices`` from others, on any machine and in any folder."""


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
    """Image files below a folder."""

    folder: Path
    paths: Sequence[Path | str]
    mode: Mode

    def load(self, index: int) -> Image.Image:
        return read_image(str(self.paths[index]), self.mode)

    def check(self, index: int, found: ImageCheck) -> None:
        found.read(str(self.paths[index]), self.mode)

    def identity(self, indices: np.ndarray) -> Iterator[bytes]:
        """Their paths below the folder, and their sizes.

        Not their bytes: to read a million files takes hours.

        Raises:
            UserError: one of them is not there.
        """
        prefix = os.path.join(self.folder, "")
        for index in indices.tolist():
            path = str(self.paths[index])
            try:
                size = os.stat(path).st_size
            except OSError as error:
                raise UserError(f"{path} cannot be read: {error.strerror}; replace it") from error
            yield os.fsencode(f"{path.removeprefix(prefix)}\0{size}\n")
