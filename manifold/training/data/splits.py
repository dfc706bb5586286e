"""Three splits of every data set.

The training split loses its last images to a validation split, for every choice that anyone makes;
the test split is for the final evaluation alone.
"""

import sys
from dataclasses import replace

import numpy as np

from manifold.errors import Faults, UserError
from manifold.image_files import ImageCheck
from manifold.settings import Data
from manifold.training.data.copies import copies
from manifold.training.data.images import Splits
from manifold.training.data.readers import READERS
from manifold.training.progress import progress


def load_splits(data: Data) -> Splits:
    """Find, check and open a data set.

    Raises:
        UserError: it is missing or corrupt; names the file and the layout that is expected.
    """
    train, test, classes = READERS[data.dataset].open(data)
    held_out = _held_out(train.labels, classes, data)
    return Splits(
        train=replace(train, indices=train.indices[~held_out]),
        validation=replace(train, indices=train.indices[held_out]),
        test=test,
        classes=classes,
    )


def with_validation(splits: Splits) -> Splits:
    """The same data with the held-out images back in the training split, none held out."""
    train, held_out = splits.train, splits.validation
    return replace(
        splits,
        train=replace(train, indices=np.sort(np.concatenate([train.indices, held_out.indices]))),
        validation=replace(held_out, indices=held_out.indices[:0]),
    )


def _held_out(labels: np.ndarray, classes: list[str], data: Data) -> np.ndarray:
    """The last images of the training split; where that is sorted by class, of each class."""
    held_out = np.zeros(len(labels), dtype=bool)
    if data.validation == 0:
        return held_out
    total = len(labels)
    if data.validation >= total:
        raise UserError(
            f"data.validation {data.validation} leaves nothing of {total} training images; "
            "give a smaller number, or a share of them (0.1)"
        )
    is_share = data.validation < 1
    asked = max(1, round(data.validation * total)) if is_share else data.validation
    if not READERS[data.dataset].by_class:
        held_out[total - asked :] = True
        return held_out
    wrong = []
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        if is_share:
            count = max(1, round(data.validation * len(own)))
        else:
            count = round(data.validation * len(own) / total)
        if not 0 < count < len(own):
            wrong.append(f"{count} of the {len(own)} of class {classes[label]!r}")
        held_out[own[len(own) - count :]] = True
    if wrong:
        raise UserError(
            f"data.validation {data.validation} holds out {', '.join(wrong)}; choose a number or a "
            "share that takes some images and leaves some of every class"
        )
    return held_out


def verify(splits: Splits, decode: bool = True) -> None:
    """Say what stands beside the images, and look at every image once.

    What is told: files that are passed by, what reading changes (turned, scaled, put on a
    background), and copies of one image.

    Args:
        decode: false leaves it at the files that are passed by, for data that take hours to read.

    Raises:
        UserError: names the files that cannot be read, or are not read as anyone means it.
    """
    said = [*splits.train.passed_by, *splits.test.passed_by]
    if decode:
        found, faults = ImageCheck(), Faults()
        for name in ("train", "validation", "test"):
            split = getattr(splits, name)
            found.part = "test" if name == "test" else "training"
            for index in progress(split.indices, what=f"verify {name}", unit="image"):
                with faults.collected():
                    split.source.check(int(index), found)
        faults.raise_any()
        said += [*found.refuse_dim(), *found.words(), *copies(splits)]
    for line in said:
        print(line, file=sys.stderr)
