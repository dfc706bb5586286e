"""Index masks: how they are read, which image each belongs to, and what is wrong with them.

A mask is a PNG of palette or grey values, one a pixel of its image, that are class indices; 255 is
no class. With ``ignore_zero`` 0 is none either, and k stands for the class k − 1, as in ADE20K.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.dense import FOLDER_SPLITS
from benchmarks.segmentation import MASK_SUFFIXES
from benchmarks.segmentation.settings import IGNORED, MaskFolders, SegmentationData
from manifold.counted import Counted
from manifold.errors import Faults, UserError
from manifold.image_files import ImageCheck, mode_of, size_as_shown
from manifold.image_folders import IMAGE_SUFFIXES, walk
from manifold.training.progress import progress

SCALED = {"L;2": 85, "L;4": 17}  # by what PIL multiplies grey values of so few bits
INDEX_MODES = ("P", "L", "1")
READ_FIRST = 20  # masks of a split that are read where not all are
SHOWN = 5  # unknown indices in a message


@dataclass(frozen=True)
class Example:
    """An image, the mask of its classes, and the mask's name below its folder."""

    image: Path
    mask: Path
    name: str


def class_names(data: SegmentationData) -> list[str]:
    """The names of a folder's classes; their numbers, where only these are given."""
    return data.class_names or [str(number) for number in range(data.classes)]


def lookup(classes: int, ignore_zero: bool) -> np.ndarray:
    """(256,) class of every value of a mask, ``IGNORED`` for none, and −1 where it is unknown."""
    table = np.full(256, -1, dtype=np.int64)
    first = int(ignore_zero)
    table[:first] = IGNORED
    table[first : first + classes] = np.arange(classes)
    table[IGNORED] = IGNORED
    return table


