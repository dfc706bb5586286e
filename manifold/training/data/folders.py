"""A folder of images, a folder a class, as ImageNet is commonly laid out."""

from torchvision import datasets

from manifold.errors import UserError
from manifold.settings import Data
from manifold.training.data.images import Images, from_paths, required_folder


def open_folder(data: Data) -> tuple[Images, Images, list[str]]:
    folder = required_folder(data)
    splits = []
    for name in ("train", "val"):
        try:
            splits.append(datasets.ImageFolder(folder / name))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UserError(
                f"{folder / name}: {error}; expected {folder}/train/CLASS/*.jpg and "
                f"{folder}/val/CLASS/*.jpg (or .png and what else torchvision's ImageFolder reads)"
            ) from error
    train, test = splits
    if train.classes != test.classes:
        odd = sorted(set(train.classes) ^ set(test.classes))
        raise UserError(f"{folder}: classes that only one of train/ and val/ has: {', '.join(odd)}")
    if len(train.classes) < 2:
        raise UserError(f"{folder}/train holds one class alone, {train.classes[0]!r}")

    def images(split: datasets.ImageFolder) -> Images:
        return from_paths(*zip(*split.samples, strict=True), data)

    return images(train), images(test), list(train.classes)
