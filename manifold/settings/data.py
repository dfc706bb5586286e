"""The settings of a data set."""

from typing import Annotated, Literal

from pydantic import Field

from manifold.errors import UserError
from manifold.settings.section import (
    Count,
    ImagesOrShare,
    Interpolation,
    Location,
    PositiveShare,
    Section,
    Share,
    Side,
)

DataSet = Literal[
    *("fashion_mnist", "digits", "cifar10", "cifar10_images", "cifar100", "folder"),
    *("mnist_5k", "textures", "faces"),
    *("flowers102", "oxford_pets", "stanford_cars", "inaturalist"),
]
Crop = Annotated[float, Field(ge=0.1, le=1)]  # less would enlarge every image tenfold


class Data(Section):
    """A data set and the form in which the networks see it."""

    dataset: DataSet
    """Which one; `folder` is any folder of train/CLASS/* and val/CLASS/*."""
    folder: Location | None
    """Where the files are; null for data that a package carries."""
    image_size: Side
    """Side of the square image that the networks see, in pixels."""
    channels: Literal[1, 3]
    """Grey or colour; images are converted."""
    mean: list[Share]
    """Of each channel, on the scale of 0 to 1."""
    std: list[PositiveShare]
    """Of each channel, on the scale of 0 to 1."""
    validation: ImagesOrShare
    """Training images held out for every choice that anyone makes; below 1: a share; 0: none."""
    least_images_per_epoch: Count | None
    """An epoch of fewer training images goes through them again, in another order; null: never."""
    crop: Crop
    """Side of the centre crop at evaluation, as a share of the resized image."""
    interpolation: Interpolation
    """How images are resized."""
    verify: bool
    """Decode every image of a folder before any compute."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of what the networks see."""
        return (self.channels, self.image_size, self.image_size)


class TeacherInput(Section):
    """The normalisation and the evaluation that outside weights were made with."""

    mean: list[Share]
    """Of each channel, on the scale of 0 to 1."""
    std: list[PositiveShare]
    """Of each channel, on the scale of 0 to 1."""
    crop: Crop
    """Side of the centre crop at evaluation, as a share of the resized image."""
    interpolation: Interpolation
    """How images are resized."""


def epoch_of(images: int, data: Data) -> int:
    """How many images an epoch shows of a training split of ``images``."""
    return max(images, data.least_images_per_epoch or 0)


def check_channels(path: str, section: Data | TeacherInput, channels: int) -> None:
    """Hold mean and std to the number of channels.

    Raises:
        UserError: names the key and both numbers.
    """
    for key in ("mean", "std"):
        values = getattr(section, key)
        if len(values) != channels:
            raise UserError(f"{path}.{key} has {len(values)} values for {channels} channel(s)")
