"""A digest of the files that a data set is read from, quick enough for every plan of a workflow.

It is over the files' paths below the data set's folder, their sizes, and their bytes; the same for
a copy elsewhere, and for files that were only touched. Bytes are read once: what was read is
remembered, with size and times, in a file beside the results. Of data that are too large for that
it is over paths and sizes, and of very many files it is taken anew only where a folder has changed:
there a file that is overwritten in its place, and keeps its size or its folder's time, goes unseen.

Other data sets need no digest: installed packages carry them, or whoever opens them holds them to
the hashes that are published.
"""

import functools
import hashlib
import json
import os
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from manifold.files import sha256, write_text
from manifold.image_folders import IMAGE_SUFFIXES, walk
from manifold.settings.data import Data

WITH_LABELS = (*IMAGE_SUFFIXES, ".mat", ".txt")

# What each data set is read from: folders below its own, and the endings of files in them.
PARTS = {
    "folder": (("train", "val"), IMAGE_SUFFIXES),
    "cifar10_images": (("train", "test"), IMAGE_SUFFIXES),
    "flowers102": (("flowers-102",), WITH_LABELS),
    "oxford_pets": (("oxford-iiit-pet",), WITH_LABELS),
    "stanford_cars": (("stanford_cars",), WITH_LABELS),
    "inaturalist": (("2021_train_mini", "2021_valid"), IMAGE_SUFFIXES),
}
MARK = "files-"  # what such a digest begins with; others in records are of pixels, or older

MOST_BYTES = 2 * 2**30  # that are read, which takes seconds
MOST_FILES = 100_000  # whose sizes and times are asked for, which takes a second or two
LONG_BYTES = 2**28  # of which it is said that they are read
SETTLED_SECONDS = 2  # a file that is younger may be written once more within one tick of its times

Stamp = list[int]  # what changes when a file or a folder does: of a file its size, and both times


def files_digest(data: Data, results: str | Path) -> str | None:
    """The digest of a data set's files, as this process first finds them.

    Args:
        results: the folder below which is remembered what was read.

    Returns:
        None where the data set is none of files that may change, or is not there.
    """
    if data.dataset not in PARTS or data.folder is None:
        return None
    parts, suffixes = PARTS[data.dataset]
    return digest_of_folders(Path(data.folder), parts, suffixes, results)


def is_other(made_of: Any, digest: str | None) -> bool:
    """Whether two digests say that the files differ; what is not known differs from nothing."""
    return is_of_files(made_of) and is_of_files(digest) and made_of != digest


def is_of_files(digest: Any) -> bool:
    """Whether it is the digest of files that may change; what a record holds may be anything."""
    return isinstance(digest, str) and digest.startswith(MARK)


@functools.cache
def digest_of_folders(
    root: Path,
    parts: tuple[str, ...],
    suffixes: tuple[str, ...],
    results: str | Path,
) -> str | None:
    """The digest of the files of some endings in folders below ``root``.

    What systems leave in folders counts for nothing. None where one of the folders is not there.
    It is taken once in a process, as the hashes of sources are: all jobs of a plan are held to one
    state of the data, and a folder is walked through once for all of them.
    """
    folders = [root / part for part in parts]
    if not all(folder.is_dir() for folder in folders):
        return None
    key = os.fsencode(f"{root.resolve()}\0{parts}\0{suffixes}")
    memory = Path(results) / ".data" / f"{hashlib.sha256(key).hexdigest()[:16]}.json"
    known = _read(memory)
    if known.folders and all(_stamp(path) == stamp for path, stamp in known.folders.items()):
        return known.digest
    new = _look_at(root, [str(folder) for folder in folders], suffixes, known)
    if new != known:
        with suppress(OSError):  # of results that may only be read: then all is read each time
            write_text(memory, json.dumps(vars(new)))
    return new.digest


# ---- what is remembered ----------------------------------------------------------------------


@dataclass
class Known:
    """What was found of a data set.

    Attributes:
        files: the stamp of every file whose bytes were read, and their SHA-256.
        folders: of very many files, the stamps of the folders that they stand in.
    """

    digest: str = ""
    files: dict[str, list] = field(default_factory=dict)
    folders: dict[str, Stamp] = field(default_factory=dict)


def _read(memory: Path) -> Known:
    """What is remembered; nothing where that is damaged."""
    try:
        return Known(**json.loads(memory.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return Known()


def _stamp(path: str) -> Stamp | None:
    """None where there is no such file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


# ---- what is found ---------------------------------------------------------------------------


def _look_at(root: Path, folders: list[str], suffixes: tuple[str, ...], known: Known) -> Known:
    settled = time.time_ns() - SETTLED_SECONDS * 10**9
    found = [entry for folder in folders for entry in walk(folder, suffixes)]
    # Folders before their files: what is put in meanwhile changes their times.
    folder_stamps = {folder: _stamp(folder) for folder, _ in found}
    paths = [os.path.join(folder, name) for folder, names in found for name in names]
    stamps = {path: stamp for path in sorted(paths) if (stamp := _stamp(path))}
    hashes: dict[str, str] = {}
    if len(stamps) <= MOST_FILES and sum(size for size, _, _ in stamps.values()) <= MOST_BYTES:
        hashes = _hashes(stamps, known.files, root)
    digest, prefix = hashlib.sha256(), os.path.join(root, "")
    for path, (size, _, _) in stamps.items():
        line = f"{path.removeprefix(prefix)}\0{size}\0{hashes.get(path, '')}\n"
        digest.update(os.fsencode(line))
    is_large = len(stamps) > MOST_FILES and all(
        stamp and max(stamp[1:]) < settled for stamp in folder_stamps.values()
    )
    return Known(
        digest=MARK + digest.hexdigest(),
        files={
            path: [stamps[path], found]
            for path, found in hashes.items()
            if max(stamps[path][1:]) < settled
        },
        folders=folder_stamps if is_large else {},
    )


def _hashes(stamps: dict[str, Stamp], known: dict[str, list], root: Path) -> dict[str, str]:
    """The SHA-256 of every file, read where its stamp is not the one that is known."""
    hashes = {
        path: known[path][1]
        for path, stamp in stamps.items()
        if path in known and known[path][0] == stamp
    }
    unread = [path for path in stamps if path not in hashes]
    size = sum(stamps[path][0] for path in unread)
    if size > LONG_BYTES:
        print(f"reading {len(unread)} files of {root} once, {size >> 20} MiB", file=sys.stderr)
    for path in unread:
        with suppress(OSError):  # whoever opens the data says so
            hashes[path] = sha256(Path(path))
    return hashes
