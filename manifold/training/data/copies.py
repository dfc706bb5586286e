"""Copies of one image within a data set, found by their bytes."""

import os
from collections import defaultdict
from pathlib import Path

from manifold.files import sha256
from manifold.training.data.images import Images, Splits
from manifold.training.data.sources import Files
from manifold.training.progress import progress

File = tuple[str, int]  # path and label
Group = tuple[list[File], list[File]]  # files of the same bytes in training and in test


def copies(splits: Splits) -> list[str]:
    """Words on images that stand in training and test, twice in one, or under two classes.

    Images in memory are those of published data sets, of which all of this is known.
    """
    if not isinstance(splits.train.source, Files):
        return []
    groups = same_bytes(_all_files(splits.train), _all_files(splits.test))
    said = copies_in_words(groups)
    odd = [
        (train + test) for train, test in groups if len({label for _, label in train + test}) > 1
    ]
    if odd:
        (first, label), *others = odd[0]
        other = next(path for path, own in others if own != label)
        said.append(
            f"{len(odd)} image(s) stand under several classes, as {first} and {other}; all but one "
            "are wrong"
        )
    return [f"warning: {line}" for line in said]


def copies_in_words(groups: list[Group]) -> list[str]:
    """Words on files of the same bytes in training and test, and on those twice in one."""
    said = []
    if both := [(train, test) for train, test in groups if train and test]:
        (train, _), (test, _) = both[0][0][0], both[0][1][0]
        said.append(
            f"{sum(len(test) for _, test in both)} test image(s) are training images too, byte for "
            f"byte, as {test} and {train}; what is measured on them is memory"
        )
    for place, what in enumerate(("training", "test")):
        if doubled := [group[place] for group in groups if len(group[place]) > 1]:
            (first, _), (second, _) = doubled[0][:2]
            count = sum(len(files) - 1 for files in doubled)
            said.append(
                f"{count} {what} image(s) are copies of others, byte for byte, as {second} of "
                f"{first}"
            )
    return said


def _all_files(images: Images) -> list[File]:
    """Those of the source: of training images also what is held out from them."""
    return list(zip(map(str, images.source.paths), images.labels.tolist(), strict=True))


def same_bytes(train: list[File], test: list[File]) -> list[Group]:
    """The files of the same bytes, where there are several: those of either folder."""
    of_size: dict[int, list[tuple[int, File]]] = defaultdict(list)
    for place, files in enumerate((train, test)):
        for file in files:
            of_size[os.path.getsize(file[0])].append((place, file))
    candidates = [entry for entries in of_size.values() if len(entries) > 1 for entry in entries]
    of_bytes: dict[str, Group] = defaultdict(lambda: ([], []))
    for place, file in progress(candidates, what="look for copies", unit="image"):
        of_bytes[sha256(Path(file[0]))][place].append(file)
    return [group for group in of_bytes.values() if len(group[0]) + len(group[1]) > 1]
