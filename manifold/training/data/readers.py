"""Who reads which data set: its reader opens both splits that it comes with."""

from collections.abc import Callable
from dataclasses import dataclass

from manifold.settings import Data
from manifold.training.data import archives, fashion_mnist, folders, packaged
from manifold.training.data.images import Images


@dataclass(frozen=True)
class Reader:
    """How a data set is opened.

    Attributes:
        open: finds, checks and opens it; returns its training images, its test images and the
            names of its classes.
        by_class: its images stand in the order of their classes, so that every class is held out
            from by itself.
    """

    open: Callable[[Data], tuple[Images, Images, list[str]]]
    by_class: bool = True


READERS = {
    "digits": Reader(packaged.open_digits, by_class=False),
    "fashion_mnist": Reader(fashion_mnist.open_fashion_mnist, by_class=False),
    "cifar10": Reader(archives.open_cifar, by_class=False),
    "cifar10_images": Reader(folders.open_cifar10_images),
    "cifar100": Reader(archives.open_cifar, by_class=False),
    "folder": Reader(folders.open_folder),
    "mnist_5k": Reader(packaged.open_mnist_5k),
    "textures": Reader(packaged.open_textures),
    "faces": Reader(packaged.open_faces),
    "flowers102": Reader(archives.open_flowers102),
    "oxford_pets": Reader(archives.open_oxford_pets),
    "stanford_cars": Reader(archives.open_stanford_cars),
    "inaturalist": Reader(folders.open_inaturalist),
}
