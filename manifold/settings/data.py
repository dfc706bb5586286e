"""The settings of a data set."""

from typing import Annotated, Literal

from pydantic import Field

from manifold.errors import UserError
from manifold.settings.section import Count, Interpolation, Location, Section, WholeNumber

DataSet = Literal[
    *("fashion_mnist", "digits", "cifar10", "cifar100", "folder"),
    *("mnist_5k", "textures", "faces"),
    *("flowers102", "oxford_pets", "stanford_cars", "inaturalist"),
]
Crop = Annotated[float, Field(gt=0)]


class Data(Section):
    """A data set and the form in which the networks see it."""

    dataset: DataSet
    """Which one; `folder` is any folder of train/CLASS/* and val/CLASS/*."""
    folder: Location | None
    """Where the files are; null for data that a package carries."""
    image_size: Count
    """Side of the square image that the networks see, in pixels."""
    channels: Literal[1, 3]
    """Grey or colour; images are converted."""
    mean: list[float]
    """Of each channel, on the scale of 0 to 1."""
    std: list[float]
    """Of each channel, on the scale of 0 to 1."""
    validation: WholeNumber
    """Training images held out for every choice that anyone makes; 0: none."""
    crop: Crop
    """Side of the centre crop at evaluation, as a share of the resized image."""
    interpolation: Interpolation
    """How images are resized."""
    verify: bool
    """Decode every image of a folder before any compute."""


class TeacherInput(Section):
    """The normalisation and the evaluation that outside weights were made with."""

    mean: list[float]
    """Of each channel, on the scale of 0 to 1."""
    std: list[float]
    """Of each channel, on the scale of 0 to 1."""
    crop: Crop
    """Side of the centre crop at evaluation, as a share of the resized image."""
    interpolation: Interpolation
    """How images are resized."""


def check_channels(path: str, section: Data | TeacherInput, channels: int) -> None:
    """Hold mean and std to the number of channels.

    Raises:
        UserError: names the key and both numbers.
    """
    for key in ("mean", "std"):
        values = getattr(section, key)
        if len(values) != channels:
            raise UserError(f"{path}.{key} has {len(values)} values for {channels} channel(s)")
