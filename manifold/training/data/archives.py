"""Data sets in the form of their official archives, unpacked, as torchvision reads them."""

import numpy as np
from torch.utils.data import Dataset
from torchvision import datasets

from manifold.errors import UserError
from manifold.settings import Data
from manifold.training.data.images import Images, from_arrays, from_paths, required_folder


def open_cifar(data: Data) -> tuple[Images, Images, list[str]]:
    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[data.dataset]
    folder = required_folder(data)
    try:
        train, test = (kind(folder, train=train) for train in (True, False))
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"{folder}: no intact {data.dataset} ({error}); expected {kind.base_folder}/ with the "
            f"files of the official python archive, {kind.url}"
        ) from error
    return (
        from_arrays(train.data, np.array(train.targets), data),
        from_arrays(test.data, np.array(test.targets), data),
        list(train.classes),
    )


def open_flowers102(data: Data) -> tuple[Images, Images, list[str]]:
    """2,040 training images, those of torchvision's train and val; 6,149 test images."""
    expected = "flowers-102/ with jpg/image_*.jpg, imagelabels.mat and setid.mat"
    splits = {
        split: _from_torchvision(data, expected, datasets.Flowers102, split=split)
        for split in ("train", "val", "test")
    }
    paths = {split: (made._image_files, made._labels) for split, made in splits.items()}
    train = [first + second for first, second in zip(paths["train"], paths["val"], strict=True)]
    return from_paths(*train, data), from_paths(*paths["test"], data), splits["test"].classes


def open_oxford_pets(data: Data) -> tuple[Images, Images, list[str]]:
    expected = "oxford-iiit-pet/ with images/*.jpg and annotations/{trainval,test}.txt"
    splits = [
        _from_torchvision(data, expected, datasets.OxfordIIITPet, split=split)
        for split in ("trainval", "test")
    ]
    train, test = (from_paths(made._images, made._labels, data) for made in splits)
    return train, test, splits[0].classes


def open_stanford_cars(data: Data) -> tuple[Images, Images, list[str]]:
    expected = (
        "stanford_cars/ with devkit/, cars_train/, cars_test/ and cars_test_annos_withlabels.mat"
    )
    splits = [
        _from_torchvision(data, expected, datasets.StanfordCars, split=split)
        for split in ("train", "test")
    ]
    train, test = (
        from_paths(*zip(*((path, int(label)) for path, label in made._samples), strict=True), data)
        for made in splits
    )
    return train, test, [str(name) for name in splits[0].classes]


def _from_torchvision(data: Data, expected: str, kind: type, **arguments: str) -> Dataset:
    folder = required_folder(data)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected {expected} in it")
    try:
        return kind(folder, **arguments)
    except (RuntimeError, OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{folder}: no intact {data.dataset} ({error}); expected {expected} in it"
        ) from error
