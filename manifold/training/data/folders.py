"""A folder of images, a folder a class, as ImageNet is commonly laid out."""

from pathlib import Path

from manifold.errors import UserError
from manifold.image_folders import list_classes
from manifold.settings import Data
from manifold.training.data.images import Images, from_paths, required_folder

MOST_SHOWN = 5  # odd classes in a message


def open_folder(data: Data) -> tuple[Images, Images, list[str]]:
    folder = required_folder(data)
    return open_classes(
        folder / "train",
        folder / "val",
        data,
        expected=f"{folder}/train/CLASS/*.jpg and {folder}/val/CLASS/*.jpg (or .png, …)",
    )


def open_inaturalist(data: Data) -> tuple[Images, Images, list[str]]:
    """iNaturalist 2021: 50 training images of each of 10,000 species; its 10 of "valid" test."""
    folder = required_folder(data)
    return open_classes(
        folder / "2021_train_mini",
        folder / "2021_valid",
        data,
        expected="2021_train_mini/CATEGORY/*.jpg and 2021_valid/CATEGORY/*.jpg as in the official "
        "archives",
    )


def open_classes(
    train: Path, test: Path, data: Data, expected: str
) -> tuple[Images, Images, list[str]]:
    """Open two folders of the same classes.

    Args:
        expected: the layout, for the error's message.

    Raises:
        UserError: a folder or an image is missing, or one of the two has another class.
    """
    if not train.parent.is_dir():
        raise UserError(f"{train.parent}: no such folder; expected {expected}")
    opened, names = [], []
    for folder in (train, test):
        try:
            classes, paths, labels, passed_by = list_classes(str(folder))
        except UserError as error:
            raise UserError(f"{error}; expected {expected}") from error
        opened.append(from_paths(paths, labels, data, passed_by.words()))
        names.append(classes)
    if names[0] != names[1]:
        odd = sorted(set(names[0]) ^ set(names[1]))
        shown = ", ".join(odd[:MOST_SHOWN])
        more = f" and {len(odd) - MOST_SHOWN} more" if len(odd) > MOST_SHOWN else ""
        raise UserError(
            f"{train.parent}: classes that only one of {train.name}/ and {test.name}/ has: "
            f"{shown}{more}"
        )
    if len(names[0]) < 2:
        raise UserError(f"{train} holds one class alone, {names[0][0]!r}")
    return *opened, names[0]
