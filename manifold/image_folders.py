"""Folders of images: which of their files are read, and what is passed by and told of."""

import os
from collections.abc import Iterator

from manifold.counted import Counted
from manifold.errors import UserError

# Those of torchvision's ImageFolder.
IMAGE_SUFFIXES = tuple([".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"])

# What systems and tools leave in folders, beside all that begins with a dot: .DS_Store,
# .ipynb_checkpoints, and the ._NAME.jpg that macOS puts beside a NAME.jpg.
LEFTOVERS = {
    *("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "lost+found"),
    *("$recycle.bin", "system volume information"),
}


HIDDEN = "hidden file(s) or folder(s), or leftovers of a system, passed by"
LOOPS = "link(s) that lead back to a folder above them, not followed"
CLASSLESS = "image(s) that stand in no class's folder, passed by"


def is_leftover(name: str) -> bool:
    return name.startswith(".") or name.lower() in LEFTOVERS


def unread(name: str) -> str:
    """The kind of a file that is no image, or none that is read."""
    suffix = os.path.splitext(name)[1].lower()
    ending = f"ending in {suffix}" if suffix else "without an ending"
    return f"file(s) {ending} passed by, since images are {', '.join(IMAGE_SUFFIXES)}"


def walk(
    root: str, suffixes: tuple[str, ...] = IMAGE_SUFFIXES, passed_by: Counted | None = None
) -> Iterator[tuple[str, list[str]]]:
    """Every folder at and below ``root``, links followed, with the names of what is read in it.

    Both in the order of torchvision's ImageFolder. What is hidden is not entered.
    """
    passed_by = Counted() if passed_by is None else passed_by
    found = []
    for folder, below, names in os.walk(root, followlinks=True):
        for name in sorted(filter(is_leftover, [*below, *names])):
            passed_by.add(HIDDEN, os.path.join(folder, name))
        below[:] = [name for name in below if not is_leftover(name)]
        for name in [name for name in below if _leads_back(os.path.join(folder, name))]:
            below.remove(name)
            passed_by.add(LOOPS, os.path.join(folder, name))
        read = []
        for name in sorted(names):
            if is_leftover(name):
                continue
            if name.lower().endswith(suffixes):
                read.append(name)
            else:
                passed_by.add(unread(name), os.path.join(folder, name))
        found.append((folder, read))
    yield from sorted(found)


def _leads_back(path: str) -> bool:
    """Whether a folder is a link to the folder that it is in, or to one further up."""
    if not os.path.islink(path):
        return False
    above, target = os.path.realpath(os.path.dirname(path)), os.path.realpath(path)
    return os.path.commonpath([above, target]) == target


def list_classes(root: str) -> tuple[list[str], list[str], list[int], Counted]:
    """The classes of a folder of folders, its images with the numbers of their classes, the rest.

    Raises:
        UserError: there is no such folder, it holds no folders, or one of them no image.
    """
    passed_by = Counted()
    try:
        entries = sorted(os.scandir(root), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{root}: {error.strerror}") from error
    classes = []
    for entry in entries:
        if is_leftover(entry.name):
            passed_by.add(HIDDEN, entry.path)
        elif entry.is_dir():
            classes.append(entry.name)
        else:
            is_image = entry.name.lower().endswith(IMAGE_SUFFIXES)
            passed_by.add(CLASSLESS if is_image else unread(entry.name), entry.path)
    paths, labels, empty = [], [], []
    for label, name in enumerate(classes):
        before = len(paths)
        for folder, names in walk(os.path.join(root, name), passed_by=passed_by):
            paths += [os.path.join(folder, name) for name in names]
        labels += [label] * (len(paths) - before)
        if len(paths) == before:
            empty.append(name)
    if not classes or empty:
        fault = f"no image in the folder(s) {', '.join(empty)}" if empty else "no folder of a class"
        raise UserError("; ".join([f"{root}: {fault}", *passed_by.words()]))
    return classes, paths, labels, passed_by
