"""Writing files so that a kill at any moment leaves the old one or the new one, never a half.

A file is written under a name of the process's own beside its place, then renamed: two processes
that write the same file do not meet. What a process leaves there is removed if the write fails,
or, where it was killed, by the next one that writes the file.
"""

import csv
import glob
import hashlib
import io
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from manifold.errors import UserError, is_of_a_full_disk, no_space

HOST = re.sub(r"\W", "_", socket.gethostname())


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a file beside ``path``, then rename it into place.

    Raises:
        UserError: the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _aside(path) as partial:
        write(partial)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)


def write_text(path: Path, text: str) -> None:
    write_atomic(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def read_text(path: Path) -> str:
    """The text of a file that may be the user's: UTF-8, with a byte-order mark or without.

    Raises:
        UserError: it is in another encoding.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error}); save it in that encoding") from None


def write_directory(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a folder beside ``path``, then put it in the place of what is there.

    A kill leaves the old folder, the new one, or none; never a half.

    Raises:
        UserError: the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _aside(path) as partial:
        partial.mkdir()
        write(partial)
        if path.exists():
            os.replace(path, _beside(path, "old"))
        os.replace(partial, path)
        _remove(_beside(path, "old"))


def link(source: Path, target: Path) -> None:
    """Make ``target`` the same file, in one step; a copy where the file system has no links."""
    with _aside(target) as partial:
        try:
            os.link(source, partial)
        except OSError:
            shutil.copy2(source, partial)
        os.replace(partial, target)
        _remove(partial)  # renaming a file to another of its names leaves both


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """A name for what is to be ``path``; nothing stays under it where the block fails."""
    _remove_leftovers(path)
    partial = _beside(path, "partial")
    try:
        yield partial
    except BaseException as error:
        is_full = is_of_a_full_disk(error) or shutil.disk_usage(path.parent).free == 0
        _remove(partial)
        if is_full and isinstance(error, Exception):
            raise UserError(no_space(path)) from error
        raise


def _beside(path: Path, kind: str) -> Path:
    """A hidden name of this process's own."""
    return path.with_name(f".{path.name}.{HOST}-{os.getpid()}.{kind}")


def _remove_leftovers(path: Path) -> None:
    """Remove what processes of this machine that are gone have left of a file or folder."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.{HOST}-*.*"):
        found = re.fullmatch(r".*-(\d+)\.(partial|old)", leftover.name)
        if found and not _is_of_another_alive(int(found[1])):
            _remove(leftover)


def _is_of_another_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return process != os.getpid()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def csv_text(rows: list[dict[str, Any]]) -> str:
    """Rows of the same keys as CSV, with a header; None is an empty field, a float all its digits.

    The text is what pandas writes, which takes longer to import than a short training needs.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