def read_mask(path: Path, table: np.ndarray) -> np.ndarray:
    """The classes (height, width) of a mask, as bytes.

    Args:
        table: as ``lookup`` gives it.

    Raises:
        UserError: it cannot be read, is no index mask, or holds an index of no class.
    """
    try:
        with Image.open(path) as image:
            mode, raw = image.mode, [tile.args for tile in image.tile]
            values = np.array(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read as a mask: {error}; replace it") from error
    if mode not in INDEX_MODES:
        raise UserError(
            f"{path} is an image of mode {mode}, and no index mask: a mask is a PNG with a palette "
            "or of grey values of 8 bits, whose values are class indices; convert it"
        )
    for arguments in raw:
        factor = SCALED.get(arguments if isinstance(arguments, str) else arguments[0], 1)
        values = values // factor
    found = table[values.astype(np.uint8)]
    if (found < 0).any():
        unknown = np.unique(values[found < 0]).tolist()
        more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
        known = np.flatnonzero((table >= 0) & (table != IGNORED)).tolist()
        raise UserError(
            f"{path} holds {', '.join(map(str, unknown[:SHOWN]))}{more}, which "
            f"{'are indices' if len(unknown) > 1 else 'is the index'} of no class: classes are "
            f"{known[0]} to {known[-1]}, and {IGNORED} is none; correct the mask, or "
            "segmentation.data.classes (or class_names) and ignore_zero"
        )
    return found.astype(np.uint8)


# ---- folders ---------------------------------------------------------------------------------


def match(folder: MaskFolders, faults: Faults) -> tuple[dict[str, list[Example]], list[str]]:
    """The examples of each split by the paths of images and masks, and what was passed by.

    What lacks its other half is added to the faults.
    """
    passed_by, found = Counted(), {}
    for split in FOLDER_SPLITS:
        part = getattr(folder, split)
        with faults.collected():
            where = f"segmentation.data.folder.{split}"
            images = _files(part.images, f"{where}.images", IMAGE_SUFFIXES, passed_by, faults)
            masks = _files(part.masks, f"{where}.masks", MASK_SUFFIXES, passed_by, faults)
            for name in sorted(images.keys() - masks.keys()):
                expected = Path(part.masks) / f"{name}{MASK_SUFFIXES[0]}"
                faults.add(f"{images[name]} has no mask; expected {expected}")
            for name in sorted(masks.keys() - images.keys()):
                faults.add(f"{masks[name]} has no image; expected {Path(part.images) / name}.*")
            both = sorted(images.keys() & masks.keys())
            found[split] = [
                Example(images[name], masks[name], os.path.relpath(masks[name], part.masks))
                for name in both
            ]
    return found, passed_by.words()


def _files(
    root: str, where: str, suffixes: tuple[str, ...], passed_by: Counted, faults: Faults
) -> dict[str, Path]:
    """Files by their paths below a folder, without their endings.

    Raises:
        UserError: there is no such folder, or it holds none of them.
    """
    if not Path(root).is_dir():
        raise UserError(f"{where}: no such folder: {root}; correct the path")
    found: dict[str, Path] = {}
    for folder, names in walk(root, suffixes, passed_by):
        for name in names:
            path = Path(folder) / name
            if not _is_text(str(path)):
                shown = os.fsencode(path).decode("utf-8", "backslashreplace")
                faults.add(f"{shown}: its name is not UTF-8; rename it")
                continue
            key = os.path.splitext(os.path.relpath(path, root))[0]
            if key in found:
                faults.add(f"{path} and {found[key]} have one name; rename or remove one of them")
            found[key] = path
    if not found:
        raise UserError(f"{where}: {root} holds no file ending in {', '.join(suffixes)}")
    return found


def _is_text(name: str) -> bool:
    """Whether a name can be written as UTF-8, as the archive of predictions needs it."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def read_folder(data: SegmentationData) -> tuple[dict[str, list[Example]], list[str]]:
    """Match and check a user's images and masks.

    Returns:
        The examples of each split, and what is to be told about them.

    Raises:
        UserError: says all that is wrong, file by file.
    """
    from manifold.training.data.copies import copies_in_words, same_bytes  # slow to import

    faults, check = Faults(), ImageCheck()
    examples, said = match(data.folder, faults)
    table = lookup(len(class_names(data)), data.ignore_zero)
    for split, own in examples.items():
        check.part = {"train": "training"}.get(split, split)
        labelled = False
        shown = progress(own, what=f"check {split} masks", unit="mask")
        for number, example in enumerate(shown):
            with faults.collected():
                is_read = data.verify or number < READ_FIRST or not labelled
                labelled |= _check(example, data, table, check, is_read)
        if own and not labelled and not faults.found:
            faults.add(
                f"segmentation.data.folder.{split}: no mask has a pixel of a class; all are "
                f"{IGNORED}{' or 0' if data.ignore_zero else ''}"
            )
    if not faults.found:
        with faults.collected():
            said += check.refuse_dim()
    faults.raise_any()
    said += check.words()
    if data.verify:
        files = ([(str(e.image), 0) for e in examples[split]] for split in FOLDER_SPLITS)
        said += [f"warning: {line}" for line in copies_in_words(same_bytes(*files))]
    return examples, said


def _check(
    example: Example, data: SegmentationData, table: np.ndarray, check: ImageCheck, is_read: bool
) -> bool:
    """Hold an image and its mask to each other; say whether any pixel is known to have a class.

    Args:
        is_read: the mask's pixels are, and not its size alone.

    Raises:
        UserError: one cannot be read, their sizes differ, or the mask holds what is no class.
    """
    sizes: dict[str, Callable[[], list[int]]] = {
        "mask": lambda: size_as_shown(example.mask),
        "image": lambda: size_as_shown(example.image),
    }
    labelled = False
    if is_read:
        classes = read_mask(example.mask, table)
        labelled = bool((classes != IGNORED).any())
        sizes["mask"] = lambda: [*classes.shape[::-1]]
    if data.verify:
        image = check.read(str(example.image), mode_of(data.channels))
        sizes["image"] = lambda: [*image.size]
    mask, shown = sizes["mask"](), sizes["image"]()
    if mask != shown:
        raise UserError(
            f"{example.mask} has {mask[0]}×{mask[1]} pixels, and its image {example.image}, as it "
            f"is shown, {shown[0]}×{shown[1]}; a mask has one value for each pixel of its image"
        )
    return labelled
