"""The one error that a user can cause, how several are told at once, and how it ends a process."""

import errno
import os
import re
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOT_THE_USERS = (
    *(ROOT / package for package in ("manifold", "baselines", "benchmarks")),
    *(Path(sysconfig.get_path(key)).resolve() for key in ("stdlib", "purelib", "platlib")),
)
MARK = "error: "  # what the last words of a process begin with
OF_OTHERS = re.compile(r"\n(?:Traceback |[EWI]\d{4} |=+\n)|\n\n")  # Python's, torchrun's, a shell's
NO_SPACE = "No space left"
LEAST_BYTES = 2**16  # that the log of a job may need
SHOWN_FAULTS = 20


class UserError(ValueError):
    """Input that cannot be run; the message names the culprit and the cure."""


def told(error: BaseException) -> str:
    """An error that is not this project's in few words: its kind, and the user's line, if any."""
    words = f"{type(error).__name__}: {error}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename).resolve()
        if path.is_file() and not any(path.is_relative_to(folder) for folder in NOT_THE_USERS):
            return f"{words} ({frame.filename}, line {frame.lineno})"
    return words


class Faults:
    """Collects what is wrong, so that a user learns all of it at once."""

    def __init__(self):
        self.found: list[str] = []

    def add(self, fault: str) -> None:
        """Keep a fault; the same one is kept once."""
        if fault not in self.found:
            self.found.append(fault)

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Keep a user's error that ends the block, and go on behind it."""
        try:
            yield
        except UserError as error:
            self.add(str(error))

    def error(self) -> UserError:
        """All faults as one error, the first of very many; one alone stands as it is."""
        if len(self.found) == 1:
            return UserError(self.found[0])
        lines = [fault.replace("\n", "\n  ") for fault in self.found[:SHOWN_FAULTS]]
        if more := len(self.found) - len(lines):
            lines.append(f"and {more} more")
        return UserError("\n- ".join([f"{len(self.found)} things are wrong:", *lines]))

    def raise_any(self) -> None:
        """Raise ``error`` where there is a fault."""
        if self.found:
            raise self.error()


@contextmanager
def ending_the_process() -> Iterator[None]:
    """Let an error end the process with its message as the last words.

    Of what is no user's error, and no full disk, the traceback stands above them.

    Also a decorator of functions.
    """
    try:
        yield
    except UserError as error:
        raise SystemExit(f"{MARK}{error}") from None
    except Exception as error:
        if not is_of_a_full_disk(error):
            traceback.print_exc()
            raise SystemExit(f"{MARK}{told(error)}") from None
        raise SystemExit(f"{MARK}{no_space(getattr(error, 'filename', None))}") from None


def last_error(log: str) -> str | None:
    """The user's error that a process ended with, from what it said; None where there is none."""
    _, mark, rest = f"\n{log}".rpartition(f"\n{MARK}")
    return MARK + OF_OTHERS.split(rest)[0].rstrip() if mark else None


# ---- full disks ------------------------------------------------------------------------------


def is_of_a_full_disk(error: BaseException | None) -> bool:
    """Whether an error, or what led to it, is that there is no space left: libraries wrap it."""
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or NO_SPACE in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def telling_of_a_full_disk(path: Path) -> Iterator[None]:
    """Name the folder that a library writes to, where it finds no space and does not say where.

    Raises:
        UserError: the disk is full.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if is_of_a_full_disk(error):
            raise UserError(no_space(path)) from error
        raise


def full_disk(folder: Path) -> str | None:
    """What is told where the disk of a folder has no room for a log; None where it has.

    A job that found no space there may have had none for its own words.
    """
    if not folder.is_dir():
        return None
    status = os.statvfs(folder)
    is_full = status.f_blocks and status.f_bavail * status.f_frsize < LEAST_BYTES
    return no_space(folder) if is_full else None


def no_space(path: Path | str | None) -> str:
    """What a user is told of a full disk, in one line."""
    where = "" if path is None else f"{path}: "
    return (
        f"{where}{NO_SPACE} on the disk; free some, and give the command again: what is finished "
        "stays"
    )
